"""meshctl discard discards a disk, or zeroes it, whole or in part, from any node that may write to it.

The mount does the work, in steps (`meshfs.mount.discarding`). Between two steps, meshctl shows how far the work is, and
can be interrupted. Before the first step, it refuses what an administrator would regret: to discard a disk that is open
in this mount, or that holds something that blkid recognises. It also asks. --force and --yes skip these checks.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from meshctl import output
from meshctl.progress import progress
from meshctl.sources import NO_MOUNT, NOT_ALLOWED, NoAnswer, answer_of, mount_points, read_control, read_mount
from meshctl.subparsers import Subparsers
from meshctl.table import printable, size
from meshctl.wait import target_of
from meshfs import limits
from meshfs.disk.discovery.signature import read_signature
from meshfs.errors import ConfigError, MeshfsError
from meshfs.granules import BYTES, Granules
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.mount_records import MountDiskRecord, MountRecord
from meshfs.telemetry.problems import Problem, Severity

_EPILOG = """\
Without --zero, the disk is only told that the data is not needed (TRIM). Whole granules inside the range are
discarded, and may then read as anything until they are written again. With --zero, exactly the range reads as zeros
afterwards, and blocks are freed where possible. What is done is on stable storage when the command ends. The work
belongs to class system, so applications go first. Ctrl-C ends the command after the present step.
"""
_SIZE: Final = re.compile(r"([0-9]+)([KMGTPE]?)(?:iB|B)?")
_UNITS: Final = "KMGTPE"
_WHO: Final = "the mount's process"


@dataclass(frozen=True)
class Clearing:
    """Holds what is to be done, and through which mount."""

    point: Path
    control: Path
    disk: MountDiskRecord
    start: int
    stop: int
    zero: bool
    timeout_s: float

    @property
    def verb(self) -> str:
        return "zero" if self.zero else "discard"

    @property
    def range_text(self) -> str:
        name = f"disk {printable(self.disk.id)} ({printable(self.disk.path(''))})"
        if (self.start, self.stop) == (0, self.disk.size_bytes):
            return f"all {size(self.stop)} of {name}"
        return f"{self.stop - self.start} bytes of {name}, from byte {self.start} on"


class _Refused(MeshfsError):
    """The work is refused, or has failed. The text says why, and what to do."""


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("discard", help="discard or zero a disk, whole or in part", epilog=_EPILOG)
    parser.add_argument("disk", metavar="DISK", help="the disk's id, NODE/NAME, or its path in a mount")
    parser.add_argument(
        "--offset",
        type=size_of,
        default=0,
        metavar="BYTES",
        help="begin here; K, M, G, T for powers of 1024 (default: the start)",
    )
    parser.add_argument(
        "--length", type=size_of, metavar="BYTES", help="clear this many bytes (default: up to the end)"
    )
    parser.add_argument("--zero", action="store_true", help="make the range read as zeros")
    parser.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
    parser.add_argument(
        "--force", action="store_true", help="clear the disk even if it is open in this mount, or holds a file system"
    )
    output.add_json(parser)
    parser.set_defaults(run=run)


def size_of(text: str) -> int:
    """Return the number of bytes that a text such as 4096 or 10G names."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in bytes, such as 4096 or 10G")
    return int(match[1]) << 10 * (_UNITS.find(match[2]) + 1 if match[2] else 0)


def run(arguments: argparse.Namespace) -> int:
    found: list[Problem] = []
    done, work = 0, None
    try:
        work = work_of(arguments)
        if not arguments.force:
            check_harmless(work)
        if not arguments.yes:
            confirm(work)
        with progress() as shown:
            while done < work.stop - work.start:
                done += step(work, done, force=arguments.force)
                whole = work.stop - work.start
                shown.show(done / whole, f"{size(done)} of {size(whole)}")
    except KeyboardInterrupt:
        if work is not None:
            print(f"meshctl: interrupted; {done} bytes are done, perhaps more", file=sys.stderr)
        raise
    except (_Refused, NoAnswer) as error:
        told = f"{error}; {done} bytes are done" if done else str(error)
        found = [Problem("discard-failed", Severity.ERROR, f"disk {arguments.disk}", told)]
    if arguments.json:
        shown_work = {} if work is None else {"disk": work.disk.id, "offset": work.start, "zero": work.zero}
        output.print_json({**shown_work, "done": done}, found)
    else:
        lines = [f"{work.verb}ed {work.range_text}"] if work is not None and not found else []
        output.print_blocks(lines, found)
    return output.exit_status(found)


def work_of(arguments: argparse.Namespace) -> Clearing:
    """Return what is to be done. Raises _Refused if it cannot be done, and ConfigError if it makes no sense."""
    point, mount, disk = _find(arguments.disk)
    if mount.is_partial:
        raise NoAnswer("only root and the user of the mount's process may discard", NOT_ALLOWED)
    if not mount.control:
        raise _Refused("the mount's process has no control socket; see its log")
    if not disk.present:
        raise _Refused(f"its owner {disk.node} is away")
    if disk.access != "rw":
        raise _Refused("this node may only read it (see access and nodes in the config of its owner)")
    offset, size_bytes = arguments.offset, disk.size_bytes or 0
    length = size_bytes - offset if arguments.length is None else arguments.length
    if length <= 0 or offset + length > size_bytes:
        raise ConfigError(f"disk {arguments.disk} has {size_bytes} bytes, so the range does not lie inside it")
    granules = BYTES
    if not arguments.zero:
        granules = Granules(disk.discard_granularity_bytes or 0, disk.discard_alignment_bytes or 0)
        if not granules:
            raise _Refused("its device or file system cannot discard; use --zero to write zeros")
    start, stop = granules.whole(offset, offset + length)
    if start == stop:
        raise ConfigError(f"the range has no whole granule of {granules.size_bytes} bytes; use --zero, which is exact")
    timeout_s = limits.DISCARD_STEP_S + 4 * (mount.io_timeout_s or limits.IO_TIMEOUT_S)
    return Clearing(point, Path(mount.control), disk, offset, offset + length, arguments.zero, timeout_s)


def _find(text: str) -> tuple[Path, MountRecord, MountDiskRecord]:
    """Return the mount that shows the disk, and the disk. Raises _Refused, ConfigError or NoAnswer."""
    target = target_of(text)
    points = [Path(target.point)] if target.point else mount_points()
    if not points:
        raise ConfigError(NO_MOUNT)
    answers = [(point, answer_of(str(point), partial(read_mount, point))) for point in points]
    failed = [f"mount {answer.source}: {answer.error}" for _, answer in answers if answer.error]
    found = [
        (point, mount, disk)
        for point, answer in answers
        for mount in [answer.read(MountRecord)]
        for disk in mount.disks
        if target.name in (disk.id, f"{disk.node}/{disk.name}")
    ]
    if len({disk.id for _, _, disk in found}) > 1:
        raise ConfigError(f"several meshes have a disk {text}; name it by its path in one of them")
    if not found:
        raise _Refused("; ".join([f"no mount shows the disk {printable(text)}", *failed]))
    return found[0]


def check_harmless(work: Clearing) -> None:
    """Raise _Refused if the disk is open in this mount, or if blkid recognises something on it or in the range.

    A range in the middle of a file system looks empty by itself.
    """
    if work.disk.opens:
        raise _Refused(f"it has {work.disk.opens} open files in {work.point}; close them, or use --force")
    path = work.point / "disk/by-id" / work.disk.id
    whole = (0, work.disk.size_bytes or 0)
    for start, stop in dict.fromkeys((whole, (work.start, work.stop))):
        try:
            signature = read_signature(path, start, stop - start)
        except MeshfsError as error:
            raise _Refused(f"nobody knows what it holds: {error}; use --force to {work.verb} it anyway") from error
        if kind := kind_of(signature):
            raise _Refused(f"it holds {kind}; use --force to {work.verb} it anyway")


def kind_of(signature: Mapping[str, str]) -> str:
    """Return what blkid has found, or "" if it has found nothing."""
    if signature.get("TYPE") == "ambivalent":
        return "several signatures that contradict each other (see wipefs)"
    kind, label = signature.get("TYPE", ""), signature.get("LABEL", "")
    if kind:
        return f"{printable(kind)}" + (f" with the label {printable(label)}" if label else "")
    table = signature.get("PTTYPE", "")
    return f"a partition table ({printable(table)})" if table else ""


def confirm(work: Clearing) -> None:
    """Ask the user. Raises _Refused if the answer is no, and ConfigError if nobody can be asked."""
    question = f"{work.verb.capitalize()} {work.range_text}? Its data is lost."
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on; use --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise _Refused("nothing was done, because the answer was not yes")


def step(work: Clearing, done: int, *, force: bool) -> int:
    """Ask the mount for the next step, and return how many bytes it has done. Raises _Refused or NoAnswer."""
    request = {
        "verb": "discard",
        "disk": work.disk.id,
        "offset": work.start + done,
        "length": work.stop - work.start - done,
        "zero": work.zero,
        "force": force,
    }
    answer: Fields = read_control(work.control, request, work.timeout_s, who=_WHO)
    count = answer.integer("done")
    if not count or count < 0:
        raise _Refused(f"{_WHO} gave an answer that makes no sense; see its log")
    return count
