"""An enclosure without a SES device: the bays of a node, or a folder of images.

Its pages are made of what is known of its slots (`meshfs.ses.build`). A failing disk is a problem of its own, so
it does not make the enclosure faulty.

The lamps are only bits, which a control page sets, and which the status page shows. The lamps and the places of disks
are kept in the node's state folder, so that they are the same after a restart:

    STATE/NAME.enclosure.json    {"slots": {"7": {"disk": "image-...", "asked": 7, "locate": true, "fault": false}}}

The file is replaced as a whole, so a crash leaves the old or the new one. If it cannot be written, the lamps and places
last until the end of the process.
"""

import errno
import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from meshfs import limits
from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure.bays import Place, slot_name
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, EnclosureState, SlotInfo
from meshfs.errors import EnclosurePageError
from meshfs.model import Access
from meshfs.ses.build import Bay, bundle, supported_pages, virtual_pages
from meshfs.ses.configuration import Subenclosure, parse_configuration
from meshfs.ses.slots import EnclosurePages
from meshfs.ses.status import Lamps, parse_control

logger = logging.getLogger(__name__)

_VENDOR: Final = "MESHFS"
#: The vendor chooses the meaning of a revision. Here it is the version of the layout of the pages.
_REVISION: Final = "1"
#: A NAA identifier that is locally assigned has 3 in its first 4 bits (SPC-4 7.8.6.6.4).
_NAA_LOCAL: Final = 0x3 << 60
_RECORD_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Occupant:
    """Describes the disk in a slot. ``installed`` is False if the disk has no device or image now.

    ``why`` says why the disk is not served, or what is wrong with it.
    """

    disk: str
    installed: bool = True
    failing: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """Holds what is kept of a slot across restarts: its lamps, and the disk that was last in it."""

    disk: str = ""
    asked: int | None = None
    locate: bool = False
    fault: bool = False

    @property
    def is_empty(self) -> bool:
        return self == SlotRecord()


@dataclass(frozen=True, slots=True)
class _State:
    """Holds the slots of the enclosure, which are numbered from 1. It is replaced as a whole by either thread."""

    slots: int
    occupants: Mapping[int, Occupant] = field(default_factory=dict)
    records: Mapping[int, SlotRecord] = field(default_factory=dict)
    gone: str = ""


@dataclass(frozen=True, slots=True)
class VirtualIdentity:
    """Names a virtual enclosure. ``prefix`` is the beginning of the names of its slots."""

    id: str
    name: str
    kind: EnclosureKind
    product: str
    prefix: str


class VirtualEnclosure:
    """Serves one virtual enclosure. `arrange`, `places` and `info` never block; the other methods may."""

    def __init__(self, identity: VirtualIdentity, record: Path, slots: int) -> None:
        self._identity = identity
        self._record = record
        self._state = _State(slots)
        # The event loop and the thread of a control page both change the state.
        self._changing = threading.Lock()
        # Held while the record is written, so that an older one never replaces a newer one.
        self._writing = threading.Lock()
        self._complained = False
        # The last reading, with the state that it was made of.
        self._made: tuple[_State, EnclosureReading] | None = None

    @property
    def id(self) -> str:
        return self._identity.id

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def kind(self) -> EnclosureKind:
        return self._identity.kind

    # --- the slots

    @property
    def places(self) -> dict[str, Place]:
        """Return the slot in which each disk is, or was last, by the disk's id."""
        records = self._state.records
        return {each.disk: Place(slot, each.asked) for slot, each in records.items() if each.disk}

    @property
    def slots(self) -> int:
        return self._state.slots

    def slot_of(self, place: Place) -> str:
        """Return the name of the slot at the place."""
        return slot_name(self._identity.prefix, place.slot)

    def arrange(
        self, slots: int, places: Mapping[str, Place], occupants: Mapping[str, Occupant], gone: str = ""
    ) -> bool:
        """Put the disks into slots. ``places`` and ``occupants`` are by disk id. Return whether `save` has work to do.

        The record of a slot without an occupant keeps the last disk, unless that disk is in another slot now. If
        ``gone`` is not empty, it is the reason why the folder cannot be read.
        """
        by_slot = {place.slot: (disk, place.wish) for disk, place in places.items()}
        with self._changing:
            before = self._state
            records: dict[int, SlotRecord] = {}
            for slot in {*before.records, *by_slot}:
                record = before.records.get(slot, SlotRecord())
                if slot in by_slot:
                    disk, asked = by_slot[slot]
                    record = replace(record, disk=disk, asked=asked)
                elif record.disk in places:
                    record = replace(record, disk="", asked=None)
                if not record.is_empty:
                    records[slot] = record
            inside = {places[disk].slot: each for disk, each in occupants.items() if disk in places}
            now = _State(slots, inside, records, gone)
            if now != before:
                self._state = now
            return records != before.records

    # --- pages

    @property
    def info(self) -> EnclosureInfo:
        """Return what the pages say. Never blocks."""
        return self._reading(self._state).info

    def read(self) -> EnclosureReading:
        return self._reading(self._state)

    def poll(self) -> EnclosureReading:
        return self.read()

    def _reading(self, state: _State) -> EnclosureReading:
        made = self._made
        if made is None or made[0] is not state:
            made = self._made = state, self._make(state)
        return made[1]

    def _make(self, state: _State) -> EnclosureReading:
        content = bundle(supported_pages(), self._pages(state))
        info = EnclosureInfo(
            id=self.id,
            node="",
            name=self.name,
            kind=self.kind,
            access=Access.READ_WRITE,
            state=EnclosureState.GONE if state.gone else EnclosureState.OK,
            why=state.gone,
            vendor=_VENDOR,
            product=self._identity.product,
            revision=_REVISION,
            size_bytes=len(content),
            slots=tuple(self._slot(state, slot) for slot in range(1, state.slots + 1)),
        )
        return EnclosureReading(content, info)

    def _slot(self, state: _State, slot: int) -> SlotInfo:
        name = slot_name(self._identity.prefix, slot)
        record, occupant = state.records.get(slot, SlotRecord()), state.occupants.get(slot)
        if occupant is None:
            return SlotInfo(name, name, slot, "not-installed", record.locate, record.fault)
        status = "critical" if occupant.failing else "ok" if occupant.installed else "not-installed"
        return SlotInfo(name, name, slot, status, record.locate, record.fault, occupant.disk, occupant.why)

    def _pages(self, state: _State) -> EnclosurePages:
        bays = [self._bay(state, slot) for slot in range(1, state.slots + 1)]
        layout = json.dumps([(bay.name, bay.number) for bay in bays])
        generation = zlib.crc32(f"{self.id} {layout}".encode())
        digest = int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8], "big")
        identity = Subenclosure(0, _NAA_LOCAL | digest >> 4, _VENDOR, self._identity.product, _REVISION)
        return virtual_pages(identity, generation, bays)

    def _bay(self, state: _State, slot: int) -> Bay:
        record, occupant = state.records.get(slot, SlotRecord()), state.occupants.get(slot)
        installed = occupant is not None and occupant.installed
        failing = occupant is not None and occupant.failing
        name = slot_name(self._identity.prefix, slot)
        return Bay(name, slot & 0xFF, installed, record.locate, record.fault, failing)

    def control(self, page: bytes) -> None:
        with self._changing:
            state = self._state
            configuration = parse_configuration(self._pages(state).configuration)
            if len(page) >= 8 and int.from_bytes(page[4:8], "big") != configuration.generation:
                raise OSError(errno.ESTALE, "the slots of the enclosure have changed; read its pages again")
            try:
                selected = list(parse_control(page, configuration))
            except EnclosurePageError as error:
                raise OSError(errno.EINVAL, str(error)) from error
            places = [place for place in configuration.places() if not place.is_overall]
            numbers = {place: slot for slot, place in enumerate(places, 1)}
            records = dict(state.records)
            for place, lamps in selected:
                slot = numbers[place]
                record = _with_lamps(records.pop(slot, SlotRecord()), lamps)
                if not record.is_empty:
                    records[slot] = record
            self._state = replace(state, records=records)
        self.save()

    def close(self) -> None:
        """Do nothing, because no device is open."""

    # --- the record

    def load(self) -> None:
        """Take over the lamps and places of an earlier run. An invalid file is ignored, which is logged."""
        try:
            with self._record.open("rb") as file:
                records = _decode(file.read(_RECORD_MAX_BYTES))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning(
                "enclosure %s: its lamps are off, because %s cannot be used: %s", self.name, self._record, error
            )
            return
        with self._changing:
            self._state = replace(self._state, records=records)

    def save(self) -> None:
        """Keep the lamps and places. An error is logged, and changes nothing else."""
        with self._writing:
            try:
                _replace(self._record, _encode(self._state.records))
            except OSError as error:
                if not self._complained:
                    logger.warning(
                        "enclosure %s: its lamps are lost at the end of meshfsd, because %s cannot be written: %s",
                        self.name,
                        self._record,
                        error.strerror,
                    )
                self._complained = True
            else:
                self._complained = False


def _with_lamps(record: SlotRecord, lamps: Lamps) -> SlotRecord:
    locate = record.locate if lamps.locate is None else lamps.locate
    fault = record.fault if lamps.fault is None else lamps.fault
    return replace(record, locate=locate, fault=fault)


def _encode(records: Mapping[int, SlotRecord]) -> bytes:
    slots = {
        str(slot): {"disk": each.disk, "asked": each.asked, "locate": each.locate, "fault": each.fault}
        for slot, each in sorted(records.items())
    }
    return json.dumps({"slots": slots}).encode()


def _decode(data: bytes) -> dict[int, SlotRecord]:
    slots = json.loads(data)["slots"]
    records = {int(slot): _record_of(each) for slot, each in slots.items()}
    if not all(1 <= slot <= limits.SLOTS_PER_ENCLOSURE_MAX for slot in records):
        raise ValueError("the number of a slot is out of range")
    return records


def _record_of(kept: Mapping[str, object]) -> SlotRecord:
    disk, asked, locate, fault = kept["disk"], kept["asked"], kept["locate"], kept["fault"]
    if not isinstance(disk, str) or not isinstance(locate, bool) or not isinstance(fault, bool):
        raise ValueError("a value has another type than expected")
    if asked is not None and type(asked) is not int:
        raise ValueError("a value has another type than expected")
    return SlotRecord(disk, asked, locate, fault)


def _replace(path: Path, data: bytes) -> None:
    """Replace the file. After a crash, it has either the old or the new content."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        # On a full file system, os.write may write a part only, which must not replace the earlier record.
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
