"""Several channels, and a write that may still happen: it never lands over a newer one, and no call is lost."""

import errno
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshfs.disk.base import Op
from meshfs.initiator.channel import Channel
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshfs.smb.constants import Command
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
