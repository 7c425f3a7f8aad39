"""The disks of a node: opened, claimed, behind their queues, and offered."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.config import Config, disk_id
from meshfs.config import Disk as DiskConfig
from meshfs.config_scheduler import Discipline
from meshfs.disk.base import DiskRequest, Engine, Op
from meshfs.disk.claim import open_disk
from meshfs.disk.file import FileDisk
from meshfs.errors import ConfigError, DiskUnavailable
from meshfs.exporter.exporter import Exporter
from meshfs.exporter.shares import OfferedDisk
from meshfs.model import Access, DiskInfo
from meshfs.scheduler.fair import FairQueue
from meshfs.scheduler.policy import DiskPolicy, Overrides
from meshfs.scheduler.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshfsd.calibration import Calibration, Learnt
from meshfsd.remembered import Remembered, recall

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ServedDisk:
    """One disk at work; ``scope`` ends its runner's task.

    config_policy   what the config wants of its scheduler
    overrides       what was set at run time, on top of that
    identity        tells it from another disk of the same name
    remembered      what is kept of it after the end of the process
    """

    config: DiskConfig
    disk: FileDisk
    runner: Runner
    offered: OfferedDisk
    scope: trio.CancelScope
    queue: FairQueue | FifoQueue
    config_policy: DiskPolicy
    identity: str
    remembered: Remembered
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def policy(self) -> DiskPolicy:
        """What is in force."""
        return self.queue.policy if isinstance(self.queue, FairQueue) else self.config_policy

    def set_policy(self, base: DiskPolicy, overrides: Overrides, nodes: Collection[str]) -> None:
        """Go by the config's ``base`` and what was set on top. PolicyError when that cannot be."""
        policy = overrides.policy(base, nodes)
        self.config_policy, self.overrides = base, overrides
        if isinstance(self.queue, FairQueue):
            self.queue.configure(policy, time.monotonic())
            self.runner.pump()

    def close(self) -> bool:
        """Close the disk, and keep what is to be known of it at the next start.

        Returns False when it has I/O in flight, which is left to the end of the process.
        """
        idle = not self.runner.status().in_flight and not self.disk.busy
        if idle:
            self.disk.close()
        self.remembered.end(self.offered.written_ns(), clean=idle)
        return idle

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight, and what was written is flushed."""
        await self.runner.wait_idle()
        await self.settle()

    async def settle(self) -> None:
        """Flush what was written, so that a failed write-back is noticed before the process ends.

        The kernel forgets the failure with the file's inode, which it may drop once nobody has it open.
        """
        if self.disk.read_only:
            return
        done = trio.Event()
        self.disk.submit([DiskRequest(Op.FLUSH, 0, 0, None, 0, lambda _: done.set())])
        await done.wait()

    def same_device(self, config: DiskConfig) -> bool:
        """Whether ``config`` asks for the disk as it is opened already."""
        mine = self.config
        return (mine.path, mine.cache, mine.access) == (config.path, config.cache, config.access)


class Disks:
    """All disks of the node, by name."""

    def __init__(self, node: str, engine: Engine, pool: BufferPool, calibration: Calibration) -> None:
        self.calibration = calibration
        self._node = node
        self._engine = engine
        self._pool = pool
        self.served: dict[str, ServedDisk] = {}

    async def open(self, config: DiskConfig, cluster: Config) -> ServedDisk:
        """Open and claim it, and put its queue before it. Raises ConfigError that names the disk."""
        try:
            disk = await open_disk(
                config.path, engine=self._engine, cache=config.cache.value,
                read_only=config.access is Access.READ_ONLY, pool=self._pool,
            )  # fmt: skip
        except (ConfigError, DiskUnavailable) as error:
            raise ConfigError(f"{self._node}/{config.name}: {error}") from error
        facts = disk.facts
        remembered = await trio.to_thread.run_sync(recall, self.calibration.folder, config.name, disk)
        remembered.attach(disk)
        info = DiskInfo(
            id=disk_id(self._node, config.name),
            node=self._node,
            name=config.name,
            size_bytes=disk.size_bytes,
            access=Access.READ_ONLY if disk.read_only else config.access,
            verifier=disk.verifier,
            logical_block_size_bytes=disk.logical_block_size_bytes,
            physical_block_size_bytes=disk.physical_block_size_bytes,
            rotational=disk.rotational,
            cache=config.cache.value,
            model=facts.model,
            serial=facts.serial,
            instance=remembered.record.instance,
            written_ns=remembered.record.written_ns,
        )
        identity = f"{config.path} {facts.model} {facts.serial} {disk.size_bytes} {config.cache.value}"
        costs = await trio.to_thread.run_sync(self.calibration.load, config.name, identity)
        policy = cluster.policy(self._node, config.name)
        queue: FairQueue | FifoQueue
        if cluster.scheduler.discipline is Discipline.FIFO:
            queue = FifoQueue(limits.DISK_DEPTH_MAX, costs, policy)
        else:
            queue = FairQueue(policy, costs)
        # trio's clock costs thrice as much, twice a request.
        runner = Runner(queue, disk, now=time.monotonic)
        offered = OfferedDisk(info, runner, config.access_of)
        served = ServedDisk(config, disk, runner, offered, trio.CancelScope(), queue, policy, identity, remembered)
        served.offered.path = str(config.path)
        self.served[config.name] = served
        return served

    def close(self) -> bool:
        """Close all; False when one has I/O in flight, which is left to the end of the process."""
        idle = True
        for served in self.served.values():
            if not served.close():
                logger.warning("disk %s: I/O still in flight at the end", served.config.name)
                idle = False
        self.served.clear()
        return idle

    async def wait_idle(self) -> None:
        """Wait until no disk has I/O in flight, and what was written is flushed."""
        async with trio.open_nursery() as nursery:
            for served in self.served.values():
                nursery.start_soon(served.wait_idle)

    def learnt(self) -> list[Learnt]:
        """What is known of the disks' costs now, for `Calibration.save`."""
        return [Learnt(name, each.identity, each.queue.costs.state()) for name, each in self.served.items()]

    def take_policies(self, cluster: Config) -> None:
        """Go by a config that was read again; what was set at run time stays, as far as it fits."""
        for name, served in self.served.items():
            base = cluster.policy(self._node, name)
            overrides, dropped = served.overrides.fit(base, cluster.node_names)
            for reason in dropped:
                logger.warning("disk %s: %s", name, reason)
            served.set_policy(base, overrides, cluster.node_names)

    def unwanted(self, wanted: tuple[DiskConfig, ...]) -> list[str]:
        """Names of disks that are gone from the config, or asked for in another way."""
        by_name = {config.name: config for config in wanted}
        return [
            name for name, served in self.served.items()
            if name not in by_name or not served.same_device(by_name[name])
        ]  # fmt: skip

    async def withdraw(self, name: str, exporter: Exporter) -> None:
        """Stop offering it, end its opens, and close it when nothing is in flight."""
        served = self.served.pop(name)
        ended = trio.Event()

        def end(_: OfferedDisk) -> None:
            ended.set()

        exporter.withdraw(name, end)
        await ended.wait()
        await served.runner.wait_idle()
        served.scope.cancel()
        served.close()
        logger.info("disk %s: not served any more", name)


async def run_disk(served: ServedDisk) -> None:
    with served.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.remembered.run)
            await served.runner.run()
