"""Several channels, and a write that may still happen: it never lands over a newer one, and no call is lost."""

import errno
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Op
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel import Channel
from meshfs.initiator.groups import Group
from meshfs.initiator.port import Handle
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass
from meshfs.smb.constants import Command, NtStatus
from meshfs.testing.mesh_pair import Pair, mesh_pair
from meshfs.transport.stream import connect_unix

SIZE = 8 * MIB


@asynccontextmanager
async def pair_of(folder: Path, channels: int, io_timeout_s: float = 3.0) -> AsyncIterator[Pair]:
    dialers = [functools.partial(connect_unix, folder / "exporter.sock")] * channels
    with trio.fail_after(20):
        async with mesh_pair(folder, SIZE, io_timeout_s=io_timeout_s, dialers=dialers) as pair:
            await until(lambda: len(pair.session.channels) == channels)
            yield pair


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await trio.sleep(0.002)


async def errno_of(call: Awaitable[object]) -> int | None:
    try:
        await call
    except OSError as error:
        return error.errno
    return None


def carrying(pair: Pair, command: Command) -> Channel | None:
    """The channel that has such a request in flight."""
    for channel in pair.session.channels:
        if any(slot.command == command for slot in channel.in_flight()):
            return channel
    return None


async def test_a_close_that_goes_again_is_the_same_fence(tmp_path: Path) -> None:
    """The exporter took the first one, and the write it waits for is still at the disk."""
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


# --- parts -------------------------------------------------------------------------------------


def in_parts(pair: Pair) -> tuple[Channel, Channel]:
    """From now on all that may go in parts does, half on each of two channels."""
    session = pair.session.session
    assert session is not None
    first, second = session.channels
    session.split = lambda size, now: [(first, size // 2), (second, size - size // 2)]
    return first, second


async def start(handle: Handle, data: bytes, nursery: trio.Nursery) -> list[int | None]:
    """Write at 0; the list gets the errno of its end, None for none."""
    ended: list[int | None] = []

    async def write() -> None:
        ended.append(await errno_of(handle.write(0, data)))

    nursery.start_soon(write)
    return ended


async def test_parts_come_together(tmp_path: Path) -> None:
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
        ended = await start(handle, b"1" * MIB, nursery)
        await until(lambda: disk.stalled == 2)
        channels[part].fail("cable pulled")
        await trio.sleep(0.05)
        assert not ended, "nobody is told before all parts are over"
        assert disk.stalled == 2, "a replay does not get to the disk beside what it repeats"
        disk.release()
        await until(lambda: bool(ended))
        assert ended == [None]
        assert disk.data[:MIB] == b"1" * MIB


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_part_that_fails_does_not_hide_one_that_may_still_be_written(tmp_path: Path, failing: int) -> None:
    """One gets EIO, the other's channel dies while it is at the disk: what comes next must not be overwritten by it."""
    half = MIB // 2
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        handle = await pair.port.open(IoClass.APP, writable=True)
        channels = in_parts(pair)
        disk = pair.exporter.disk
        disk.fail(failing * half, failing * half + 1, errno.EIO, (Op.WRITE,))
        held = (1 - failing) * half
        disk.stall(lambda request: request.op == Op.WRITE and request.offset == held and request.length == half)
        ended = await start(handle, b"1" * MIB, nursery)
        await until(lambda: disk.stalled == 1)
        channels[1 - failing].fail("cable pulled")
        await trio.sleep(0.1)
        newer = await start_at(handle, held, b"newer", nursery) if ended else []
        await trio.sleep(0.1)
        disk.release()
        await until(lambda: bool(ended))
        assert ended == [errno.EIO]
        if not newer:
            newer = await start_at(handle, held, b"newer", nursery)
        await until(lambda: bool(newer))
        await until(lambda: not disk.in_flight)
        assert newer == [None]
        assert bytes(disk.data[held : held + 5]) == b"newer"


async def start_at(handle: Handle, offset: int, data: bytes, nursery: trio.Nursery) -> list[int | None]:
    ended: list[int | None] = []

    async def write() -> None:
        ended.append(await errno_of(handle.write(offset, data)))

    nursery.start_soon(write)
    return ended


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


class Part:
    """Stands for a slot."""

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
        ("lost", "timeout", "lost"),
        ("lost", "refused", "lost"),
        ("lost", "failed", "lost"),
        ("timeout", "refused", "timeout"),
        ("timeout", "failed", "timeout"),
    ],
)
async def test_of_several_errors_the_one_counts_that_leaves_a_part_unanswered(
    one: str, other: str, raised: str, order: int
) -> None:
    group, parts = Group(), [Part(), Part()]
    for number, part in enumerate(parts):
        group.add(part, number)  # type: ignore[arg-type]
    for part, name in zip(parts, (one, other)[::order], strict=True):
        group.take(part, ERRORS[name])  # type: ignore[arg-type]
    with pytest.raises(type(ERRORS[raised])):
        await group
