"""Several channels, and a write that may still be carried out: it never lands over a newer one, and no call is lost."""

import errno
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Op
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.split import SplitRequest
from meshfs.limits import KIB, MIB
from meshfs.loop.worker import Worker
from meshfs.model import IoClass
from meshfs.smb.constants import Command, NtStatus
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.stalling import Relays
from support.pairs import SIZE, Arrivals, carrying, errno_of, pair_of, start_write
from support.waiting import until


async def test_a_close_that_goes_again_is_the_same_fence(tmp_path: Path) -> None:
    """The exporter has the first CLOSE, and the write that it waits for is still at the disk."""
    async with pair_of(tmp_path, 2, io_timeout_s=0.5) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        assert await errno_of(handle.write(0, b"old!")) == errno.ETIMEDOUT
        await until(lambda: carrying(pair, Command.CLOSE) is not None)
        await trio.sleep(0.05)
        channel = carrying(pair, Command.CLOSE)
        assert channel is not None
        channel.fail("cable pulled")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            await trio.sleep(0.2)
            assert disk.stalled == 1, "nothing newer gets to the disk before the old one has landed"
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"


# --- replays -----------------------------------------------------------------------------------


async def test_a_write_in_flight_on_a_lost_channel_is_sent_again_as_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay has the next ChannelSequence. It is repeated while the exporter refuses it."""
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        seen, disk = Arrivals(monkeypatch, Command.WRITE), pair.exporter.disk
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk.stall(lambda request: request.op == Op.WRITE)
        ended = start_write(handle, 0, b"data", nursery)
        await until(lambda: disk.stalled == 1)
        channel = carrying(pair, Command.WRITE)
        assert channel is not None
        channel.fail("cable pulled")
        await trio.sleep(0.1)
        assert disk.stalled == 1
        assert seen.arrived[0] == (0, False)
        assert len(seen.arrived) >= 3
        assert set(seen.arrived[1:]) == {(1, True)}
        disk.release()
        await until(lambda: bool(ended))
        assert ended == [None]
        assert await handle.write(0, b"next") == 4
        assert seen.arrived[-1] == (1, False)
        assert bytes(disk.data[:4]) == b"next"


async def test_a_request_that_waits_for_credits_has_the_sequence_of_when_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's own channel lives, and another channel is lost while the request waits."""
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        seen, disk, session = Arrivals(monkeypatch, Command.WRITE), pair.exporter.disk, pair.session.session
        assert session is not None
        handle = await pair.port.open(IoClass.APP, writable=True)
        first, second = session.channels
        session.pick = lambda size, now: first
        session.split = lambda size, now: []
        disk.stall(lambda request: request.op == Op.WRITE)
        ended = [start_write(handle, number % 8 * MIB, bytes(MIB), nursery) for number in range(30)]
        await until(lambda: bool(first.requests.window.waiting))
        second.fail("cable pulled")
        disk.release()
        await until(lambda: all(ended))
        sent = seen.arrived.count((0, False))
        assert 0 < sent < 30
        assert seen.arrived == [(0, False)] * sent + [(1, False)] * (30 - sent)
        assert {tuple(each) for each in ended} == {(None,)}


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
async def test_a_write_given_up_after_its_channel_was_lost_is_fenced(tmp_path: Path, how: str) -> None:
    async with pair_of(tmp_path, 2, io_timeout_s=0.6) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)

        async def write() -> None:
            assert await errno_of(handle.write(0, b"old!")) == errno.ETIMEDOUT

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: disk.stalled == 1)
            channel = carrying(pair, Command.WRITE)
            assert channel is not None
            channel.fail("cable pulled")
            await trio.sleep(0.1)
            if how == "cancelled":
                nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            await trio.sleep(0.2)
            assert disk.stalled == 1, "held back until the old one has landed"
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"


async def test_a_write_held_on_the_way_is_refused_after_its_replay_and_a_newer_one(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        paths = [Relays(functools.partial(trio.open_unix_socket, tmp_path / "exporter.sock"), nursery) for _ in "12"]
        async with mesh_pair(tmp_path, SIZE, dialers=[path.dial for path in paths]) as pair:
            await until(lambda: len(pair.session.channels) == 2)
            handle = await pair.port.open(IoClass.APP, writable=True)
            session, exporter = pair.session.session, pair.exporter.exporter
            assert session is not None
            assert exporter is not None
            late = paths[0].alive[0]
            channel = pair.session.keepers[0].channel
            assert channel is not None
            session.pick = lambda size, now: channel
            late.hold()
            ended = start_write(handle, 0, b"older", nursery)
            await until(lambda: late.requests.held_bytes > 0)
            session.pick = session.spread.pick
            channel.fail("cable pulled")
            await until(lambda: bool(ended))
            assert ended == [None]
            assert await handle.write(0, b"newer") == 5
            refused = exporter.counters["stale_requests"]
            late.release()
            await until(lambda: exporter.counters["stale_requests"] > refused)
            assert bytes(pair.exporter.disk.data[:5]) == b"newer"
        nursery.cancel_scope.cancel()


# --- parts -------------------------------------------------------------------------------------


def in_parts(pair: Pair) -> tuple[Channel, Channel]:
    """Let each request that may be split go in two halves, one on each of two channels. Return the channels."""
    session = pair.session.session
    assert session is not None
    first, second = session.channels
    session.split = lambda size, now: [(first, size // 2), (second, size - size // 2)]
    return first, second


async def test_parts_are_put_together(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        in_parts(pair)
        data = bytes(range(256)) * (2 * KIB)
        assert await handle.write(4096, data) == len(data)
        assert (
            bytes(await handle.read(4096, len(data))) == data == bytes(pair.exporter.disk.data[4096 : 4096 + len(data)])
        )


@pytest.mark.parametrize("part", [0, 1])
async def test_a_part_whose_channel_dies_goes_again_with_the_whole(tmp_path: Path, part: int) -> None:
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        handle = await pair.port.open(IoClass.APP, writable=True)
        channels = in_parts(pair)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        ended = start_write(handle, 0, b"1" * MIB, nursery)
        await until(lambda: disk.stalled == 2)
        channels[part].fail("cable pulled")
        await trio.sleep(0.05)
        assert not ended, "the call ends after all its parts"
        assert disk.stalled == 2, "a replay does not reach the disk beside the write that it repeats"
        disk.release()
        await until(lambda: bool(ended))
        assert ended == [None]
        assert disk.data[:MIB] == b"1" * MIB


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_part_that_fails_does_not_hide_one_that_may_still_be_written(tmp_path: Path, failing: int) -> None:
    """If one part fails and the channel of the other is lost, the other part must not land over a newer write."""
    half = MIB // 2
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        handle = await pair.port.open(IoClass.APP, writable=True)
        channels = in_parts(pair)
        disk = pair.exporter.disk
        disk.fail(failing * half, failing * half + 1, errno.EIO, (Op.WRITE,))
        held = (1 - failing) * half
        disk.stall(lambda request: request.op == Op.WRITE and request.offset == held and request.length == half)
        ended = start_write(handle, 0, b"1" * MIB, nursery)
        await until(lambda: disk.stalled == 1)
        channels[1 - failing].fail("cable pulled")
        await trio.sleep(0.1)
        newer = start_write(handle, held, b"newer", nursery) if ended else []
        await trio.sleep(0.1)
        disk.release()
        await until(lambda: bool(ended))
        assert ended == [errno.EIO]
        if not newer:
            newer = start_write(handle, held, b"newer", nursery)
        await until(lambda: bool(newer))
        await until(lambda: not disk.in_flight)
        assert newer == [None]
        assert bytes(disk.data[held : held + 5]) == b"newer"


async def test_a_group_whose_caller_is_cancelled_is_fenced(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        in_parts(pair)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        with trio.move_on_after(0.05):
            await handle.write(0, b"1" * MIB)
        assert disk.stalled == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"newer")
            await trio.sleep(0.1)
            assert disk.stalled == 2
            disk.release()
        assert bytes(disk.data[:5]) == b"newer"


class Stepped:
    """Makes a call with a worker, as the loop of FUSE does (worker.WorkerOwner)."""

    def __init__(self, call: Callable[[], Awaitable[object]], nursery: trio.Nursery) -> None:
        self.result: object = None
        self.over = False
        self._nursery = nursery

        async def life() -> None:
            self.result = await call()

        Worker(life(), self).resume()

    def idle(self, worker: Worker) -> None:
        raise AssertionError("the worker makes one call")

    def wants_trio(self, worker: Worker) -> None:
        self._nursery.start_soon(worker.run_in_trio)

    def ended(self, worker: Worker, error: BaseException | None) -> None:
        self.result, self.over = error or self.result, True


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("losses", [1, 2])
async def test_parts_of_a_worker_go_again(tmp_path: Path, op: str, losses: int) -> None:
    """If both channels are lost, the next session takes the request."""
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        handle = await pair.port.open(IoClass.APP, writable=True)
        data, disk = bytes(range(256)) * (4 * KIB), pair.exporter.disk
        await handle.write(0, data)
        channels = in_parts(pair)
        disk.stall(lambda request: request.op in (Op.READ, Op.WRITE))

        async def read() -> bytes:
            return bytes(await handle.read(0, MIB))

        stepped = Stepped(read if op == "read" else lambda: handle.write(0, data[::-1]), nursery)
        await until(lambda: disk.stalled == 2)
        for channel in channels[:losses]:
            channel.fail("cable pulled")
        await trio.sleep(0.05)
        assert not stepped.over
        disk.release()
        await until(lambda: stepped.over)
        assert stepped.result == (data if op == "read" else MIB)
        assert bytes(disk.data[:MIB]) == (data if op == "read" else data[::-1])


async def test_a_cancelled_read_in_parts_leaves_its_channels_in_order(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        channels = in_parts(pair)
        disk = pair.exporter.disk
        disk.stall()
        with trio.move_on_after(0.05):
            await handle.read(0, MIB)
        assert [channel.outstanding for channel in channels] == [1, 1]
        disk.release()
        assert bytes(await handle.read(0, MIB)) == bytes(MIB)
        assert [channel.outstanding for channel in channels] == [0, 0]
        assert tuple(pair.session.channels) == channels


class Part:
    """Stands in for a slot."""

    command = int(Command.WRITE)
    sent = True
    task: object = None


ERRORS = {
    "lost": ChannelLost("cable pulled"),
    "timeout": TimeoutError(errno.ETIMEDOUT, "late"),
    "refused": StatusError(NtStatus.FILE_NOT_AVAILABLE, "not now"),
    "failed": StatusError(NtStatus.IO_DEVICE_ERROR, "bad sector"),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("one", "other", "raised"),
    [
        ("lost", "timeout", "timeout"),
        ("lost", "refused", "lost"),
        ("lost", "failed", "lost"),
        ("timeout", "refused", "timeout"),
        ("timeout", "failed", "timeout"),
    ],
)
async def test_of_several_errors_the_one_counts_that_leaves_a_part_unanswered(
    one: str, other: str, raised: str, order: int
) -> None:
    group, parts = SplitRequest(), [Part(), Part()]
    for number, part in enumerate(parts):
        group.add(part, number)  # type: ignore[arg-type]
    for part, name in zip(parts, (one, other)[::order], strict=True):
        group.take(part, ERRORS[name])  # type: ignore[arg-type]
    with pytest.raises(type(ERRORS[raised])):
        await group


@pytest.mark.parametrize("end", [2 * MIB, 2 * MIB + 256 * KIB, 2 * MIB + 768 * KIB])
async def test_a_part_that_is_short_is_an_error_and_no_zeros(tmp_path: Path, end: int) -> None:
    """The owner's disk is shorter than it said. It ends in the first part, in the second part, or before both."""
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        session, exporter = pair.session.session, pair.exporter.exporter
        assert session is not None
        assert exporter is not None
        first, second = session.channels
        session.split = lambda size, now: [(first, size // 2), (second, size // 2)] if size == MIB else []
        pair.exporter.disk.data[:] = b"x" * SIZE
        assert bytes(await handle.read(2 * MIB, MIB)) == b"x" * MIB
        (offered,) = exporter.disks.all()
        offered.size_bytes = end
        assert await errno_of(handle.read(2 * MIB, MIB)) == errno.EIO
