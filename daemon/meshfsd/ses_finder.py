"""Find the SES devices of the machine, give each its id, and read which disks are in its slots.

SesFinder     looks at the machine. A device that is still there stays the same object
SesEnclosure  the enclosure of a SES device. Each reading also has the kernel's names of the disks in its slots
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from meshfs import limits
from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure.found import SesFound
from meshfs.enclosure.ids import SesIdentity, claimed_id, distinct_ids
from meshfs.enclosure.matching import occupants
from meshfs.enclosure.ses_device import SesDevice, SesReading
from meshfs.enclosure.sysfs import find_ses_devices, read_disk_ports, read_slot_links
from meshfs.enclosure_info import EnclosureKind
from meshfs.errors import TookTooLong
from meshfs.loop.bounded import Bounded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MatchedReading(EnclosureReading):
    """Holds a reading with the kernel's names of the disks ("sda") in each slot, by the slot's name."""

    disks: Mapping[str, Sequence[str]] = field(default_factory=dict)


class SesEnclosure:
    """Is the `Enclosure` of a SES device, whose readings also say which disks are in the slots."""

    kind = EnclosureKind.SES

    def __init__(self, found: SesFound, device: SesDevice) -> None:
        self.found = found
        self._device = device
        self._matched: tuple[SesReading, MatchedReading] | None = None

    @property
    def id(self) -> str:
        return self._device.id

    @property
    def name(self) -> str:
        return self._device.name

    def read(self) -> MatchedReading:
        return self._match(self._device.read())

    def poll(self) -> MatchedReading:
        """Return the present state. The disks in the slots are looked for only if a page changed.

        The kernel reports disks that appear and disappear, and then `read` is called.
        """
        reading = self._device.poll()
        if self._matched is not None and reading is self._matched[0]:
            return self._matched[1]
        return self._match(reading)

    def _match(self, reading: SesReading) -> MatchedReading:
        inside: Mapping[str, Sequence[str]] = {}
        if reading.view is not None:
            disks = read_disk_ports()
            inside = occupants(reading.view, disks, read_slot_links(self.found, disks))
        matched = MatchedReading(reading.content, reading.info, inside)
        self._matched = (reading, matched)
        return matched

    def control(self, page: bytes) -> None:
        self._device.control(page)

    def close(self) -> None:
        self._device.close()

    def remark(self, note: str) -> None:
        """Take over a remark for people, which the next reading contains."""
        self._device.note = note


class SesFinder:
    """Finds the SES devices of the machine for one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._listing = Bounded("the list of this machine's SES devices")
        self._probes: dict[str, Bounded] = {}
        self._kept: dict[str, SesEnclosure] = {}
        #: The logical ids of the devices' enclosures, by address. A malformed page gives none.
        self._logical_ids: dict[str, int | None] = {}
        self._logged: set[str] = set()
        #: True if another look is due without an event, because a device did not answer.
        self.missed = False

    async def find(self) -> Sequence[SesEnclosure]:
        """Return the enclosures of all SES devices. If they cannot be listed, the last result stays."""
        try:
            found = await self._listing.call(find_ses_devices, timeout_s=limits.DISCOVERY_TIMEOUT_S)
        except (OSError, TookTooLong) as error:
            logger.warning("SES devices are not looked for now, those found before stay: %s", error)
            self.missed = True
            return list(self._kept.values())
        self.missed = False
        there = {each.address for each in found}
        self._probes = {address: calls for address, calls in self._probes.items() if address in there or calls.stuck}
        asked: dict[SesFound, str | None] = {}

        async def ask(each: SesFound) -> None:
            asked[each] = await self._claim(each)

        async with trio.open_nursery() as nursery:
            for each in found:
                nursery.start_soon(ask, each)
        claims = [(each, claim) for each in found if (claim := asked[each]) is not None]
        held = {address: enclosure.id for address, enclosure in self._kept.items()}
        identities = distinct_ids(claims, held)
        kept = self._kept
        self._kept = {each.address: self._enclosure(each, identities[each.address], kept) for each, _ in claims}
        return list(self._kept.values())

    def _enclosure(self, found: SesFound, identity: SesIdentity, kept: Mapping[str, SesEnclosure]) -> SesEnclosure:
        """Return the enclosure of a device, which is the same object as before if the device is the same."""
        enclosure = kept.get(found.address)
        if enclosure is None or enclosure.found != found or enclosure.id != identity.id:
            assert found.path is not None
            enclosure = SesEnclosure(found, SesDevice(identity.id, found.path, self._logical_ids[found.address]))
        enclosure.remark(identity.note)
        return enclosure

    async def _claim(self, found: SesFound) -> str | None:
        """Return the id that a device claims, or None if the device cannot be asked."""
        if found.path is None:
            self._log(found, "it has no node /dev/sgN; load the kernel's module sg (modprobe sg)")
            return None
        known = self._kept.get(found.address)
        if known is None or known.found != found:
            try:
                self._logical_ids[found.address] = await self._logical_id(found, found.path)
            except (OSError, TookTooLong) as error:
                self._log(found, f"it does not answer: {error}")
                self.missed = True
                return None
        return claimed_id(found, self._logical_ids[found.address], self._node)

    async def _logical_id(self, found: SesFound, path: Path) -> int | None:
        """Return the logical id of the device's enclosure. Without the kernel's ses driver, the device is asked."""
        if found.logical_id is not None:
            return found.logical_id
        calls = self._probes.setdefault(found.address, Bounded(f"SES device {path}"))
        # The start of meshfsd waits for this call. A slow device is asked again soon.
        return await calls.call(_probe, path, timeout_s=limits.DISCOVERY_TIMEOUT_S)

    def _log(self, found: SesFound, why: str) -> None:
        line = f"SES device {found.path or found.address} is not offered: {why}"
        if line not in self._logged:
            self._logged.add(line)
            logger.warning("%s", line)


def _probe(path: Path) -> int | None:
    device = SesDevice("probe", path)
    try:
        view = device.read().view
        return None if view is None else view.configuration.primary.logical_id
    finally:
        device.close()
