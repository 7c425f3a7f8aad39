"""What the verbs share: arguments, JSON, the problems of mounts and exporters."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from meshctl.sources import NOT_ALLOWED, Answer
from meshfs import __version__
from meshfs.telemetry import problems
from meshfs.telemetry.documents import STATUS_VERSION
from meshfs.telemetry.problems import Problem, Severity
from meshfs.telemetry.records import StatusRecord

#: Codes that concern each verb that shows only a part; `status` shows them all.
DISK_CODES: Final = ("not-allowed", "mount-", "version-", "exporter-", "disk-")
PATH_CODES: Final = (*DISK_CODES, "path-", "io-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", nargs="*", type=Path, help="which mounts; without, all there are")
    parser.add_argument("--json", action="store_true", help="for programs: exact figures as JSON")


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the answer as it was given, with its source and what went wrong."""
    shown: dict[str, Any] = {"source": answer.source, **answer.fields.raw}
    return {**shown, "error": answer.error} if answer.error else shown


def print_json(shown: dict[str, Any], found: Sequence[Problem]) -> None:
    head = {"version": 1, "ok": not exit_status(found), "problems": [problem.as_json() for problem in found]}
    print(json.dumps({**head, **shown}, indent=2))


def print_blocks(blocks: Sequence[str], found: Sequence[Problem]) -> None:
    """Print tables to standard output, and what is wrong to standard error, where a script's user sees it."""
    print("\n\n".join(blocks))
    sys.stdout.flush()
    for problem in found:
        note = "note: " if problem.severity is Severity.NOTE else ""
        print(f"meshctl: {note}{problem.line}", file=sys.stderr)


def exit_status(found: Iterable[Problem]) -> int:
    """Return 1 when something is not well; a note alone is 0."""
    return int(any(problem.counts for problem in found))


def about(found: Iterable[Problem], codes: tuple[str, ...]) -> list[Problem]:
    return [problem for problem in found if problem.code.startswith(codes)]


def mount_problems(answer: Answer) -> list[Problem]:
    """Return everything at a mount that is not as it should be."""
    who = f"mount {answer.source}"
    if answer.error:
        return [no_answer(who, answer)]
    raw = answer.fields.raw
    found = problems.merged(problems.mount_problems(raw), problems.published(raw))
    return [*version_problems(who, answer), *found]


def exporter_problems(answer: Answer, *, asked_for: bool = True) -> list[Problem]:
    """Return the same of an exporter. That only root may ask it is a fault only where the user ``asked_for`` it."""
    who = f"exporter {answer.source}"
    if answer.error:
        problem = no_answer(who, answer)
        return [problem if asked_for or answer.code != NOT_ALLOWED else replace(problem, severity=Severity.NOTE)]
    raw = answer.fields.raw
    found = problems.merged(problems.exporter_problems(raw), problems.published(raw))
    return [*version_problems(who, answer), *found]


def no_answer(who: str, answer: Answer) -> Problem:
    return Problem(answer.code, Severity.ERROR, who, answer.error)


def version_problems(who: str, answer: Answer) -> list[Problem]:
    """Return a problem where this meshctl may misread the answer, so that nothing misread is called well."""
    status = answer.read(StatusRecord)
    version, program = status.version, status.program
    if version != STATUS_VERSION:
        found = "no version" if version is None else f"version {version}"
        text = f"its status has {found}, expected {STATUS_VERSION}; use the meshctl of its installation"
        return [Problem("version-unknown", Severity.ERROR, who, text)]
    if program not in ("", __version__):
        text = f"it runs meshfs {program} and this is meshctl {__version__}; restart it if it was upgraded"
        return [Problem("version-differs", Severity.WARNING, who, text)]
    return []
