"""One run of a simulated cluster: its exporter, its mounts, what goes wrong, and what is left at the end."""

import errno
import functools
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.session.negotiation import Policy
from meshfs.model import Security
from meshfs.transport.stream import connect_tcp, connect_unix
from meshlab.fakes.mesh_pair import PASSWORD, MemoryExporter
from meshlab.models.blocks import BLOCK_BYTES, BlockModel
from support.cluster_actors import BLOCKS, GRANULES, IO_TIMEOUT_S, Actor, Mount

DURATION_S = 1.5
ACTORS_PER_NODE = 4
#: At the end, the last requests have to be done within this time, also on a busy machine.
SETTLE_S = 10.0


class World:
    """Holds everything of one run, and lets things go wrong."""

    dead_after_s = limits.CHANNEL_DEAD_AFTER_S
    io_timeout_s = IO_TIMEOUT_S

    def __init__(self, seed: int, folder: Path, nursery: trio.Nursery) -> None:
        self.random = random.Random(seed)
        self.nursery = nursery
        self.model = BlockModel(BLOCKS)
        self.log: deque[str] = deque(maxlen=300)
        self.ending = False
        #: The number of times that a fault of the disk began or ended so far. ``faulty`` is set while there is one.
        self.faults = 0
        self.faulty = False
        #: For each flush in progress, the value of ``faults`` at its beginning, less one if there was a fault then.
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
        self.disk.granules = GRANULES
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
        """Return what may go wrong. Likely events stand there twice."""
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
        """Repair the network, and wait until every mount is connected again."""
        for mount in self.mounts:
            # The last reads of the whole disk take long on a busy machine, and their time is not tested.
            mount.port.io_timeout_s = self.io_timeout_s = SETTLE_S
        while any(mount.session.state is not ExporterState.CONNECTED for mount in self.mounts):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)

    async def cut(self) -> None:
        mount, how = self.random.choice(self.mounts), self.random.randrange(4)
        self.note(f"chaos: cut {mount.node} {how}")
        mount.cut(how)

    async def restart(self, *, power: bool = False) -> None:
        """Restart the exporter. The I/O of the old process ends before, because the new one needs the disk's claim."""
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
        """Lose the cache of the disk while the exporter goes on, as a device does that is reset."""
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
        """Return the names of the disks that the exporter still has open, although the mounts closed all handles."""
        exporter = self.exporter.exporter
        assert exporter is not None
        return [
            opened.name for session in exporter.sessions.values() for opened in session.opens.values() if opened.name
        ]

    def kept(self) -> bool:
        """Return whether a mount keeps an open without handles, as it does while it checks whether a disk hangs."""
        return any(shared._running for mount in self.mounts for shared in mount.port.shared_opens())

    def settled(self) -> bool:
        """Return whether no request is in flight and every open is closed, also those whose answer came late."""
        under_way = any(channel.outstanding for mount in self.mounts for channel in mount.session.channels)
        return not (under_way or self.kept() or self.left_over())

    async def settle(self) -> None:
        """Wait until the requests in flight are done, or for SETTLE_S. The caller checks the result."""
        with trio.move_on_after(SETTLE_S):
            while not self.settled():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)

    async def check_end(self) -> None:
        """Check that no request is in flight and nothing is left over."""
        await self.settle()
        assert all(channel.outstanding == 0 for mount in self.mounts for channel in mount.session.channels)
        assert not self.kept()
        assert not self.left_over(), "only the roots are open"


async def simulate(seed: int, folder: Path, make_world: type[World] = World) -> int:
    """Do one run, and return the number of calls that succeeded. If the run fails, print its log."""
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
