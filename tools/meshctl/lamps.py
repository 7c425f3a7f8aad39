"""meshctl locate and meshctl fault switch the lamps of a slot, from any node that may control its enclosure.

    status of a mount --find_slot--> enclosure and slot     pages of the enclosure's file --control_page--> control page

The control page selects only that slot, and keeps its other bits. If the enclosure changes in between, the exporter
refuses the page (ESTALE), and everything is read again. Afterwards the pages are read until the lamp follows, because
an enclosure may ignore a request, or take a moment.
"""

import argparse
import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from meshctl import output
from meshctl.sources import Answer, NoAnswer, ask_mounts, within
from meshctl.subparsers import Subparsers
from meshfs.errors import EnclosurePageError, MeshfsError
from meshfs.limits import ENCLOSURE_FILE_MAX_BYTES, IO_TIMEOUT_S
from meshfs.ses.build import unbundle
from meshfs.ses.page import PageCode
from meshfs.ses.slots import EnclosurePages, EnclosureSlot, EnclosureView, read_slots
from meshfs.ses.status import Lamps, pack_control
from meshfs.telemetry.mount_records import MountEnclosureRecord, MountRecord, MountSlotRecord
from meshfs.telemetry.problems import Problem, Severity

#: A control page that was refused because the enclosure changed is made again this often.
_ATTEMPTS: Final = 5
#: The times after a control page at which the lamp is looked at, until it follows.
_LOOKS_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0)
_EPILOG = """\
DISK is the id of a disk, or NODE/NAME, and stands for the slot of that disk. A slot is named by the id of its
enclosure, or the enclosure's NODE/NAME, and by the slot's name or number: enc-n1-shelf/slot07, n1/shelf/7.
"meshctl enclosures --tree" shows them. The exit status is 0 only if the enclosure shows the lamp as wanted.
"""


class LampError(MeshfsError):
    """The lamp cannot be switched. The text says why, and what to do."""


@dataclass(frozen=True)
class SlotPath:
    """Names a slot in a mount: the enclosure's file, and the name of the slot."""

    enclosure: str
    slot: str
    file: Path
    timeout_s: float


def add_parser(verbs: Subparsers) -> None:
    for name, what in (
        ("locate", "switch the locate lamp of a disk or slot on or off"),
        ("fault", "switch the fault lamp of a disk or slot on or off"),
    ):
        parser = verbs.add_parser(name, help=what, epilog=_EPILOG)
        parser.add_argument("slot", metavar="DISK|ENCLOSURE/SLOT", help="the disk or the slot")
        parser.add_argument("to", choices=("on", "off"), help="what the lamp shall be")
        parser.add_argument("--mount", type=Path, action="append", default=[], help="the mount point (default: any)")
        output.add_json(parser)
        parser.set_defaults(run=run, lamp=name)


def run(arguments: argparse.Namespace) -> int:
    on = arguments.to == "on"
    wanted = Lamps(locate=on) if arguments.lamp == "locate" else Lamps(fault=on)
    found: list[Problem] = []
    shown: dict[str, object] = {}
    lines: list[str] = []
    try:
        path = slot_path(ask_mounts(arguments.mount), arguments.slot)
        shown = {"enclosure": path.enclosure, "slot": path.slot}
        switch(path, wanted)
        lines = [f"{arguments.lamp} lamp of slot {path.slot} of enclosure {path.enclosure} is {arguments.to}"]
    except (LampError, NoAnswer) as error:
        found = [Problem("lamp-failed", Severity.ERROR, f"{arguments.lamp} {arguments.slot}", str(error))]
    if arguments.json:
        output.print_json({**shown, arguments.lamp: on}, found)
    else:
        output.print_blocks(lines, found)
    return output.exit_status(found)


# --- finding the slot


def slot_path(mounts: Sequence[Answer], wanted: str) -> SlotPath:
    """Return the slot in the first mount that shows it. Raises LampError."""
    reasons: list[str] = []
    for answer in mounts:
        if answer.error:
            reasons.append(f"mount {answer.source}: {answer.error}")
            continue
        mount = answer.read(MountRecord)
        try:
            enclosure, slot = find_slot(mount, wanted)
        except LampError as error:
            reasons.append(str(error))
            continue
        if not enclosure.present:
            raise LampError(f"enclosure {enclosure.path} is away, because its owner {enclosure.node} is")
        file = Path(answer.source, "enclosure/by-id", enclosure.id)
        # The mount ends each call within its own bound.
        timeout_s = (mount.io_timeout_s or IO_TIMEOUT_S) + 5
        return SlotPath(enclosure.id, slot.name, file, timeout_s)
    raise LampError("; ".join(dict.fromkeys(reasons)))


def find_slot(mount: MountRecord, wanted: str) -> tuple[MountEnclosureRecord, MountSlotRecord]:
    """Return the slot that ``wanted`` names, by the disk in it, or by its enclosure and itself. Pure.

    Raises LampError.
    """
    disks = {disk.id for disk in mount.disks if wanted in (disk.id, disk.path(""))}
    in_slot = [
        (enclosure, slot) for enclosure in mount.enclosures for slot in enclosure.slots if slot.disk in disks and disks
    ]
    name, _, slot_name = wanted.rpartition("/")
    enclosures = [each for each in mount.enclosures if name in (each.id, each.path)]
    named = [(each, slot) for each in enclosures for slot in each.slots if _is_named(slot, slot_name)]
    found = [*in_slot, *named]
    if len(found) > 1:
        slots = ", ".join(f"{enclosure.id}/{slot.name}" for enclosure, slot in found)
        raise LampError(f"{wanted} may be several slots; name one of them: {slots}")
    if found:
        return found[0]
    if disks:
        raise LampError(f"disk {wanted} is in no slot that this mount knows; see `meshctl enclosures --tree`")
    if enclosures:
        known = ", ".join(slot.name for slot in enclosures[0].slots[:8]) or enclosures[0].why or "none"
        raise LampError(f"enclosure {name} has no slot {slot_name!r}; its slots begin with: {known}")
    raise LampError("there is no disk and no enclosure of that name; see `meshctl disks` and `meshctl enclosures`")


def _is_named(slot: MountSlotRecord, name: str) -> bool:
    return name == slot.name or (name.isdigit() and slot.number == int(name))


# --- the pages


def view_of(content: bytes) -> EnclosureView:
    """Return what the pages of an enclosure's file say. Pure. Raises LampError."""
    pages = unbundle(content)
    try:
        return read_slots(
            EnclosurePages(
                pages.get(PageCode.CONFIGURATION, b""),
                pages.get(PageCode.STATUS, b""),
                pages.get(PageCode.ELEMENT_DESCRIPTOR, b""),
                pages.get(PageCode.ADDITIONAL_STATUS, b""),
            )
        )
    except EnclosurePageError as error:
        raise LampError(f"the pages of the enclosure cannot be used: {error}") from error


def slot_of(view: EnclosureView, name: str) -> EnclosureSlot:
    """Return the slot of that name. Pure. Raises LampError if the enclosure has changed and has no such slot."""
    for slot in view.slots:
        if slot.name == name:
            return slot
    raise LampError(f"the enclosure has no slot {name} any more; see `meshctl enclosures --tree`")


def control_page(content: bytes, slot: str, wanted: Lamps) -> bytes:
    """Return the control page that switches the lamps of one slot. Pure. Raises LampError."""
    view = view_of(content)
    place = slot_of(view, slot).place
    return pack_control(view.configuration, view.elements, {place: wanted})


def follows(content: bytes, slot: str, wanted: Lamps) -> bool:
    """Return whether the pages show the lamps of the slot as they are wanted. Pure. Raises LampError."""
    element = slot_of(view_of(content), slot).element
    return wanted.locate in (None, element.identifies) and wanted.fault in (None, element.fault_requested)


# --- switching it


def switch(path: SlotPath, wanted: Lamps) -> None:
    """Switch the lamps, and return when the enclosure shows them as ``wanted``. Raises LampError and NoAnswer."""
    for attempt in range(_ATTEMPTS):
        page = control_page(_call(path, _read), path.slot, wanted)
        try:
            _call(path, partial(_write, page))
            break
        except _Changed as error:
            if attempt == _ATTEMPTS - 1:
                raise LampError("the enclosure changes again and again; try it again later") from error
    for wait_s in _LOOKS_S:
        time.sleep(wait_s)
        if follows(_call(path, _read), path.slot, wanted):
            return
    raise LampError("the enclosure accepted the control page, but its lamp did not follow; it may have no such lamp")


class _Changed(MeshfsError):
    """The enclosure has another generation than the control page."""


def _call(path: SlotPath, work: Callable[[Path], bytes]) -> bytes:
    try:
        return within(path.timeout_s, lambda: work(path.file))
    except OSError as error:
        raise _refusal(error) from error


def _refusal(error: OSError) -> MeshfsError:
    if error.errno == errno.ESTALE:
        return _Changed("the enclosure has changed")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        text = "only root and the group disk may switch lamps, from a node with access rw, in a mesh not mounted ro"
        return LampError(f"{error.strerror}: {text}")
    return LampError(error.strerror or str(error))


def _read(file: Path) -> bytes:
    with file.open("rb", buffering=0) as opened:
        content = bytearray()
        while (part := opened.read(1 << 16)) and len(content) <= ENCLOSURE_FILE_MAX_BYTES:
            content += part
    return bytes(content)


def _write(page: bytes, file: Path) -> bytes:
    """Write the page in one call, as a control page must be. Raises OSError."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, page)
    finally:
        os.close(fd)
    return b""
