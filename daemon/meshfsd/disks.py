"""The disks of a node: opened, claimed, behind their queues, and offered."""

import logging
import time
from dataclasses import dataclass

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.config import Disk as DiskConfig
from meshfs.config import disk_id
from meshfs.disk.base import Engine
from meshfs.disk.claim import open_disk
from meshfs.disk.file import FileDisk
from meshfs.disk.scan import scan_disk
from meshfs.errors import ConfigError
from meshfs.exporter.exporter import Exporter
from meshfs.exporter.shares import OfferedDisk
from meshfs.model import Access, DiskInfo
from meshfs.scheduler.queue import FifoQueue
from meshfs.scheduler.runner import Runner

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ServedDisk:
    """One disk at work; ``scope`` ends its runner's task."""

    config: DiskConfig
    disk: FileDisk
    runner: Runner
    offered: OfferedDisk
    scope: trio.CancelScope

    def same_device(self, config: DiskConfig) -> bool:
        """Whether ``config`` asks for the disk as it is opened already."""
        mine = self.config
        return (mine.path, mine.cache, mine.access) == (config.path, config.cache, config.access)


class Disks:
    """All disks of the node, by name."""

    def __init__(self, node: str, engine: Engine, pool: BufferPool) -> None:
        self._node = node
        self._engine = engine
        self._pool = pool
        self.served: dict[str, ServedDisk] = {}

    async def open(self, config: DiskConfig) -> ServedDisk:
        """Open and claim it. Raises ConfigError that names the disk."""
        try:
            facts = await trio.to_thread.run_sync(scan_disk, config.path)
            disk = await open_disk(
                config.path, engine=self._engine, cache=config.cache.value,
                read_only=config.access is Access.READ_ONLY, pool=self._pool,
            )  # fmt: skip
        except ConfigError as error:
            raise ConfigError(f"{self._node}/{config.name}: {error}") from error
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
        )
        # trio's clock costs thrice as much, twice a request.
        runner = Runner(FifoQueue(limits.DISK_DEPTH_MAX), disk, now=time.monotonic)
        served = ServedDisk(config, disk, runner, OfferedDisk(info, runner, config.access_of), trio.CancelScope())
        served.offered.path = str(config.path)
        self.served[config.name] = served
        return served

    def close(self) -> bool:
        """Close all; False when one has I/O in flight, which is left to the end of the process."""
        idle = True
        for served in self.served.values():
            if served.runner.status().in_flight:
                logger.warning("disk %s: I/O still in flight at the end", served.config.name)
                idle = False
            else:
                served.disk.close()
        self.served.clear()
        return idle

    async def wait_idle(self) -> None:
        for served in self.served.values():
            await served.runner.wait_idle()

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
        served.disk.close()
        logger.info("disk %s: not served any more", name)


async def run_disk(served: ServedDisk) -> None:
    with served.scope:
        await served.runner.run()
