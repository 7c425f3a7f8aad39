"""One disk of the config as this exporter serves it: with or without a device behind it at the moment."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import trio

from meshfs import limits
from meshfs.cluster.config import Config, disk_id
from meshfs.cluster.config import Disk as DiskConfig
from meshfs.disk.absent import AbsentDisk
from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.health import Health
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access, Discipline, DiskInfo, DiskState
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, Overrides
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.runner import Runner
from meshfsd.remembered import Remembered

DiskQueue = FairQueue | FifoQueue


def make_queue(discipline: Discipline, policy: DiskPolicy, costs: CostModel) -> DiskQueue:
    if discipline is Discipline.FIFO:
        return FifoQueue(limits.DISK_DEPTH_MAX, costs, policy)
    return FairQueue(policy, costs)


@dataclass(eq=False)
class ServedDisk:
    """``offered`` stays the same while the device behind it goes and comes again, so that opens go on.

    disk            the claimed device or image; None while there is none
    config_policy   what the config wants of its scheduler
    overrides       what was set at run time, on top of that
    identity        of the device or image, for what was learnt of its costs; "" before the first claim
    instance        the device or image that was claimed first, which alone is claimed again; "" before
    remembered      what is kept of the disk after the end of the process; None while there is none
    """

    config: DiskConfig
    discipline: Discipline
    runner: Runner
    offered: OfferedDisk
    queue: DiskQueue
    config_policy: DiskPolicy
    health: Health
    disk: FileDisk | None = None
    identity: str = ""
    instance: str = ""
    remembered: Remembered | None = None
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def policy(self) -> DiskPolicy:
        """The policy in force."""
        return self.queue.policy if isinstance(self.queue, FairQueue) else self.config_policy

    def set_policy(self, base: DiskPolicy, overrides: Overrides, nodes: Collection[str]) -> None:
        """Go by the config's ``base`` and what was set on top. PolicyError when that cannot be."""
        policy = overrides.policy(base, nodes)
        self.config_policy, self.overrides = base, overrides
        if isinstance(self.queue, FairQueue):
            self.queue.configure(policy, time.monotonic())
            self.runner.pump()

    def attach(self, disk: FileDisk, costs: CostModel, remembered: Remembered) -> None:
        """Serve from a device or image that was just claimed."""
        self.remembered = remembered
        if not self.instance:
            # Nothing was ever queued.
            self.queue = make_queue(self.discipline, self.policy, costs)
        self.instance, self.identity = disk.facts.instance, identity_of(self.config, disk)
        self.disk = disk
        self.runner.serve(disk, self.queue)

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight, and what was written is flushed."""
        await self.runner.wait_idle()
        await self.settle()

    async def settle(self) -> None:
        """Flush what was written, so that a failed write-back is noticed before the process ends.

        The kernel forgets the failure with the file's inode, which it may drop once nobody has it open.
        """
        if self.disk is None or self.disk.read_only:
            return
        done = trio.Event()
        self.disk.submit([DiskRequest(Op.FLUSH, 0, 0, None, 0, lambda _: done.set())])
        await done.wait()

    @property
    def busy(self) -> bool:
        """Whether its device or image has anything in flight."""
        return bool(self.runner.status().in_flight) or (self.disk is not None and self.disk.busy)

    def release(self, *, clean: bool) -> Callable[[], None]:
        """Serve without a device or image from now on. Returns the function that closes it, which may block."""
        disk, self.disk = self.disk, None
        remembered, self.remembered = self.remembered, None
        if remembered is not None and disk is not None:
            # Nobody will know whether a flush that is in flight fails. One that has ended is in doubt no longer.
            remembered.doubt(math.inf if disk.flush_age_s() else 0.0)
        written_ns = self.offered.written_ns()

        def close() -> None:
            if disk is not None and clean:
                disk.close()
            if remembered is not None:
                remembered.end(written_ns, clean=clean)

        return close

    def describe(self) -> DiskInfo:
        """What is announced of it now. A disk that is gone keeps what was known of it."""
        info = replace(self.offered.info, state=self.health.state, why=self.health.why)
        disk = self.disk
        if disk is None:
            return info
        return replace(
            info,
            size_bytes=disk.size_bytes,
            access=Access.READ_ONLY if disk.read_only else self.config.access,
            logical_block_size_bytes=disk.logical_block_size_bytes,
            physical_block_size_bytes=disk.physical_block_size_bytes,
            rotational=disk.rotational,
            cache=self.config.cache.value,
            model=disk.facts.model,
            serial=disk.facts.serial,
            instance=self.remembered.record.instance if self.remembered else disk.facts.instance,
            written_ns=self.remembered.record.written_ns if self.remembered else 0,
        )


def make_served(node: str, config: DiskConfig, cluster: Config) -> ServedDisk:
    """A configured disk before anything is behind it: missing, and refusing all I/O."""
    health = Health(time.monotonic())
    info = DiskInfo(
        id=disk_id(node, config.name), node=node, name=config.name, size_bytes=0, access=config.access, verifier="",
        cache=config.cache.value, state=DiskState.MISSING, why=health.why,
    )  # fmt: skip
    policy, discipline = cluster.policy(node, config.name), cluster.scheduler.discipline
    queue = make_queue(discipline, policy, CostModel())
    # trio's clock costs thrice as much, twice a request.
    runner = Runner(queue, AbsentDisk(), now=time.monotonic)
    runner.refuse(AbsentDisk.errno)
    offered = OfferedDisk(info, runner, config.access_of, str(config.path))
    return ServedDisk(config, discipline, runner, offered, queue, policy, health)


def identity_of(config: DiskConfig, disk: FileDisk) -> str:
    """Tells the disk from another one of the same name, for what was learnt of its costs."""
    facts = disk.facts
    return f"{config.path} {facts.model} {facts.serial} {disk.size_bytes} {config.cache.value}"
