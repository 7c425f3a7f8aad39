"""Serve the enclosures of a node: SES devices, folders of images, and the bays of all other disks.

    configure    takes over a config, and finds the SES devices and the images
    place        decides in which slot each disk is, before the disks are served
    renew        advertises what has changed: states of disks, slots, lamps
    run          makes the calls of the enclosures, reads SES devices from time to time, and follows the folders

Each enclosure has a thread of its own, with a time limit (enclosure_calls.py). `renew` only compares facts that are in
memory, so a disk that comes or goes costs no I/O at the other disks.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from meshfs import limits
from meshfs.cluster.config_enclosures import BAYS, EnclosureRights, enclosure_id
from meshfs.cluster.config_nodes import DiskConfig, NodeConfig, disk_id
from meshfs.disk.discovery.selection import DiskVerdict
from meshfs.enclosure.base import Enclosure, EnclosureReading
from meshfs.enclosure.bays import Place, Wish, assign
from meshfs.enclosure.virtual import Occupant, VirtualEnclosure, VirtualIdentity
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, EnclosureState, SlotInfo
from meshfs.errors import TookTooLong
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.loop.bounded import Bounded
from meshfs.model import Access, DiskState
from meshfsd.disks import Disks
from meshfsd.enclosure_calls import EnclosureCalls
from meshfsd.folders import Folders
from meshfsd.served import DiskPlace, ServedDisk
from meshfsd.ses_finder import MatchedReading, SesEnclosure, SesFinder

logger = logging.getLogger(__name__)

#: The states of a disk without a device or image.
_AWAY: frozenset[DiskState] = frozenset((DiskState.GONE, DiskState.MISSING))


@dataclass(eq=False)
class _Kept:
    """Keeps one enclosure. ``offered`` is None until it is first advertised.

    reading    what the last reading said, or the state after a reading that failed; unused for virtual enclosures
    disks      the kernel's names of the disks in the slots, by the slot's name
    """

    enclosure: Enclosure
    rights: EnclosureRights
    calls: EnclosureCalls
    offered: OfferedEnclosure | None = None
    reading: EnclosureInfo | None = None
    disks: Mapping[str, Sequence[str]] = field(default_factory=dict)


class NodeEnclosures:
    """Holds all enclosures of the node. ``on_images`` is called when the images in its folders have changed."""

    def __init__(
        self,
        exporter: Exporter,
        disks: Disks,
        state_folder: Path,
        verdicts: Callable[[], Sequence[DiskVerdict]],
        on_images: Callable[[], None],
        finder: SesFinder | None = None,
    ) -> None:
        """``verdicts`` returns the last result of the discovery of disks, for the disks in slots of SES devices."""
        self.folders = Folders(on_images)
        self._exporter = exporter
        self._disks = disks
        self._state_folder = state_folder
        self._verdicts = verdicts
        self._finder = finder or SesFinder(exporter.name)
        self._rights: EnclosureRights | None = None
        self._bays = self._virtual(BAYS, EnclosureKind.VIRTUAL, 0)
        #: The disks for which bays were assigned last.
        self._in_bays: tuple[str, ...] = ()
        self._shelves: dict[str, VirtualEnclosure] = {}
        self._kept: dict[str, _Kept] = {}
        self._wanted: Sequence[DiskConfig] = ()
        #: Held while SES devices are looked for.
        self._finding = trio.Lock()
        self._look = trio.Event()
        self._stale = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- the config

    async def configure(self, node: NodeConfig) -> None:
        """Serve exactly the enclosures of the config. The images of its folders are known afterwards."""
        # `renew` may be called at each await, so the folders of disks are always known.
        for directory in node.directories:
            if directory.name not in self._shelves:
                shelf = self._virtual(directory.name, EnclosureKind.DIRECTORY, directory.slots)
                await self._load(shelf)
                self._shelves[directory.name] = shelf
        if node.enclosures is not None and BAYS not in self._kept:
            await self._load(self._bays)
        places = {name: shelf.places for name, shelf in self._shelves.items()}
        await self.folders.configure(node.directories, places, {disk.name for disk in node.disks})
        for name in [name for name in self._shelves if name not in self.folders]:
            del self._shelves[name]
            self._withdraw(name)
        for directory in node.directories:
            self._keep(self._shelves[directory.name], directory.rights)
        self._rights = node.enclosures
        await self._find()

    def _virtual(self, name: str, kind: EnclosureKind, slots: int) -> VirtualEnclosure:
        product, prefix = ("Folder of images", "slot") if kind is EnclosureKind.DIRECTORY else ("Bays", "bay")
        identity = VirtualIdentity(enclosure_id(self._exporter.name, name), name, kind, product, prefix)
        return VirtualEnclosure(identity, self._state_folder / f"{name}.enclosure.json", slots)

    async def _load(self, enclosure: VirtualEnclosure) -> None:
        """Read the record of the enclosure. The state folder may be on a file system that is stuck."""
        calls = Bounded(f"the record of enclosure {enclosure.name}")
        with suppress(TookTooLong):
            await calls.call(enclosure.load, timeout_s=limits.DISK_CALL_TIMEOUT_S)

    async def _find(self) -> None:
        """Serve exactly the SES devices of the machine, and the node's bays if it has none."""
        async with self._finding:
            self._keep_found(await self._finder.find() if self._rights is not None else ())

    def _keep_found(self, found: Sequence[SesEnclosure]) -> None:
        mine = {each.name: each for each in found}
        for name, kept in list(self._kept.items()):
            if kept.enclosure.kind is EnclosureKind.SES and mine.get(name) is not kept.enclosure:
                self._withdraw(name)
        rights = self._rights
        if rights is None or found:
            self._withdraw(BAYS)
        else:
            self._keep(self._bays, rights)
        for each in found:
            if rights is not None and each.name not in self._shelves:
                self._keep(each, rights).calls.poke()

    def _keep(self, enclosure: Enclosure, rights: EnclosureRights) -> _Kept:
        """Serve an enclosure, or take over its rights if it is served already."""
        kept = self._kept.get(enclosure.name)
        if kept is None:
            calls = EnclosureCalls(enclosure, lambda result: self._took(enclosure, result))
            kept = self._kept[enclosure.name] = _Kept(enclosure, rights, calls)
            if self._nursery is not None:
                self._nursery.start_soon(calls.run)
        elif kept.rights != rights:
            kept.rights = rights
            if kept.offered is not None:
                kept.offered.allow = rights.access_of
                self._exporter.enclosures.enforce(kept.offered)
        return kept

    def _withdraw(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        if kept.offered is not None:
            self._exporter.enclosures.withdraw(name, lambda _: None)
            logger.info("enclosure %s is no longer served", name)
        kept.calls.close()

    # --- slots of disks

    @property
    def images(self) -> list[DiskConfig]:
        """Return the disks that the folders have."""
        return [disk.config for disk in self.folders.disks]

    def place(self, wanted: Sequence[DiskConfig]) -> None:
        """Decide in which slots the disks are that are served now or next."""
        self._wanted = wanted
        places: dict[str, DiskPlace] = {}
        for disk in self.folders.disks:
            shelf = self._shelves[disk.folder]
            places[disk.config.name] = DiskPlace(shelf.id, shelf.slot_of(disk.place))
        names = self._kernel_names()
        for kept in self._kept.values():
            for slot, inside in kept.disks.items():
                for name in (names[each] for each in inside if each in names):
                    places.setdefault(name, DiskPlace(kept.enclosure.id, slot))
        if BAYS in self._kept:
            others = [config for config in wanted if config.name not in places]
            bays = self._assign_bays([self._id(config) for config in others])
            for config in others:
                if self._id(config) in bays:
                    places[config.name] = DiskPlace(self._bays.id, self._bays.slot_of(bays[self._id(config)]))
        self._disks.place({config.name: places.get(config.name, DiskPlace()) for config in wanted})

    def _id(self, config: DiskConfig) -> str:
        return config.id or disk_id(self._exporter.name, config.name)

    def _assign_bays(self, disks: Sequence[str]) -> Mapping[str, Place]:
        """Return the bays of the disks. A bay stays when its disk has left, as on a chassis."""
        if tuple(disks) == self._in_bays:
            places = self._bays.places
            self._arrange(self._bays, self._bays.slots, {disk: places[disk] for disk in disks if disk in places})
            return places
        self._in_bays = tuple(disks)
        before = self._bays.places
        most = max([len(disks), *(place.slot for place in before.values())], default=0)
        slots = min(most, limits.SLOTS_PER_ENCLOSURE_MAX)
        places = assign([Wish(disk) for disk in disks], before, slots)
        self._arrange(self._bays, slots, places)
        return places

    def _kernel_names(self) -> dict[str, str]:
        """Return the names of disks by the kernel's names of their devices."""
        names = {each.device.name: each.device.id for each in self._verdicts() if each.is_offered}
        for served in self._disks.served.values():
            if served.disk is not None and served.disk.facts.kernel_name:
                names[served.disk.facts.kernel_name] = served.name
        return names

    def _arrange(self, enclosure: VirtualEnclosure, slots: int, places: Mapping[str, Place], gone: str = "") -> None:
        by_id = {served.offered.info.id: served for served in self._disks.served.values()}
        occupants = {disk: _occupant(disk, by_id[disk]) for disk in places if disk in by_id}
        if enclosure.arrange(slots, places, occupants, gone) and enclosure.name in self._kept:
            self._kept[enclosure.name].calls.do(enclosure.save)

    # --- advertising

    def renew(self) -> None:
        """Advertise the enclosures as they are now, and the slots of the disks. Notify only of what has changed."""
        for name in [name for name in self._shelves if name in self.folders]:
            self._arrange(
                self._shelves[name], self.folders.slots(name), self.folders.places(name), self.folders.why(name)
            )
        self.place(self._wanted)
        whys = {each.device.name: each.why for each in self._verdicts()}
        names = self._kernel_names()
        for kept in self._kept.values():
            info = self._info(kept, names, whys)
            if info is not None:
                self._advertise(kept, info)

    def renew_soon(self) -> None:
        """Have `renew` called by `run`. Many calls before that cause only one."""
        self._stale.set()

    def look_soon(self) -> None:
        """Have `run` look for SES devices and read all of them, because a device has changed."""
        self._look.set()

    def _info(self, kept: _Kept, names: Mapping[str, str], whys: Mapping[str, str]) -> EnclosureInfo | None:
        """Return what is to be advertised of an enclosure, or None as long as nothing is known of it."""
        if isinstance(kept.enclosure, VirtualEnclosure):
            return kept.enclosure.info if kept.enclosure.slots else None
        if kept.reading is None:
            return None
        slots = tuple(self._slot(slot, kept.disks.get(slot.name, ()), names, whys) for slot in kept.reading.slots)
        return replace(kept.reading, slots=slots)

    def _slot(
        self, slot: SlotInfo, inside: Sequence[str], names: Mapping[str, str], whys: Mapping[str, str]
    ) -> SlotInfo:
        for kernel_name in inside:
            served = self._disks.served.get(names.get(kernel_name, ""))
            if served is not None:
                return replace(slot, disk=served.offered.info.id, why=served.offered.info.why)
        return replace(slot, why="; ".join(whys[each] for each in inside if whys.get(each)))

    def _advertise(self, kept: _Kept, info: EnclosureInfo) -> None:
        offered = kept.offered
        before = None if offered is None else offered.info
        changed_ns = 0 if before is None else before.changed_ns
        info = replace(info, node=self._exporter.name, access=kept.rights.access, changed_ns=changed_ns)
        if info == before:
            return
        info = replace(info, changed_ns=max(time.time_ns(), changed_ns + 1))
        _log(info, before)
        if offered is None:
            kept.offered = OfferedEnclosure(info, kept.calls, kept.rights.access_of)
            self._exporter.enclosures.add(kept.offered)
        else:
            offered.update(info)
            self._exporter.enclosures.modified(offered)

    def _took(self, enclosure: Enclosure, result: EnclosureReading | OSError) -> None:
        """Take over a reading, before its caller gets it.

        A call to a device that was removed may end when another device has the name already.
        """
        name = enclosure.name
        kept = self._kept.get(name)
        if kept is None or kept.enclosure is not enclosure:
            return
        before = kept.reading, kept.disks
        if isinstance(result, OSError):
            why = result.strerror or str(result)
            if isinstance(kept.enclosure, VirtualEnclosure):
                return
            known = kept.reading or EnclosureInfo(kept.enclosure.id, "", name, kept.enclosure.kind, Access.READ_WRITE)
            kept.reading = replace(known, state=EnclosureState.GONE, why=why)
        else:
            kept.reading = result.info
            if isinstance(result, MatchedReading):
                kept.disks = result.disks
        if (kept.reading, kept.disks) != before:
            self.renew()

    # --- while they are served

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for kept in self._kept.values():
                nursery.start_soon(kept.calls.run)
            nursery.start_soon(self.folders.run)
            nursery.start_soon(self._poll)
            nursery.start_soon(self._follow_devices)
            while True:
                await self._stale.wait()
                self._stale = trio.Event()
                self.renew()

    async def _poll(self) -> None:
        while True:
            await trio.sleep(limits.ENCLOSURE_POLL_S)
            for kept in self._kept.values():
                if kept.enclosure.kind is EnclosureKind.SES:
                    kept.calls.poll()

    async def _follow_devices(self) -> None:
        """Look for SES devices when a device has changed. Where the kernel reports nothing, look from time to time."""
        while True:
            hears = self._disks.hears_of_devices and not self._finder.missed
            with trio.move_on_after(math.inf if hears else limits.DISK_CHECK_S):
                await self._look.wait()
            self._look = trio.Event()
            if self._rights is not None:
                await self._find()
                self.renew()


def _occupant(disk: str, served: ServedDisk) -> Occupant:
    health = served.health
    return Occupant(disk, health.state not in _AWAY, health.state is DiskState.FAILING, served.offered.info.why)


def _log(info: EnclosureInfo, before: EnclosureInfo | None) -> None:
    """Log that an enclosure is served, or that its state has changed."""
    if before is not None and (before.state, before.why) == (info.state, info.why):
        return
    if info.state is EnclosureState.OK:
        logger.info("enclosure %s is ok: %d slots", info.name, len(info.slots))
    else:
        logger.warning("enclosure %s is %s: %s", info.name, info.state, info.why)
