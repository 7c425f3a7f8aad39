"""One disk of the config as this exporter serves it, with or without a claimed device at the moment."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import trio

from meshfs import limits
from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import DiskConfig, disk_id
from meshfs.disk.absent import AbsentDisk
from meshfs.disk.admin_state import Administration
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


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """Names the device that a disk has claimed: its path, and its diskseq, which no later device at the path has."""

    path: str
    sequence: str


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Names the slot that a disk is in: the id of the enclosure, and the slot's name. Both are "" for no slot."""

    enclosure: str = ""
    slot: str = ""


@dataclass(eq=False)
class ServedDisk:
    """Serves one disk. ``offered`` stays the same object while the device vanishes and returns.

    disk            the claimed device or image, or None while there is none
    config_policy   the scheduling policy of the config
    admin           what an administrator wants of the disk
    overrides       settings made at run time, which take precedence over the config
    identity        identifies the device or image to which learnt costs belong; "" before the first claim
    instance        the device or image that was claimed first, the only one to be claimed again; "" before
    remembered      the disk's record, which survives the process, or None while there is no device
    place           the slot that the disk is in
    """

    config: DiskConfig
    discipline: Discipline
    runner: Runner
    offered: OfferedDisk
    queue: DiskQueue
    config_policy: DiskPolicy
    health: Health
    admin: Administration = field(default_factory=Administration)
    disk: FileDisk | None = None
    identity: str = ""
    instance: str = ""
    remembered: Remembered | None = None
    overrides: Overrides = field(default_factory=Overrides)
    place: DiskPlace = DiskPlace()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def policy(self) -> DiskPolicy:
        """Return the policy in force."""
        return self.queue.policy if isinstance(self.queue, FairQueue) else self.config_policy

    def set_policy(self, base: DiskPolicy, overrides: Overrides, nodes: Collection[str]) -> None:
        """Put the config's ``base`` with ``overrides`` in force. Raises PolicyError if they do not fit together."""
        policy = overrides.policy(base, nodes)
        self.config_policy, self.overrides = base, overrides
        if isinstance(self.queue, FairQueue):
            self.queue.configure(policy, time.monotonic())
            self.runner.pump()

    def attach(self, disk: FileDisk, costs: CostModel, remembered: Remembered) -> None:
        """Serve from a device or image that was just claimed."""
        self.remembered = remembered
        if not self.instance:
            # No request was ever queued, so the queue can be replaced.
            self.queue = make_queue(self.discipline, self.policy, costs)
        self.instance, self.identity = disk.facts.instance, identity_of(self.config, disk)
        self.disk = disk
        self.runner.serve(disk, self.queue)

    async def wait_idle(self) -> None:
        """Wait until no I/O is in flight and all writes are flushed."""
        await self.runner.wait_idle()
        await self.settle()

    async def settle(self) -> bool:
        """Flush all writes, so that a failed write-back is noticed before the process ends. Return whether all is well.

        The kernel keeps the failure with the file's inode, and may drop the inode when no process has it open.
        """
        if self.disk is None:
            return False
        if self.disk.read_only:
            return True
        done = trio.Event()
        flush = DiskRequest(Op.FLUSH, 0, 0, None, 0, lambda _: done.set())
        self.disk.submit([flush])
        await done.wait()
        return flush.result >= 0

    @property
    def claimed(self) -> ClaimedDevice | None:
        """Return the claimed device or image, or None while there is none."""
        return ClaimedDevice(str(self.config.path), self.disk.facts.device.sequence) if self.disk is not None else None

    @property
    def busy(self) -> bool:
        """Return whether I/O is in flight at the device or image."""
        return bool(self.runner.status().in_flight) or (self.disk is not None and self.disk.busy)

    def release(self, *, clean: bool) -> Callable[[], None]:
        """Serve without a device or image from now on. Returns the function that closes it, which may block."""
        disk, self.disk = self.disk, None
        remembered, self.remembered = self.remembered, None
        if remembered is not None and disk is not None:
            # The result of a flush that is still in flight will be lost, so count it as a possible loss of writes.
            # Without such a flush, withdraw an earlier doubt.
            remembered.doubt(math.inf if disk.flush_age_s() else 0.0)
        written_ns = self.offered.written_ns()
        # The machine may write to a drained device before the disk is resumed.
        is_last = clean and not self.admin.drains

        def close() -> None:
            if disk is not None and clean:
                disk.close()
            if remembered is not None:
                remembered.end(written_ns, clean=is_last)

        return close

    def update_offered(self) -> None:
        """Put the present announcement of the disk in force. The caller notifies the nodes of it."""
        self.offered.takes_opens = not self.admin.drains
        self.offered.update(self.describe())

    def describe(self) -> DiskInfo:
        """Return the disk's present announcement. A disk that is gone keeps its last known facts."""
        state, why = self.admin.announced(self.health.state, self.health.why)
        place = self.place
        info = replace(self.offered.info, state=state, why=why, enclosure=place.enclosure, slot=place.slot)
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
            discard_granularity_bytes=disk.granules.size_bytes,
            discard_alignment_bytes=disk.granules.offset_bytes,
            instance=self.remembered.record.instance if self.remembered else disk.facts.instance,
            written_ns=self.remembered.record.written_ns if self.remembered else 0,
        )


def make_served(node: str, config: DiskConfig, cluster: Config, place: DiskPlace = DiskPlace()) -> ServedDisk:
    """Return a configured disk before its first claim: it is missing and refuses all I/O."""
    health = Health(time.monotonic())
    info = DiskInfo(
        id=config.id or disk_id(node, config.name),
        node=node,
        name=config.name,
        size_bytes=0,
        access=config.access,
        verifier="",
        cache=config.cache.value,
        state=DiskState.MISSING,
        why=health.why,
        enclosure=place.enclosure,
        slot=place.slot,
    )
    policy, discipline = cluster.policy(node, config.name), cluster.scheduler.discipline
    queue = make_queue(discipline, policy, CostModel())
    # The clock is read twice per request, and trio's clock costs three times as much.
    runner = Runner(queue, AbsentDisk(), now=time.monotonic)
    runner.refuse(AbsentDisk.errno)
    offered = OfferedDisk(info, runner, config.access_of, str(config.path))
    return ServedDisk(config, discipline, runner, offered, queue, policy, health, place=place)


def identity_of(config: DiskConfig, disk: FileDisk) -> str:
    """Return a text that distinguishes the disk from others with its name, because learnt costs are of one device."""
    facts = disk.facts
    return f"{config.id or config.path} {facts.model} {facts.serial} {disk.size_bytes} {config.cache.value}"
