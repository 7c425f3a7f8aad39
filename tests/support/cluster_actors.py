"""The mounts of a simulated cluster, and the programs that use them: each checks every call that it makes."""

import errno
import random
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.granules import Granules
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.port import Port
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.session.negotiation import Policy
from meshfs.loop import worker
from meshfs.loop.worker import Worker
from meshfs.model import IoClass
from meshfs.smb.auth import Login
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport
from meshlab.fakes.mesh_pair import NODE, PASSWORD, MemoryExporter
from meshlab.models.blocks import BLOCK_BYTES, BlockModel, LossReport, Write
from meshlab.smb.fixed_ways import Dialer, FixedWays

BLOCKS = 4096
IO_MAX_BYTES = limits.MIB
#: Most I/O goes to these blocks, so that requests of several actors meet there.
HOT_BLOCKS = 64
#: The granules of the disk are larger than its blocks, and begin in the middle of its first granule.
GRANULES = Granules(2 * BLOCK_BYTES, BLOCK_BYTES)
IO_TIMEOUT_S = 0.5


class Setting(Protocol):
    """What mounts and actors need of the world that they are in."""

    random: random.Random
    nursery: trio.Nursery
    model: BlockModel
    exporter: MemoryExporter
    policy: Policy
    ending: bool
    faults: int
    faulty: bool
    flushes: dict[object, int]
    calls: int
    dead_after_s: float
    io_timeout_s: float

    def note(self, what: str) -> None:
        """Keep a line for the log of a run that fails."""


class Mount:
    """One node's initiator, as far as one disk needs it."""

    def __init__(self, world: Setting, node: str, dial: Callable[[], Awaitable[StreamTransport]]) -> None:
        self.node = node
        self.pool = BufferPool()
        self.transports: list[StreamTransport] = []
        self._dial = dial
        self.session = RemoteExporter(
            NODE,
            FixedWays(self.dialers()),
            lambda: Login(node, PASSWORD, "demo"),
            policy=world.policy,
            guid=uuid.uuid4().bytes_le,
            pool=self.pool,
            on_change=lambda: None,
            dead_after_s=world.dead_after_s,
            io_timeout_s=world.io_timeout_s,
        )
        self.port = Port(world.exporter.info(), self.session, IO_TIMEOUT_S, world.nursery.start_soon)

    def dialers(self) -> list[Dialer]:
        """Return one dialer for each path."""
        return [self._dial_and_keep]

    async def _dial_and_keep(self) -> Transport:
        transport = await self._dial()
        self.transports = [transport]
        return transport

    def fails_fast(self) -> bool:
        """Return whether a call may end before its own bound, because the exporter is away or the disk may hang."""
        away_since_s, now = self.session.away_since_s, trio.current_time()
        away = away_since_s is not None and now - away_since_s > 0.8 * self.port.io_timeout_s
        return away or self.port.answers.held

    def cut(self, how: int) -> None:
        """Break the connection at its socket, or let the mount end it."""
        for transport in self.transports:
            if transport._sock.fileno() >= 0:
                transport._sock.shutdown((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)[how % 3])
        if how >= 3:
            for channel in self.session.channels:
                channel.fail("cable pulled")


class Actor:
    """A program with one open file. ``life`` runs as a task of trio, or in a worker."""

    def __init__(self, world: Setting, mount: Mount, number: int) -> None:
        self.world = world
        self.mount = mount
        self.name = f"{mount.node}.{number}"
        self.random = random.Random(world.random.random())
        self.handle: Handle | None = None
        self.writer = world.model.writer(mount.port)
        self.idle_now = trio.Event()
        self.failure: BaseException | None = None
        self.over = trio.Event()

    async def life(self, pause: Callable[[], Awaitable[None]]) -> None:
        while not self.world.ending:
            await self.step()
            await pause()
        await self.last_flushes()
        await pause()
        await self.read(0, BLOCKS)
        assert self.handle is not None
        await self.handle.close()

    async def step(self) -> None:
        choice = self.random.random()
        first, stop = self.some_range()
        if self.handle is None or choice < 0.01:
            await self.reopen()
        elif choice < 0.40:
            await self.read(first, stop)
        elif choice < 0.48:
            await self.zero(first, stop)
        elif choice < 0.52:
            await self.discard(first, stop)
        elif choice < 0.90:
            await self.write(first, stop, through=choice > 0.85)
        else:
            await self.flush()

    def some_range(self) -> tuple[int, int]:
        most, blocks = self.random.choice(((8, HOT_BLOCKS), (8, HOT_BLOCKS), (IO_MAX_BYTES // BLOCK_BYTES, BLOCKS)))
        count = int(2 ** self.random.uniform(0, most.bit_length() - 1))
        first = self.random.randrange(blocks - count + 1)
        return first, first + count

    async def reopen(self) -> None:
        world = self.world
        if self.handle is not None:
            await self.handle.close()
            world.model.forget(self.writer)
            self.handle = None
            self.writer = world.model.writer(self.mount.port)
        io_class = self.random.choice(tuple(IoClass))
        _, handle = await self.bounded("open", self.mount.port.open(io_class, writable=True))
        if handle is not None:
            self.handle = handle

    async def bounded(self, what: str, call: Awaitable[object]) -> tuple[int, object]:
        """Return the errno and the result of a call, and check that the call ends within its bound."""
        start, bound_s = trio.current_time(), self.world.io_timeout_s
        code, result = 0, None
        try:
            result = await call
        except OSError as error:
            code = error.errno or errno.EIO
        took_s = trio.current_time() - start
        self.world.note(f"{self.name} {what}: {errno.errorcode.get(code, 'ok')} after {took_s:.3f} s")
        assert took_s < bound_s + 1, f"{what} took {took_s:.2f} s"
        if code == errno.ETIMEDOUT and not self.mount.fails_fast():
            assert took_s > 0.8 * bound_s, f"{what} gave up after {took_s:.2f} s"
        elif code == errno.ETIMEDOUT:
            # A program that repeats failing calls without a pause would take the time of the others.
            await worker.enter_trio()
            await trio.sleep(0.02)
        return code, result

    async def read(self, first: int, stop: int) -> None:
        assert self.handle is not None
        read, faults = self.world.model.begin_read(first, stop), self.world.faults
        call = self.handle.read(first * BLOCK_BYTES, (stop - first) * BLOCK_BYTES)
        code, data = await self.bounded(f"read {first}-{stop}", call)
        self.check_code(code, faults)
        # The data is valid only until the next await.
        wrong = self.world.model.end_read(read, self.mount.port, None if code else data)  # type: ignore[arg-type]
        assert not wrong, f"{self.name} read {first}-{stop}: {wrong}"
        self.world.calls += not code

    async def write(self, first: int, stop: int, *, through: bool) -> None:
        assert self.handle is not None
        write = self.world.model.begin_write(self.writer, first, stop, through=through)
        await self.change(write, self.handle.write(first * BLOCK_BYTES, write.data(), write_through=through))

    async def zero(self, first: int, stop: int) -> None:
        assert self.handle is not None
        write = self.world.model.begin_write(self.writer, first, stop, zeroes=True)
        await self.change(write, self.handle.zero(first * BLOCK_BYTES, (stop - first) * BLOCK_BYTES))

    async def discard(self, first: int, stop: int) -> None:
        """Discard a range. Only the granules inside the range may lose their content."""
        assert self.handle is not None
        start, end = GRANULES.whole(first * BLOCK_BYTES, stop * BLOCK_BYTES)
        length = (stop - first) * BLOCK_BYTES
        call = self.handle.discard(first * BLOCK_BYTES, length)
        if start >= end:
            # No granule is inside the range. The mount sends nothing, so nothing can be lost that a flush must report.
            assert (await self.bounded("discard of no granule", call))[0] == 0
            return
        write = self.world.model.begin_write(self.writer, start // BLOCK_BYTES, end // BLOCK_BYTES, discards=True)
        await self.change(write, call, length)

    async def change(self, write: Write, call: Awaitable[int], length: int = 0) -> None:
        faults, what = self.world.faults, "zero" if write.zeroes else "discard" if write.discards else "write"
        code, count = await self.bounded(f"{what} {write.number} {write.first}-{write.stop}", call)
        self.check_code(code, faults)
        assert code or count == (length or (write.stop - write.first) * BLOCK_BYTES)
        if code:
            self.world.model.given_up(write)
        else:
            self.world.model.acknowledged(write)
        self.world.calls += not code

    def check_code(self, code: int, faults: int) -> None:
        """Check that EIO comes only if the disk had a fault at some time during the call."""
        faulty = self.world.faulty or faults != self.world.faults
        assert code in (0, errno.ETIMEDOUT, errno.EIO if faulty else 0), f"{self.name}: {errno.errorcode[code]}"

    async def flush(self) -> int:
        assert self.handle is not None
        world, model = self.world, self.world.model
        flush = model.begin_flush()
        due = self.writer.due
        world.flushes[self] = world.faults - world.faulty
        code, _ = await self.bounded(f"flush ({due.name})", self.handle.flush())
        # A flush of the same mount that met the fault passes it to the other handles before it ends itself.
        met = any(faults != world.faults for actor, faults in world.flushes.items() if actor.mount is self.mount)
        del world.flushes[self]
        if code == errno.EIO and met:
            model.flush_failed()
            self.writer.expect_report(LossReport.MAY)
        assert code in (0, errno.EIO, errno.ETIMEDOUT), errno.errorcode[code]
        wrong = model.end_flush(flush, self.writer, reported_loss=code == errno.EIO, done=not code)
        assert not wrong, f"{self.name} flush: {wrong}"
        return code

    async def last_flushes(self) -> None:
        """Everything is well again: each loss is reported first, and then all calls succeed."""
        while self.handle is None:
            await self.reopen()
        codes: list[int] = []
        while len(codes) < 4:
            code = await self.flush()
            if code == errno.ETIMEDOUT and self.mount.fails_fast():
                # The mount noticed the last cut late, and its next attempt to connect is not due yet.
                await worker.enter_trio()
                await trio.sleep(0.02)
            else:
                codes.append(code)
        assert codes[-1] == 0, codes

    # --- as a task, and as a worker (meshfs.loop.worker.WorkerOwner) --------------------------------

    async def run(self) -> None:
        await self.life(self.pause)

    async def pause(self) -> None:
        await trio.sleep(self.random.choice((0, 0, 0.001, 0.01)))

    async def run_as_worker(self) -> None:
        stepped = Worker(self.life(worker.idle), self)
        while not self.over.is_set():
            stepped.resume()
            await self.idle_now.wait()
            self.idle_now = trio.Event()
            await self.pause()
        if self.failure is not None:
            raise self.failure

    def idle(self, worker: Worker) -> None:
        self.idle_now.set()

    def wants_trio(self, worker: Worker) -> None:
        self.world.nursery.start_soon(worker.run_in_trio)

    def ended(self, worker: Worker, error: BaseException | None) -> None:
        self.failure = error
        self.over.set()
        self.idle_now.set()
