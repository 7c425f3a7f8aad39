"""Serve the configured disks of a node. Each disk has a keeper, and is offered at the exporter.

`check` finds mistakes in a config before any part of it is in force. `apply` then serves exactly the config's disks. A
start and a reload both do this. A fault of one disk does not affect the others: a disk that cannot be claimed is
offered as missing, and its keeper tries again.

    a mistake, refused by `check`       a path to a file that can never be a disk; two disks on the same device
    a state of the machine, accepted    a path that leads nowhere; a device that is empty, broken or in use
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.admin_state import Administration, AdminState
from meshfs.disk.base import Engine
from meshfs.disk.discovery.scan import DiskFacts, scan_disk
from meshfs.errors import ConfigError, DiskUnavailable, TookTooLong
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.linux.uevent import DeviceChanges, Devices, open_device_changes
from meshfs.loop.bounded import Bounded
from meshfs.model import DiskState
from meshfsd.calibration import Calibration, Learnt
from meshfsd.keeper import DiskKeeper
from meshfsd.served import ClaimedDevice, DiskPlace, ServedDisk, make_served

logger = logging.getLogger(__name__)

#: The facts of the devices or images at the disks' paths, by disk name. Disks that cannot be examined are left out.
Found = Mapping[str, DiskFacts]


class Disks:
    """Holds all disks of the node, by name. ``on_change`` is called when the state of a disk has changed."""

    def __init__(
        self,
        exporter: Exporter,
        engine: Engine,
        pool: BufferPool,
        calibration: Calibration,
        on_change: Callable[[], None] = lambda: None,
        on_devices: Callable[[Devices], None] = lambda _: None,
    ) -> None:
        """``on_devices`` is called when devices of the machine have appeared, disappeared or changed."""
        self.calibration = calibration
        self.served: dict[str, ServedDisk] = {}
        #: Is set while the node is drained, so that disks that are added are not served.
        self.drained = False
        self._exporter = exporter
        self._engine = engine
        self._pool = pool
        self._on_change = on_change
        self._on_devices = on_devices
        self._keepers: dict[str, DiskKeeper] = {}
        #: The slots that disks are in, by the disks' names. A disk that is not there is in no slot.
        self._places: Mapping[str, DiskPlace] = {}
        self._scans: dict[Path, Bounded] = {}
        self._nursery: trio.Nursery | None = None
        self._changes: DeviceChanges | None = None

    # --- start and reload --------------------------------------------------------------

    async def check(self, wanted: Sequence[DiskConfig]) -> Found:
        """Return the facts of the devices at the disks' paths. Raises ConfigError for mistakes. Changes nothing."""
        found, mistakes = await self.scan(wanted)
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        return found

    async def scan(self, wanted: Sequence[DiskConfig], again: Collection[str] | None = None) -> tuple[Found, list[str]]:
        """Return the facts of the devices at the disks' paths, and the mistakes. Changes nothing.

        ``again`` has the names of disks to look at, or is None for all. A disk that is not in it, is served and has the
        same config keeps its facts. So the arrival of one disk costs nothing at the others.
        """
        found: dict[str, DiskFacts] = {}
        mistakes: list[str] = []

        async def scan(config: DiskConfig) -> None:
            # There is one Bounded per path, so that many reloads leave at most one thread behind for a stuck path.
            calls = self._scans.setdefault(config.path, Bounded(f"disk {config.name}: {config.path}"))
            try:
                found[config.name] = await calls.call(scan_disk, config.path, timeout_s=limits.DISK_CALL_TIMEOUT_S)
            except ConfigError as error:
                mistakes.append(f"{self._exporter.name}/{config.name}: {error}")
            except (DiskUnavailable, TookTooLong):
                # This is not a mistake of the config. The disk's keeper reports the reason.
                return

        paths = {config.path for config in wanted}
        self._scans = {path: calls for path, calls in self._scans.items() if path in paths or calls.stuck}
        async with trio.open_nursery() as nursery:
            for config in wanted:
                known = None if again is None or config.name in again else self._facts(config)
                if known is None:
                    nursery.start_soon(scan, config)
                else:
                    found[config.name] = known
        mistakes += _same_devices(self._exporter.name, wanted, found)
        return found, sorted(mistakes)

    def _facts(self, config: DiskConfig) -> DiskFacts | None:
        """Return the facts of a disk that is served now with the same config."""
        served = self.served.get(config.name)
        if served is None or served.disk is None or not served.health.served or served.config != config:
            return None
        return served.disk.facts

    async def apply(self, wanted: Sequence[DiskConfig], cluster: Config, found: Found) -> None:
        """Serve exactly these disks. ``found`` is the result of `check`.

        A disk that cannot be claimed is offered as missing.
        """
        by_name = {config.name: config for config in wanted}
        old = [name for name, served in self.served.items() if not _stays(served, by_name.get(name), found.get(name))]
        # A disk that is replaced under the same name stays drained, because its administrator still wants that.
        drained = {name for name in old if self.served[name].admin.drains}
        async with trio.open_nursery() as nursery:
            for name in old:
                nursery.start_soon(self._withdraw, name)
        for name, served in self.served.items():
            self._take_config(served, by_name[name])
        new = [
            self._keeper(config, cluster, drained=self.drained or config.name in drained)
            for config in wanted
            if config.name not in self.served
        ]
        async with trio.open_nursery() as nursery:
            for keeper in new:
                nursery.start_soon(keeper.claim)
        for keeper in new:
            self._offer(keeper)
        self._take_policies(cluster)

    def _keeper(self, config: DiskConfig, cluster: Config, *, drained: bool) -> DiskKeeper:
        served = make_served(self._exporter.name, config, cluster, self._places.get(config.name, DiskPlace()))
        if drained:
            served.admin = Administration(AdminState.DRAINED)
            served.update_offered()
        return DiskKeeper(served, self._engine, self._pool, self.calibration.load, self.calibration.folder)

    def _offer(self, keeper: DiskKeeper) -> None:
        served = keeper.served
        self.served[served.name], self._keepers[served.name] = served, keeper
        keeper.changed = self._announce
        keeper.returning = lambda served: self._exporter.disks.end_opens(served.offered)
        self._exporter.disks.add(served.offered)
        if self._nursery is not None:
            self._nursery.start_soon(keeper.run)
            if self.drained and not served.admin.drains:
                # The node was drained while the disk was claimed.
                served.admin = Administration(AdminState.DRAINED)
                self.announce(served)
                self._nursery.start_soon(keeper.let_go)

    def announce(self, served: ServedDisk) -> None:
        """Announce the present state of a disk, after an administrator has changed it."""
        served.update_offered()
        self._announce(served)

    def _announce(self, served: ServedDisk) -> None:
        self._exporter.disks.enforce(served.offered)
        self._on_change()

    def _take_config(self, served: ServedDisk, config: DiskConfig) -> None:
        """Take over a new path to the same device, or new access rights of nodes. The disk's opens stay."""
        if served.config == config:
            return
        served.config = config
        served.offered.path, served.offered.allow = str(config.path), config.access_of
        self._exporter.disks.enforce(served.offered)

    def place(self, places: Mapping[str, DiskPlace]) -> None:
        """Announce the slots of disks, by the disks' names, also of disks that are served later.

        A disk that is not in ``places`` is about to be withdrawn, so it is not announced once more.
        """
        self._places = places
        for name, served in self.served.items():
            place = places.get(name, served.place)
            if served.place != place:
                served.place = place
                served.offered.update(served.describe())
                self._exporter.disks.modified(served.offered)

    def _take_policies(self, cluster: Config) -> None:
        """Take over the policies of a new config. Settings made at run time stay, as far as they are still valid."""
        for name, served in self.served.items():
            base = cluster.policy(self._exporter.name, name)
            overrides, dropped = served.overrides.fit(base, cluster.node_names)
            for reason in dropped:
                logger.warning("disk %s: %s", name, reason)
            served.set_policy(base, overrides, cluster.node_names)

    async def _withdraw(self, name: str) -> None:
        """Stop offering the disk, end its opens, and close it when no I/O is in flight.

        If that takes longer than DISK_WITHDRAW_TIMEOUT_S, it continues after this function has returned.
        """
        keeper = self._keepers.pop(name)
        served = self.served.pop(name)
        ended = trio.Event()

        def end(_: OfferedDisk) -> None:
            ended.set()

        async def finish() -> None:
            await ended.wait()
            # An image may be served by another node next, where the loss of a write of this node would stay unknown.
            await served.wait_idle()
            while served.busy:  # noqa: ASYNC110 - the end of the exporter's own flush has no event
                await trio.sleep(limits.DEVICE_SETTLE_S)
            keeper.scope.cancel()
            await keeper.close()
            logger.info("disk %s is no longer served", name)
            done.set()

        done = trio.Event()
        self._exporter.disks.withdraw(name, end)
        assert self._nursery is not None
        self._nursery.start_soon(finish)
        with trio.move_on_after(limits.DISK_WITHDRAW_TIMEOUT_S) as patience:
            await done.wait()
        if patience.cancelled_caught:
            logger.warning("disk %s is withdrawn, and is closed when its last I/O has ended", name)

    # --- while they are served ---------------------------------------------------------

    async def run(self) -> None:
        """Run the keepers of all disks, also of those that a later `apply` adds, until cancelled."""
        self._changes = open_device_changes()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for keeper in self._keepers.values():
                    nursery.start_soon(keeper.run)
                await self._follow_devices()
        finally:
            self._nursery = None
            if self._changes is not None:
                self._changes.close()

    async def _follow_devices(self) -> None:
        if self._changes is None:
            await trio.sleep_forever()
            return
        # Changes between the first claims and now were missed, so look at all devices once.
        devices = Devices.BLOCK | Devices.ENCLOSURE
        while True:
            if Devices.BLOCK in devices:
                self.poke()
            self._on_devices(devices)
            devices = await self._changes.wait()

    @property
    def hears_of_devices(self) -> bool:
        """Return whether the kernel reports changes of block devices here."""
        return self._changes is not None

    def identities(self) -> dict[str, str]:
        """Return which device or image each disk has open (`DiskFacts.identity`), by name."""
        return {name: served.disk.facts.identity for name, served in self.served.items() if served.disk is not None}

    def claimed(self) -> dict[str, ClaimedDevice]:
        """Return the devices of the discovered disks that are claimed now, by the disks' ids."""
        return {
            served.config.id: device
            for served in self.served.values()
            if served.config.id and (device := served.claimed) is not None
        }

    async def claim_ended(self, disk_id: str) -> None:
        """Wait until no attempt to claim the discovered disk is in progress."""
        keeper = self._keepers.get(disk_id)
        if keeper is not None:
            async with keeper.claiming:
                return

    async def let_go(self, name: str) -> None:
        """Have the device of a drained disk released, and return when it is closed."""
        if (keeper := self._keepers.get(name)) is not None:
            await keeper.let_go()

    def end_opens(self, served: ServedDisk, then: Callable[[], object]) -> None:
        """End all opens of a disk, and refuse the opens that wait for it. Then call ``then``."""
        for pending in list(served.offered.creates):
            pending.retry()
        self._exporter.disks.end_opens(served.offered, then)

    def suspended_without_device(self, wanted: Sequence[DiskConfig]) -> list[DiskConfig]:
        """Return the configs of discovered disks that are suspended and not in ``wanted``, as their devices are away.

        They stay on offer, so that their I/O waits for the devices.
        """
        names = {config.name for config in wanted}
        return [
            served.config
            for name, served in self.served.items()
            if served.config.id and served.admin.waits and name not in names
        ]

    def poke(self, names: Collection[str] | None = None) -> None:
        """Have the keepers of these disks, or of all, look at their disks now, or try to claim them."""
        for name, keeper in self._keepers.items():
            if names is None or name in names:
                keeper.poke()

    async def wait_idle(self) -> None:
        """Wait until no disk has I/O in flight and all writes are flushed."""
        async with trio.open_nursery() as nursery:
            for served in self.served.values():
                nursery.start_soon(served.wait_idle)

    def learnt(self) -> list[Learnt]:
        """Return the present cost models of the disks, for `Calibration.save`."""
        known = ((name, served) for name, served in self.served.items() if served.identity)
        return [Learnt(name, served.identity, served.queue.costs.state()) for name, served in known]

    async def close(self) -> bool:
        """Close all disks. Return False if one has I/O in flight, which stays open until the process ends."""
        busy: list[str] = []

        async def close(name: str, keeper: DiskKeeper) -> None:
            if not await keeper.close():
                logger.warning("disk %s: I/O is still in flight at the end of the process", name)
                busy.append(name)

        async with trio.open_nursery() as nursery:
            for name, keeper in self._keepers.items():
                nursery.start_soon(close, name, keeper)
        self.served.clear()
        self._keepers.clear()
        return not busy


def _stays(served: ServedDisk, config: DiskConfig | None, found: DiskFacts | None) -> bool:
    """Return whether the disk can stay as it is under ``config``, whose path leads to ``found``."""
    mine = served.config
    if config is None or (mine.cache, mine.access, mine.id) != (config.cache, config.access, config.id):
        return False
    if found is None or not served.instance:
        # The device at the path is not known now, or was not known before.
        return mine.path == config.path
    # A disk that is gone may come back smaller. Only new opens may see the smaller size, so the old disk must go.
    return found.instance == served.instance and (served.health.served or found.size_bytes >= served.offered.size_bytes)


def _same_devices(node: str, wanted: Sequence[DiskConfig], found: Found) -> list[str]:
    """Return a mistake for each disk of the config that is the same device or image as an earlier disk."""
    names: dict[str, str] = {}
    mistakes = []
    for config in wanted:
        facts = found.get(config.name)
        if facts is None:
            continue
        other = names.setdefault(facts.identity, config.name)
        if other != config.name:
            mistakes.append(f"{node}/{config.name}: {config.path} is the same device or image as that of disk {other}")
    return mistakes


def without_doubles(wanted: Sequence[DiskConfig], found: Found) -> list[DiskConfig]:
    """Return the disks without the discovered ones whose device is also that of a listed disk, which takes precedence.

    The path of a listed disk may have led nowhere when the disks were discovered.
    """
    listed = {found[config.name].identity for config in wanted if not config.id and config.name in found}
    return [
        config
        for config in wanted
        if not config.id or config.name not in found or found[config.name].identity not in listed
    ]


def status_text(disks: Mapping[str, ServedDisk]) -> str:
    """Return the service's status text for systemd: the number of served disks, and the faults of the others."""
    infos = {name: served.offered.info for name, served in disks.items()}
    wrong = [f"{name} is {info.state}: {info.why}" for name, info in infos.items() if info.why]
    served_count = sum(info.state in (DiskState.OK, DiskState.FAILING) for info in infos.values())
    return "; ".join([f"serving {served_count} of {len(disks)} disks", *wrong])
