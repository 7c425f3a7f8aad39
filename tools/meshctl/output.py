"""The common parts of the verbs: arguments, JSON, and the problems of mounts and exporters."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from meshctl.sources import NOT_ALLOWED, Answer
from meshfs import __version__
from meshfs.telemetry import problems
from meshfs.telemetry.documents import STATUS_VERSION
from meshfs.telemetry.problems import Problem, Severity
from meshfs.telemetry.records import StatusRecord

#: The problems that `disks` and `top` show, and below those of `paths`, by the beginning of their codes. `status` shows
#: all problems.
DISK_CODES: Final = ("not-allowed", "mount-", "version-", "exporter-", "disk-")
PATH_CODES: Final = (*DISK_CODES, "path-", "io-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", nargs="*", type=Path, help="the mount points (default: all of this machine)")
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON with exact figures, for programs")


def as_json(answer: Answer) -> dict[str, object]:
    """Return the answer's fields with its source, and with its error if there is one."""
    shown: dict[str, object] = {"source": answer.source, **answer.fields.raw}
    return {**shown, "error": answer.error} if answer.error else shown


def print_json(shown: Mapping[str, object], found: Sequence[Problem]) -> None:
    head = {"version": 1, "ok": not exit_status(found), "problems": [problem.as_json() for problem in found]}
    print(json.dumps({**head, **shown}, indent=2))


def print_blocks(blocks: Sequence[str], found: Sequence[Problem]) -> None:
    """Print tables to standard output, and problems to standard error.

    If a script redirects standard output, its user still sees the problems.
    """
    if blocks:
        print("\n\n".join(blocks))
    sys.stdout.flush()
    for problem in found:
        note = "note: " if problem.severity is Severity.NOTE else ""
        print(f"meshctl: {note}{problem.line}", file=sys.stderr)


def exit_status(found: Iterable[Problem]) -> int:
    """Return 1 if there is a problem other than notes, else 0."""
    return int(any(problem.counts for problem in found))


def about(found: Iterable[Problem], codes: tuple[str, ...]) -> list[Problem]:
    return [problem for problem in found if problem.code.startswith(codes)]


def mount_problems(answer: Answer) -> list[Problem]:
    """Return all problems of a mount."""
    who = f"mount {answer.source}"
    if answer.error:
        return [no_answer(who, answer)]
    raw = answer.fields.raw
    found = problems.merged(problems.mount_problems(raw), problems.published(raw))
    return [*version_problems(who, answer), *found]


def exporter_problems(answer: Answer, *, asked_for: bool = True) -> list[Problem]:
    """Return all problems of an exporter.

    If only root may ask the exporter, that is an error if the user ``asked_for`` the exporter, else a note.
    """
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
    """Return a problem if this meshctl may misread the answer, because a misread answer could hide a fault."""
    status = answer.read(StatusRecord)
    version, program = status.version, status.program
    if version != STATUS_VERSION:
        found = "no version" if version is None else f"version {version}"
        text = f"its status has {found}, expected {STATUS_VERSION}; use the meshctl that was installed with it"
        return [Problem("version-unknown", Severity.ERROR, who, text)]
    if program not in ("", __version__):
        text = f"it runs meshfs {program}, but this is meshctl {__version__}; restart it if meshfs was upgraded"
        return [Problem("version-differs", Severity.WARNING, who, text)]
    return []
