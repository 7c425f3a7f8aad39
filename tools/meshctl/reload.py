"""meshctl reload makes mounts read their config again, as SIGHUP does, and shows what changed or was refused."""

import argparse
from functools import partial
from pathlib import Path

from meshctl import output, table
from meshctl.sources import NO_MOUNT, Answer, answer_of, mount_points
from meshctl.subparsers import Subparsers
from meshfs.errors import ConfigError
from meshfs.mount.remount import ask_reload
from meshfs.telemetry.mount_records import ReloadRecord
from meshfs.telemetry.problems import Problem, Severity

_EPILOG = """\
Nodes, their addresses, keys, [multichannel] and io_timeout_s change while the mesh is mounted, and I/O in flight
goes on. The cluster's name and security cannot change while it is mounted. If the config changes them, the exit status
is 1. To make an exporter read its config again, run: systemctl reload meshfsd@NODE
"""


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("reload", help="make mounts read their config again", epilog=_EPILOG)
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    points: list[Path] = arguments.mountpoint or mount_points()
    if not points:
        raise ConfigError(NO_MOUNT)
    answers = [answer_of(str(point), partial(ask_reload, point)) for point in points]
    found = [problem for answer in answers for problem in problems(answer)]
    if arguments.json:
        output.print_json({"mounts": [output.as_json(answer) for answer in answers]}, found)
    else:
        output.print_blocks([line(answer) for answer in answers], found)
    return output.exit_status(found)


def problems(answer: Answer) -> list[Problem]:
    who = f"mount {answer.source}"
    if answer.error:
        return [output.no_answer(who, answer)]
    outcome = answer.read(ReloadRecord)
    found = [Problem("reload-refused", Severity.ERROR, who, text) for text in outcome.refused]
    failed = Problem("reload-failed", Severity.ERROR, who, f"nothing changed: {outcome.failure}")
    return [failed] if outcome.failure else found


def line(answer: Answer) -> str:
    outcome = answer.read(ReloadRecord)
    changed = "; ".join(outcome.changed) or "nothing new"
    what = "not reloaded" if answer.error or outcome.failure else f"reloaded: {changed}"
    return table.printable(f"mount {answer.source}: {what}")
