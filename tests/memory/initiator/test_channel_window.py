"""Several disks on one connection, with both ends: a flood or a hung disk leaves credits to the other disks."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.cluster.config_nodes import disk_id
from meshfs.disk.base import Op
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.port import Port
from meshfs.initiator.channel.credits import Lane
from meshfs.limits import KIB, MIB
from meshfs.model import Access, FlowKey, IoClass
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.fakes.mesh_pair import NODE, Pair, mesh_pair
from support.waiting import until

SIZE = 4 * MIB
APP, SYSTEM = IoClass.APP, IoClass.SYSTEM


@dataclass
class Shelf:
    """One exporter with several disks, and a port to each."""

    pair: Pair
    disks: Sequence[MemoryDisk]
    ports: Sequence[Port]

    async def open(self, index: int, io_class: IoClass = APP) -> Handle:
        return await self.ports[index].open(io_class, writable=True)

    def lane(self, index: int, io_class: IoClass = APP) -> Lane:
        (channel,) = self.pair.session.channels
        return self.ports[index]._opens[io_class].shared.lane(channel)

    def available(self) -> int:
        (channel,) = self.pair.session.channels
        return channel.credits.available

    async def all_credits_back(self) -> None:
        await until(lambda: self.available() == limits.CREDITS_MAX)
        assert all(
            lane.held == 0 for port in self.ports for shared in port.shared_opens() for lane in shared.lanes.values()
        )
        (channel,) = self.pair.session.channels
        assert channel.outstanding == 0


@asynccontextmanager
async def shelf(folder: Path, count: int, *, io_timeout_s: float = limits.IO_TIMEOUT_S) -> AsyncIterator[Shelf]:
    async with mesh_pair(folder, SIZE, io_timeout_s=io_timeout_s) as pair:
        assert pair.exporter.exporter is not None
        disks, ports = [], []
        for index in range(1, count + 1):
            disk, name = MemoryDisk(SIZE, name=f"disk{index}"), f"disk{index}"
            info = replace(pair.exporter.info(), id=disk_id(NODE, name), name=name, verifier=disk.verifier)
            # The queue is deep and first come first served, so that the window alone decides.
            runner = Runner(FifoQueue(limits.DISK_DEPTH_MAX), disk)
            pair.nursery.start_soon(runner.run)
            pair.exporter.exporter.disks.add(OfferedDisk(info, runner, lambda node: Access.READ_WRITE))
            disks.append(disk)
            ports.append(Port(info, pair.session, io_timeout_s, pair.nursery.start_soon))
        for channel in pair.session.channels:
            # The tests count single credits of a lane. A busy machine must not look like a slow exporter.
            channel.probe.delay.next_s = inf
        yield Shelf(pair, disks, ports)
        for disk in disks:
            disk.release()


async def read_quietly(handle: Handle, size: int) -> None:
    with suppress(OSError):
        await handle.read(0, size)


def flood(nursery: trio.Nursery, handle: Handle, depth: int, size: int = MIB) -> None:
    for _ in range(depth):
        nursery.start_soon(read_quietly, handle, size)


async def use(handle: Handle, size: int = MIB) -> None:
    """Write, read and flush."""
    assert await handle.write(0, bytes(size)) == size
    assert len(await handle.read(0, size)) == size
    await handle.flush()


async def test_a_stalled_system_flood_stops_no_application(tmp_path: Path) -> None:
    async with shelf(tmp_path, 2) as mesh, trio.open_nursery() as nursery:
        system = await mesh.open(0, SYSTEM)
        mesh.disks[0].stall(lambda request: request.flow == FlowKey("n2", SYSTEM))
        flood(nursery, system, 100)
        await until(lambda: mesh.disks[0].stalled == 9)
        with trio.fail_after(10):
            for index, io_class in ((0, APP), (1, APP), (1, SYSTEM)):
                handle = await mesh.open(index, io_class)
                await use(handle)
                await use(handle, 4 * KIB)
        assert mesh.disks[0].stalled == 9
        nursery.cancel_scope.cancel()


async def test_any_number_of_small_requests_leaves_room_for_another_disk(tmp_path: Path) -> None:
    async with shelf(tmp_path, 2) as mesh, trio.open_nursery() as nursery:
        other = await mesh.open(1)
        mesh.disks[0].stall()
        for io_class in IoClass:
            flood(nursery, await mesh.open(0, io_class), 600, 4 * KIB)
        with trio.fail_after(10):
            await use(other)
        nursery.cancel_scope.cancel()


async def test_hung_disks_leave_room_for_another(tmp_path: Path) -> None:
    count = 6
    async with shelf(tmp_path, count + 1) as mesh, trio.open_nursery() as nursery:
        for index in range(count):
            handle = await mesh.open(index)
            mesh.disks[index].stall()
            flood(nursery, handle, 32)
        with trio.fail_after(10):
            handle = await mesh.open(count)
            await use(handle)
            await handle.close()
        nursery.cancel_scope.cancel()


async def test_a_hung_disk_stays_alone_past_its_deadlines(tmp_path: Path) -> None:
    """Its calls end at the bound and are made again. Only their credits and the one of a probe stay in use."""
    async with shelf(tmp_path, 2, io_timeout_s=1.0) as mesh:
        handle, other = await mesh.open(0), await mesh.open(1)
        mesh.disks[0].stall(lambda request: request.op == Op.READ)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                flood(nursery, handle, 64)
                await use(other)
        assert mesh.lane(0).held == 22 * 16 + 1
        await until(lambda: not mesh.lane(0).waiting)
        mesh.disks[0].release()
        await until(lambda: not mesh.ports[0].answers.held)
        await use(handle)
        await mesh.all_credits_back()


async def test_a_hung_disk_and_a_lost_connection_keep_nobody_from_the_other_disks(tmp_path: Path) -> None:
    """The new session comes at once. Only opens of the hung disk wait for requests of the old session there."""
    async with shelf(tmp_path, 2) as mesh:
        handle, other = await mesh.open(0), await mesh.open(1)
        mesh.disks[0].stall(lambda request: request.op == Op.WRITE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"data")
            await until(lambda: mesh.disks[0].stalled == 1)
            for channel in mesh.pair.session.channels:
                channel.fail("cable pulled")
            with trio.fail_after(5):
                await use(other)
                await use(await mesh.open(1, SYSTEM))
            assert mesh.disks[0].stalled == 1
            mesh.disks[0].release()
        assert mesh.disks[0].data[:4] == b"data"


async def test_the_system_makes_progress_under_a_flood_of_applications(tmp_path: Path) -> None:
    async with shelf(tmp_path, 4) as mesh, trio.open_nursery() as nursery:
        done = 0

        async def forever(handle: Handle, size: int) -> None:
            nonlocal done
            while True:
                await handle.read(0, size)
                done += 1

        for index in range(3):
            handle = await mesh.open(index)
            for _ in range(60):
                nursery.start_soon(forever, handle, (4 * KIB, 64 * KIB, MIB)[index])
        system = await mesh.open(3, SYSTEM)
        with trio.fail_after(30):
            for _ in range(10):
                assert len(await system.read(0, MIB)) == MIB
        assert done > 0
        nursery.cancel_scope.cancel()


async def test_everything_waits_its_turn_and_is_served(tmp_path: Path) -> None:
    """Calls of both classes at several disks, which need more than all credits at once, are all done."""
    async with shelf(tmp_path, 3) as mesh:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for index in range(3):
                    for io_class in IoClass:
                        handle = await mesh.open(index, io_class)
                        for _ in range(40):
                            nursery.start_soon(use, handle)
        await mesh.all_credits_back()


# --- credits that must come back ----------------------------------------------------------------


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
async def test_callers_that_leave_cost_no_credits(tmp_path: Path, op: Op) -> None:
    """Calls are cancelled in flight and while they wait. The credits come back when the disk answers."""
    async with shelf(tmp_path, 1) as mesh:
        handle = await mesh.open(0, SYSTEM)
        mesh.disks[0].stall(lambda request: request.op == op)
        for _ in range(2):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    if op == Op.READ:
                        flood(nursery, handle, 20)
                    else:
                        for _ in range(20):
                            nursery.start_soon(handle.write, 0, bytes(MIB))
                    await until(lambda: mesh.disks[0].stalled == 9)
                    scope.cancel()
            mesh.disks[0].release()
            await mesh.all_credits_back()
            mesh.disks[0].stall(lambda request: request.op == op)
        mesh.disks[0].release()
        await use(handle)
        await mesh.all_credits_back()


async def test_deadlines_cost_no_credits(tmp_path: Path) -> None:
    async with shelf(tmp_path, 2, io_timeout_s=1.0) as mesh:
        handle, other = await mesh.open(0), await mesh.open(1)
        mesh.disks[0].stall()
        errors: list[int | None] = []

        async def read() -> None:
            try:
                await handle.read(0, MIB)
            except OSError as error:
                errors.append(error.errno)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(read)
        assert len(errors) == 40
        await use(other)
        mesh.disks[0].release()
        await use(handle)
        await mesh.all_credits_back()


async def test_a_lost_channel_takes_its_lanes_along(tmp_path: Path) -> None:
    """Requests that waited or were in flight are sent again on the next channel, which has all its credits."""
    async with shelf(tmp_path, 1) as mesh:
        handle = await mesh.open(0)
        mesh.disks[0].stall()
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(handle.read, 0, MIB)
            await until(lambda: mesh.disks[0].stalled == 22)
            (channel,), lane = mesh.pair.session.channels, mesh.lane(0)
            assert (lane.held, len(lane.waiting)) == (22 * 16, 18)
            channel.fail("cable pulled")
            await until(lambda: channel.closed)
            assert (lane.held, len(lane.waiting), channel.outstanding) == (0, 0, 0)
            mesh.disks[0].release()
        assert mesh.lane(0) is not lane
        await use(handle)
        await mesh.all_credits_back()


async def test_a_flush_uses_its_lanes_credits(tmp_path: Path) -> None:
    async with shelf(tmp_path, 1) as mesh, trio.open_nursery() as nursery:
        handle = await mesh.open(0)
        mesh.disks[0].stall(lambda request: request.op == Op.FLUSH)
        nursery.start_soon(handle.flush)
        await until(lambda: mesh.disks[0].stalled == 1)
        assert mesh.lane(0).held == 1
        mesh.disks[0].release()
        await until(lambda: mesh.lane(0).held == 0)
