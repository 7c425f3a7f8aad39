"""What the verbs share: arguments, JSON, the problems of a mount."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from meshctl.sources import STATUS_VERSION, Answer
from meshctl.table import printable

#: States of a channel that should be there; one that is not selected is idle.
_BROKEN_CHANNEL: Final = ("connecting", "down")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", nargs="*", type=Path, help="which mounts; without, all there are")
    parser.add_argument("--json", action="store_true", help="for programs: exact figures as JSON")


def as_json(answer: Answer) -> dict[str, Any]:
    """The answer as it was given, with where it came from and what went wrong."""
    shown: dict[str, Any] = {"source": answer.source, **answer.fields.raw}
    return {**shown, "error": answer.error} if answer.error else shown


def print_json(shown: dict[str, Any], problems: Sequence[str]) -> None:
    print(json.dumps({"version": 1, "ok": not problems, "problems": list(problems), **shown}, indent=2))


def print_blocks(blocks: Sequence[str], problems: Sequence[str]) -> None:
    """Tables on standard output; what is wrong on standard error, where a script's user sees it."""
    print("\n\n".join(blocks))
    sys.stdout.flush()
    for problem in problems:
        print(f"meshctl: {printable(problem)}", file=sys.stderr)


def version_problems(who: str, answer: Answer) -> list[str]:
    """Nothing is called well that this meshctl may have read wrong."""
    version = answer.fields.integer("version")
    if version == STATUS_VERSION:
        return []
    found = "no version" if version is None else f"version {version}"
    return [f"{who}: its status has {found}, expected {STATUS_VERSION}"]


def mount_problems(answer: Answer) -> list[str]:
    """Everything at a mount that is not as it should be."""
    if answer.error:
        return [f"mount {answer.source}: {answer.error}"]
    found = version_problems(f"mount {answer.source}", answer)
    for exporter in answer.fields.items("exporters"):
        state, why = exporter.text("state") or "unknown", exporter.text("why")
        if state != "connected":
            found.append(f"exporter {exporter.text('node')} is {state}" + (f": {why}" if why else ""))
    for disk in answer.fields.items("disks"):
        if not disk.flag("present"):
            found.append(f"disk {disk.text('id')} is away")
        elif disk.text("state") != "ok":
            found.append(f"disk {disk.text('id')} is {disk.text('state') or 'in an unknown state'}")
    return found


def channel_problems(answer: Answer) -> list[str]:
    """A channel that is not bound, of an exporter that is reached all the same."""
    found = []
    for exporter in answer.fields.items("exporters"):
        if exporter.text("state") != "connected":
            continue
        for channel in exporter.items("channels"):
            if channel.text("state") in _BROKEN_CHANNEL:
                why = f": {channel.text('why')}" if channel.text("why") else ""
                what = f"channel {channel.text('remote')} of exporter {exporter.text('node')}"
                found.append(f"{what} is {channel.text('state')}{why}")
    return found
