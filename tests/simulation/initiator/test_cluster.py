"""Two initiators, one exporter, everything that can go wrong: no byte is wrong, no loss untold.

All in one process on real sockets, one node's mount by TCP and the other's by a Unix socket.
Half of the handles are used by trio tasks, half by workers, as the FUSE loop does. What happens
follows from the seed, but for the timing.

    actors    read, write (through or not), zero and flush ranges of 512 B to 1 MiB, or open anew
    chaos     cuts connections, restarts the exporter, takes the disk's power, stalls, delays
              and fails its requests
    checks    every block that is read (tools/meshlab/models/blocks.py), every EIO of a flush,
              every time-out and its bound; at the end what is left over

A soak (``--soak S``) goes on with other seeds.
"""

import errno
import functools
import os
import random
import socket
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.disk.base import DiskRequest, Op
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.port import Port
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.session.negotiation import Policy
from meshfs.loop import worker
from meshfs.loop.worker import Worker
from meshfs.model import IoClass, Security
from meshfs.smb.auth import Login
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport, connect_tcp, connect_unix
from meshlab.fakes.mesh_pair import NODE, PASSWORD, MemoryExporter
from meshlab.models.blocks import BLOCK_BYTES, BlockModel, Owed, Write
from meshlab.smb.fixed_ways import Dialer, FixedWays

BLOCKS = 4096
IO_MAX_BYTES = limits.MIB
#: Most I/O goes here, so that it meets other I/O.
HOT_BLOCKS = 64
IO_TIMEOUT_S = 0.5
DURATION_S = 1.5
ACTORS_PER_NODE = 4
SEEDS = range(1, 13)
#: Calls that succeed in each run. Measured of two dozen seeds: 75 to 680 when the machine had nothing else to do, and
#: 43 to 950 of the first dozen under a load of four processes for each processor, as reconnecting takes longer then and
#: more calls fail fast. With fewer than this a mount did not come back between two faults.
CALLS_MIN = 25
#: At the end what is still under way is over within this, also on a busy machine.
SETTLE_S = 10.0


class Mount:
    """One node's initiator, as far as one disk needs it."""

    def __init__(self, world: "World", node: str, dial: Callable[[], Awaitable[StreamTransport]]) -> None:
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
        """Of each path one."""
        return [self._dial_and_keep]

    async def _dial_and_keep(self) -> Transport:
        transport = await self._dial()
        self.transports = [transport]
        return transport

    def fails_fast(self) -> bool:
        """Whether a call may end before its own bound: the exporter is away, or the disk is held as it may hang."""
        away_since_s, now = self.session.away_since_s, trio.current_time()
        away = away_since_s is not None and now - away_since_s > 0.8 * self.port.io_timeout_s
        return away or self.port.answers.held

    def cut(self, how: int) -> None:
        """Tear the connection, from below or by ourselves."""
        for transport in self.transports:
            if transport._sock.fileno() >= 0:
                transport._sock.shutdown((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)[how % 3])
        if how >= 3:
            for channel in self.session.channels:
                channel.fail("cable pulled")


class Actor:
    """One program with one open file; ``life`` runs as a task, or stepped as a worker."""

    def __init__(self, world: "World", mount: Mount, number: int) -> None:
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
        elif choice < 0.50:
            await self.zero(first, stop)
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

    async def bounded(self, what: str, call: Awaitable[object]) -> tuple[int, "object"]:
        """(errno, result) of a call that has to end within the bound."""
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
            # Programs that repeat at once what fails at once take the time of those that work.
            await worker.enter_trio()
            await trio.sleep(0.02)
        return code, result

    async def read(self, first: int, stop: int) -> None:
        assert self.handle is not None
        read, faults = self.world.model.begin_read(first, stop), self.world.faults
        call = self.handle.read(first * BLOCK_BYTES, (stop - first) * BLOCK_BYTES)
        code, data = await self.bounded(f"read {first}-{stop}", call)
        self.check_code(code, faults)
        # The data is valid until the next await only.
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

    async def change(self, write: Write, call: Awaitable[int]) -> None:
        faults, what = self.world.faults, "zero" if write.zeroes else "write"
        code, count = await self.bounded(f"{what} {write.number} {write.first}-{write.stop}", call)
        self.check_code(code, faults)
        assert code or count == (write.stop - write.first) * BLOCK_BYTES
        if code:
            self.world.model.given_up(write)
        else:
            self.world.model.acknowledged(write)
        self.world.calls += not code

    def check_code(self, code: int, faults: int) -> None:
        """EIO only where the disk had a fault, or stopped having one, while the call was under way."""
        faulty = self.world.faulty or faults != self.world.faults
        assert code in (0, errno.ETIMEDOUT, errno.EIO if faulty else 0), f"{self.name}: {errno.errorcode[code]}"

    async def flush(self) -> int:
        assert self.handle is not None
        world, model = self.world, self.world.model
        flush = model.begin_flush()
        owed = self.writer.owed
        world.flushes[self] = world.faults - world.faulty
        code, _ = await self.bounded(f"flush ({owed.name})", self.handle.flush())
        # One of the same mount that met the fault tells the others before it has ended itself.
        met = any(faults != world.faults for actor, faults in world.flushes.items() if actor.mount is self.mount)
        del world.flushes[self]
        if code == errno.EIO and met:
            model.flush_failed()
            self.writer.owe(Owed.MAY)
        assert code in (0, errno.EIO, errno.ETIMEDOUT), errno.errorcode[code]
        wrong = model.end_flush(flush, self.writer, told=code == errno.EIO, done=not code)
        assert not wrong, f"{self.name} flush: {wrong}"
        return code

    async def last_flushes(self) -> None:
        """Everything is well again: what was lost is told, then all succeed."""
        while self.handle is None:
            await self.reopen()
        codes: list[int] = []
        while len(codes) < 4:
            code = await self.flush()
            if code == errno.ETIMEDOUT and self.mount.fails_fast():
                # The last cut was noticed late, and the next attempt to connect is not due yet.
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


class World:
    """Everything of one run."""

    dead_after_s = limits.CHANNEL_DEAD_AFTER_S
    io_timeout_s = IO_TIMEOUT_S

    def __init__(self, seed: int, folder: Path, nursery: trio.Nursery) -> None:
        self.random = random.Random(seed)
        self.nursery = nursery
        self.model = BlockModel(BLOCKS)
        self.log: deque[str] = deque(maxlen=300)
        self.ending = False
        #: Faults set or healed so far, and whether there is one now.
        self.faults = 0
        self.faulty = False
        #: Flushes under way, and how many faults there had been when they began, without one there was then.
        self.flushes: dict[Actor, int] = {}
        self.calls = 0
        self.policy = Policy(self.random.choice((Security.SIGN, Security.SIGN, Security.ENCRYPT, Security.NONE)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = folder / f"{seed}.sock"
        self.exporter = MemoryExporter(
            path, BLOCKS * BLOCK_BYTES, self.policy.security, port=port, passwords={"n2": PASSWORD, "n3": PASSWORD}
        )
        self.disk = self.exporter.disk
        self.mounts = self.make_mounts(path, port)
        self._start = time.monotonic()

    def make_mounts(self, path: Path, port: int) -> Sequence[Mount]:
        return [
            Mount(self, "n2", functools.partial(connect_unix, path)),
            Mount(self, "n3", functools.partial(connect_tcp, "127.0.0.1", port)),
        ]

    def make_actor(self, mount: Mount, number: int) -> Actor:
        return Actor(self, mount, number)

    def note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._start:.3f} {what}")

    async def chaos(self) -> None:
        end = time.monotonic() + DURATION_S
        while time.monotonic() < end:
            await trio.sleep(self.random.uniform(0.02, 0.15))
            await self.random.choice(self.events())()
        self.disk.delay_s = 0
        self.disk.release()
        await self.heal()
        self.ending = True

    def events(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What may go wrong, the likely twice."""
        return (
            self.cut,
            self.cut,
            self.restart,
            self.lose_power,
            self.lose_power_live,
            self.stall,
            self.stall,
            self.delay,
            self.fail,
        )

    async def heal(self) -> None:
        """The network is well again; until everybody noticed."""
        for mount in self.mounts:
            # A busy machine may read the whole disk eight times over: that is not what is looked at.
            mount.port.io_timeout_s = self.io_timeout_s = SETTLE_S
        while any(mount.session.state is not ExporterState.CONNECTED for mount in self.mounts):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)

    async def cut(self) -> None:
        mount, how = self.random.choice(self.mounts), self.random.randrange(4)
        self.note(f"chaos: cut {mount.node} {how}")
        mount.cut(how)

    async def restart(self, *, power: bool = False) -> None:
        """The old process's I/O ended with it, as a disk's claim sees to."""
        self.note(f"chaos: restart, {power=}")
        old = self.exporter.exporter
        assert old is not None
        await self.exporter.stop()
        self.disk.release()
        while self.disk.in_flight:  # noqa: ASYNC110 - delayed requests tell nobody
            await trio.sleep(0.002)
        assert not old.sessions
        assert old.pool.used_bytes == 0
        if power:
            self.disk.power_loss()
            self.model.power_loss()
        await trio.sleep(self.random.choice((0, 0.05, 0.3)))
        await self.nursery.start(self.exporter.run)
        self.note("chaos: started")

    async def lose_power(self) -> None:
        await self.restart(power=True)

    async def lose_power_live(self) -> None:
        """As a device whose cache was lost, or whose failed flush was another's."""
        self.note("chaos: power lost")
        self.disk.power_loss()
        self.model.power_loss()

    async def stall(self) -> None:
        ops, half = self.random.choice(((Op.WRITE,), tuple(Op), (Op.READ, Op.WRITE))), BLOCKS * BLOCK_BYTES // 2
        stop = self.random.choice((half, 2 * half))
        share = self.random.choice((0.1, 0.5, 1))

        def held(request: DiskRequest) -> bool:
            return request.op in ops and request.offset < stop and self.random.random() < share

        self.note(f"chaos: stall {ops} below {stop}")
        self.disk.stall(held)
        for _ in range(self.random.randrange(3)):
            await trio.sleep(self.random.choice((0.02, 0.1, 0.7)))
            await self.random.choice((self.cut, self.some_go_on))()
        self.disk.release()
        self.note("chaos: released")

    async def some_go_on(self) -> None:
        self.disk.release(lambda request: self.random.random() < 0.5)

    async def delay(self) -> None:
        self.disk.delay_s = self.random.choice((0, 0.001, 0.02))

    async def fail(self) -> None:
        start = self.random.randrange(BLOCKS) * BLOCK_BYTES
        ops = self.random.choice(((Op.READ,), (Op.WRITE,), (Op.FLUSH,), tuple(Op)))
        self.note(f"chaos: {ops} fail from {start}")
        self.faults, self.faulty = self.faults + 1, True
        self.disk.fail(start, start + limits.MIB, errno.EIO, ops)
        await trio.sleep(0.05)
        self.disk.heal()
        self.faults, self.faulty = self.faults + 1, False

    def left_over(self) -> list[str]:
        """The names of disks that the exporter has open though their mounts closed all handles."""
        exporter = self.exporter.exporter
        assert exporter is not None
        return [
            opened.name for session in exporter.sessions.values() for opened in session.opens.values() if opened.name
        ]

    def kept(self) -> bool:
        """Whether a mount keeps an open that no handle uses, as it does while it asks a disk whether it hangs."""
        return any(shared._running for mount in self.mounts for shared in mount.port.shared_opens())

    def settled(self) -> bool:
        """Probes are answered, and what was opened is closed, also what was opened when nobody waited for it."""
        under_way = any(channel.outstanding for mount in self.mounts for channel in mount.session.channels)
        return not (under_way or self.kept() or self.left_over())

    async def settle(self) -> None:
        """Wait for what is under way. What never ends is for the caller to find."""
        with trio.move_on_after(SETTLE_S):
            while not self.settled():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)

    async def check_end(self) -> None:
        """Nothing is under way any more, and nothing is left over."""
        await self.settle()
        assert all(channel.outstanding == 0 for mount in self.mounts for channel in mount.session.channels)
        assert not self.kept()
        assert not self.left_over(), "only the roots are open"


async def simulate(seed: int, folder: Path, make_world: type[World] = World) -> int:
    """One run; the calls that succeeded."""
    print(f"seed {seed}")
    world = None
    try:
        async with trio.open_nursery() as nursery:
            world = make_world(seed, folder, nursery)
            await nursery.start(world.exporter.run)
            for mount in world.mounts:
                nursery.start_soon(mount.session.run)
            with trio.fail_after(DURATION_S + 20):
                async with trio.open_nursery() as acting:
                    for mount in world.mounts:
                        for number in range(ACTORS_PER_NODE):
                            actor = world.make_actor(mount, number)
                            acting.start_soon(actor.run_as_worker if number % 2 else actor.run)
                    acting.start_soon(world.chaos)
            await world.check_end()
            exporter = world.exporter.exporter
            assert exporter is not None
            nursery.cancel_scope.cancel()
        assert exporter.pool.used_bytes == 0
        assert [mount.pool.used_bytes for mount in world.mounts] == [0, 0]
    except BaseException:
        if world is not None:
            print(*world.log, sep="\n")
        raise
    return world.calls


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_byte_is_wrong_and_no_loss_untold(tmp_path: Path, seed: int) -> None:
    assert await simulate(seed, tmp_path) > CALLS_MIN


async def test_other_seeds_for_a_while(tmp_path: Path, soak_s: float) -> None:
    end = time.monotonic() + soak_s
    while time.monotonic() < end:
        await simulate(int.from_bytes(os.urandom(4), "little"), tmp_path)
