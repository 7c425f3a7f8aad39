"""An initiator and exporters in one process, with real sessions over Unix sockets and disks in memory.

Pair (one exporter, one disk)
    exporter half    Exporter, Listener and MemoryDisk; a test can stop and start it again
    initiator half   RemoteExporter and Port, as `Login` makes them
"""

import functools
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config_nodes import disk_id
from meshfs.exporter.serving.listener import Listener
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.initiator.attached.port import Port
from meshfs.initiator.remote.dialing import Ways
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.session.negotiation import Policy
from meshfs.model import Access, DiskInfo, Security
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.runner import Runner
from meshfs.smb.auth import Accounts, Login
from meshfs.transport.base import Transport
from meshfs.transport.listening import listen_tcp, listen_unix
from meshfs.transport.stream import connect_unix
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.fixed_ways import Dialer, FixedWays

PASSWORD = "the pairwise password"
NODE = "n1"
DISK = "disk0"
DISK_ID = disk_id(NODE, DISK)


class MemoryExporter:
    """Runs an exporter with a disk that survives the exporter's restarts. ``stop`` ends it as kill -9 does."""

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        security: Security = Security.SIGN,
        *,
        node: str = NODE,
        passwords: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.path = path
        self.node = node
        self.passwords = passwords or {"n2": PASSWORD}
        #: TCP port on 127.0.0.1, beside the Unix socket.
        self.port = port
        self.disk = MemoryDisk(size_bytes)
        #: Identifies the disk. A test that puts another disk there sets another value.
        self.instance = "the first disk"
        self.security = security
        self.access = Access.READ_WRITE
        self.exporter: Exporter | None = None
        self.listener: Listener | None = None
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._stopped = trio.Event()

    def info(self) -> DiskInfo:
        return DiskInfo(
            id=disk_id(self.node, DISK),
            node=self.node,
            name=DISK,
            size_bytes=self.disk.size_bytes,
            access=Access.READ_WRITE,
            verifier=self.disk.verifier,
            discard_granularity_bytes=self.disk.granules.size_bytes,
            discard_alignment_bytes=self.disk.granules.offset_bytes,
            instance=self.instance,
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._stopped = trio.Event()
        exporter = self.exporter = Exporter(self.node, Accounts(self.passwords), self.security)
        sockets = [listen_unix(self.path)]
        if self.port is not None:
            sockets.append(listen_tcp("127.0.0.1", self.port))
        listener = self.listener = Listener(exporter, sockets)
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listener.run)
                    self._nursery = nursery
                    self.offer()
                    task_status.started()
        finally:
            for listening in sockets:
                listening.close()
            self._stopped.set()

    async def adopt(self, connect: Callable[[], tuple[Transport, Transport]]) -> Transport:
        """Connect the two ends that ``connect`` makes: serve one of them, and return the other."""
        assert self.listener is not None
        ours, theirs = connect()
        self.listener.adopt(theirs, "127.0.0.1")
        return ours

    def offer(self) -> None:
        assert self.exporter is not None
        assert self._nursery is not None
        runner = Runner(FairQueue(DiskPolicy()), self.disk)
        self.exporter.disks.add(OfferedDisk(self.info(), runner, lambda node: self.access))
        self._nursery.start_soon(runner.run)

    async def withdraw(self) -> None:
        """Stop offering the disk."""
        assert self.exporter is not None
        ended = trio.Event()
        self.exporter.disks.withdraw(DISK, lambda _: ended.set())
        await ended.wait()

    async def swap(self, disk: MemoryDisk, instance: str) -> None:
        """Serve another disk under the same name, as a reload of the config does."""
        await self.withdraw()
        self.disk, self.instance = disk, instance
        self.offer()

    async def stop(self) -> None:
        """End every connection at once, and stop listening."""
        assert self._scope is not None
        self._scope.cancel()
        await self._stopped.wait()


@dataclass
class Pair:
    """Holds an initiator's session and port, and the exporter that they are connected to."""

    exporter: MemoryExporter
    session: RemoteExporter
    port: Port
    nursery: trio.Nursery

    async def connected(self) -> None:
        """Wait until the session is connected."""
        while self.session.state is not ExporterState.CONNECTED:  # noqa: ASYNC110 - the state has no event
            await trio.sleep(0.005)

    async def restart(self) -> None:
        await self.exporter.stop()
        await self.nursery.start(self.exporter.run)


@asynccontextmanager
async def mesh_pair(
    folder: Path,
    size_bytes: int = 8 * limits.MIB,
    *,
    policy: Policy | None = None,
    io_timeout_s: float = limits.IO_TIMEOUT_S,
    dialers: Sequence[Dialer] = (),
    ways: Ways | None = None,
    connect: Callable[[], tuple[Transport, Transport]] | None = None,
    channels: int = limits.CHANNELS_PER_PATH,
    tcp_port: int | None = None,
) -> AsyncIterator[Pair]:
    """Yield a connected pair of initiator and exporter; both end with the context.

    The exporter listens at ``folder / "exporter.sock"``, and also at ``tcp_port`` of 127.0.0.1 if it is given.

    The initiator uses ``ways`` if given, else one path for each of ``dialers``, else one path to the Unix socket.
    Each path has ``channels`` channels. ``connect`` makes both ends of each connection, instead of any socket.
    """
    policy = policy or Policy()
    exporter = MemoryExporter(folder / "exporter.sock", size_bytes, policy.security, port=tcp_port)
    if connect is not None:
        dialers = [functools.partial(exporter.adopt, connect)]
    session = RemoteExporter(
        NODE,
        ways or FixedWays(dialers or [functools.partial(connect_unix, exporter.path)]),
        lambda: Login("n2", PASSWORD, "demo"),
        policy=policy,
        guid=uuid.uuid4().bytes_le,
        pool=BufferPool(),
        on_change=lambda: None,
        channels=channels,
        io_timeout_s=io_timeout_s,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(exporter.run)
        nursery.start_soon(session.run)
        port = Port(exporter.info(), session, io_timeout_s, nursery.start_soon)
        pair = Pair(exporter, session, port, nursery)
        await pair.connected()
        yield pair
        nursery.cancel_scope.cancel()
