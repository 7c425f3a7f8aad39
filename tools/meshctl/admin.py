"""meshctl suspend, drain and resume take disks of this machine out of service for a while, and back.

The exporter answers each verb at once, and works on it. So the verbs ask for the progress until nothing is at the
device any more, for SETTLE_WAIT_S at most.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Final

from meshctl import output, table
from meshctl.flows import add_exporter_arguments
from meshctl.flows_set import one_exporter
from meshctl.sources import Answer, LocalExporter
from meshctl.subparsers import Subparsers
from meshfs.limits import SETTLE_POLL_S, SETTLE_WAIT_S, SUSPEND_MAX_S, SUSPEND_S
from meshfs.telemetry.exporter_records import AdminRecord
from meshfs.telemetry.problems import Problem, Severity

_COLUMNS: Final = ("DISK", "STATE", "QUEUED", "FLYING", "FLUSHED", "ENDS IN", "WHY")
_SUSPEND_EPILOG = """\
Nothing is sent to the device from now on, and I/O waits: at every node, each call at most for the io_timeout of its
mount (30 s by default), and then it gets ETIMEDOUT. Requests at the device end first, and all writes are flushed. When
the command returns 0, the device may be unplugged, moved and plugged in again. If the same device comes back, "meshctl
resume" sends what waited. All mounts show the state "suspended" meanwhile. A reload of the config keeps the suspension.
It ends after --for, and when meshfsd stops. A second command sets the time again.

To move a disk to another node, drain it instead.
"""
_DRAIN_EPILOG = """\
Opens are refused from now on, with ENXIO at mounts. The requests that are under way are done, then the open files are
cut off, all writes are flushed, and the device is closed. No write is lost. When the command returns 0, the device may
be removed or used by this machine. All mounts show the state "drained". A call of a file that is still open waits for
the io_timeout of its mount, counted from the drain, and later calls fail at once with ETIMEDOUT. "meshctl resume" has
the device opened again, and files that are still open can be used again.

Without DISK, all disks of the exporter are drained, also disks that are added later. Do that before maintenance of the
node. A drain ends when meshfsd stops. To keep a disk out, take it out of the config. meshfsd also drains all its disks
when it is stopped (SIGTERM), so that mounts show "drained" and not a failure.
"""
_RESUME_EPILOG = """\
End what "meshctl suspend" or "meshctl drain" began: of one disk, or without DISK of the whole exporter. A disk that is
served already stays as it is. The exit status is 1 if the device is not there.
"""


def add_parser(verbs: Subparsers) -> None:
    parser = _verb(verbs, "suspend", "let the I/O of a disk wait, for example to move the disk", _SUSPEND_EPILOG)
    parser.add_argument("disk", metavar="DISK", help="the disk's NAME, NODE/NAME or id")
    parser.add_argument(
        "--for",
        dest="for_s",
        type=seconds,
        default=SUSPEND_S,
        metavar="S",
        help="resume by itself after S seconds (default: %(default)g)",
    )
    parser.set_defaults(run=run_suspend)
    for name, what, epilog, run in (
        ("drain", "take a disk, or all disks of this node, out of service", _DRAIN_EPILOG, run_drain),
        ("resume", "serve a suspended or drained disk again", _RESUME_EPILOG, run_resume),
    ):
        parser = _verb(verbs, name, what, epilog)
        parser.add_argument(
            "disk", metavar="DISK", nargs="?", help="the disk's NAME, NODE/NAME or id (default: all of the exporter)"
        )
        parser.set_defaults(run=run)


def _verb(verbs: Subparsers, name: str, what: str, epilog: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_exporter_arguments(parser)
    output.add_json(parser)
    return parser


def seconds(text: str) -> float:
    """Parse the time of a suspension. Raises ArgumentTypeError."""
    value = float(text)
    if not 0 < value <= SUSPEND_MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {SUSPEND_MAX_S:g}")
    return value


def run_suspend(arguments: argparse.Namespace) -> int:
    return _run(arguments, {"verb": "suspend", "for_s": arguments.for_s}, "suspended", "suspended")


def run_drain(arguments: argparse.Namespace) -> int:
    return _run(arguments, {"verb": "drain"}, "drained", "drained")


def run_resume(arguments: argparse.Namespace) -> int:
    return _run(arguments, {"verb": "resume"}, "serving", "ok")


def _run(arguments: argparse.Namespace, request: dict[str, object], admin: str, state: str) -> int:
    node, _, name = (arguments.disk or "").rpartition("/")
    exporter = one_exporter(arguments, node)
    chosen = {"disk": name} if name else {}
    answer = settled(exporter, exporter.ask({**request, **chosen}), chosen)
    found = problems(answer, admin, state)
    if arguments.json:
        output.print_json({"exporters": [output.as_json(answer)]}, found)
    else:
        output.print_blocks([] if answer.error else [text(answer)], found)
    return output.exit_status(found)


def settled(exporter: LocalExporter, answer: Answer, chosen: dict[str, str]) -> Answer:
    """Ask for the progress until the chosen disks are settled, but not for longer than SETTLE_WAIT_S."""
    deadline = time.monotonic() + SETTLE_WAIT_S
    while not answer.error and not all(disk.settled for disk in answer.read(AdminRecord).disks):
        if time.monotonic() >= deadline:
            break
        time.sleep(SETTLE_POLL_S)
        answer = exporter.ask({"verb": "admin", **chosen})
    return answer


def problems(answer: Answer, admin: str, state: str) -> list[Problem]:
    """Return what is not as the verb wants it: each disk in the state ``admin``, and announced in ``state``."""
    who = f"exporter {answer.source}"
    if answer.error:
        return [output.no_answer(who, answer)]
    record = answer.read(AdminRecord)
    found = output.version_problems(who, answer)
    for disk in record.disks:
        subject = f"disk {record.node}/{disk.name}"
        if not disk.settled:
            flying = (
                f"{table.count(disk.in_flight)} requests are still at the device, and {table.count(disk.queued)} wait"
            )
            text = f"after {SETTLE_WAIT_S:g} s, {flying}; the exporter goes on with it, look at meshctl status"
            found.append(Problem("disk-unsettled", Severity.ERROR, subject, text))
        elif disk.admin != admin or disk.state != state:
            found.append(Problem("disk-not-as-wanted", Severity.ERROR, subject, f"it is {disk.state} ({disk.why})"))
        elif admin != "serving" and not disk.flushed:
            text = "its last writes may not be on stable storage, because the device was away or the flush failed"
            found.append(Problem("disk-not-flushed", Severity.ERROR, subject, text))
    return found


def text(answer: Answer) -> str:
    record = answer.read(AdminRecord)
    head = f"node {table.printable(record.node)}" + (" is drained" if record.drained else "")
    rows: Sequence[list[str]] = [
        [
            disk.name,
            disk.state,
            table.count(disk.queued),
            table.count(disk.in_flight),
            "" if disk.admin == "serving" else "yes" if disk.flushed else "no",
            "" if disk.ends_in_s is None else table.duration(disk.ends_in_s),
            disk.why,
        ]
        for disk in record.disks
    ]
    return head + "\n" + table.render(_COLUMNS, rows, right=("QUEUED", "FLYING", "ENDS IN"))
