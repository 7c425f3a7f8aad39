"""Discards with both ends in one process: the promises of a handle, also when channels come and go."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.exporter.exchange.request import Request
from meshfs.granules import NO_GRANULES, Granules
from meshfs.initiator.attached.handle import Handle
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshfs.smb.constants import Command, Fsctl
from meshfs.smb.messages import IoctlRequest
from meshlab.fakes.memory_disk import DISCARDED
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import Arrivals, carrying, errno_of, pair_of
from support.waiting import until

SIZE = 16 * MIB
FULL = b"\xaa" * SIZE
PIECE = limits.ZERO_PIECE_BYTES


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=2.0) as both:
        both.exporter.disk.data[:] = FULL
        yield both


async def discard_all(handle: Handle, offset: int, length: int) -> None:
    stop = offset + length
    while offset < stop:
        offset += await handle.discard(offset, stop - offset)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (4095, 2), (512, 4096), (100, SIZE - 200), (0, SIZE)])
async def test_a_discard_concerns_the_whole_granules_of_its_range(pair: Pair, offset: int, length: int) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await discard_all(handle, offset, length)
    start, stop = pair.exporter.disk.granules.whole(offset, offset + length)
    assert bytes(pair.exporter.disk.data) == FULL[:start] + DISCARDED * (stop - start) + FULL[stop:]


async def test_a_long_discard_loses_no_granule_where_it_is_cut(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, 40 * MIB) as pair:
        disk = pair.exporter.disk
        disk.granules = Granules(3 * MIB, MIB)
        await pair.restart()
        await until(lambda: pair.port.latest().discard_granularity_bytes == 3 * MIB)
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk.data[:] = b"\xaa" * len(disk.data)
        await discard_all(handle, 0, 40 * MIB)
        assert bytes(disk.data) == b"\xaa" * MIB + DISCARDED * 39 * MIB


async def test_a_discard_is_refused_as_a_write_is(pair: Pair) -> None:
    reader = await pair.port.open(IoClass.APP, writable=False)
    handle = await pair.port.open(IoClass.APP, writable=True)
    assert await errno_of(reader.discard(0, 512)) == errno.EBADF
    assert await errno_of(handle.discard(SIZE, 1)) == errno.ENOSPC
    assert await handle.discard(SIZE - 4096, 9000) == 4096
    await handle.close()
    assert await errno_of(handle.discard(0, 1)) == errno.EBADF


async def test_a_disk_that_cannot_discard_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh_pair(tmp_path, SIZE) as pair:
        pair.exporter.disk.granules = NO_GRANULES
        await pair.restart()
        await until(lambda: not pair.port.latest().discard_granularity_bytes)
        seen = Arrivals(monkeypatch, Command.IOCTL, is_trim)
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await errno_of(handle.discard(0, SIZE)) == errno.EOPNOTSUPP
        assert not seen.arrived


async def test_a_disk_whose_device_turns_out_not_to_discard(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.exporter.disk.granules = NO_GRANULES
    assert await errno_of(handle.discard(0, SIZE)) == errno.EOPNOTSUPP


async def test_after_a_time_out_a_handle_asks_for_less_at_once(pair: Pair) -> None:
    handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
    disk.stall(lambda request: request.op == Op.DISCARD)
    assert await errno_of(handle.discard(0, SIZE)) == errno.ETIMEDOUT
    disk.release()
    assert await handle.discard(0, SIZE) == limits.ZERO_PIECE_MIN_BYTES
    assert await handle.zero(0, SIZE) == PIECE, "a zeroing has a size of its own"


async def test_a_discard_counts_as_a_write_until_the_next_flush(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.discard(0, 4096)
    await handle.flush()
    await handle.discard(4096, 4096)
    pair.exporter.disk.power_loss()
    assert await errno_of(handle.flush()) == errno.EIO
    assert await errno_of(handle.flush()) is None


# --- lost channels -----------------------------------------------------------------------


def is_trim(request: Request) -> bool:
    return IoctlRequest.unpack(request.message.body).ctl_code == Fsctl.FILE_LEVEL_TRIM


async def test_a_discard_on_a_lost_channel_goes_again_as_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        seen, disk = Arrivals(monkeypatch, Command.IOCTL, is_trim), pair.exporter.disk
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk.stall(lambda request: request.op == Op.DISCARD)
        done: list[int] = []

        async def discard() -> None:
            done.append(await handle.discard(0, 8192))

        nursery.start_soon(discard)
        await until(lambda: disk.stalled == 1)
        channel = carrying(pair, Command.IOCTL)
        assert channel is not None
        channel.fail("cable pulled")
        await trio.sleep(0.1)
        assert disk.stalled == 1
        assert seen.arrived[0] == (0, False)
        assert set(seen.arrived[1:]) == {(1, True)}
        disk.release()
        await until(lambda: bool(done))
        assert done == [8192]
        assert await handle.write(0, b"next") == 4
        assert bytes(disk.data[:8192]) == b"next" + DISCARDED * 8188


@pytest.mark.parametrize("how", ["timeout", "cancel", "lost"])
async def test_a_discard_that_was_given_up_never_lands_over_a_newer_write(tmp_path: Path, how: str) -> None:
    async with pair_of(tmp_path, 2, io_timeout_s=0.6) as pair:
        handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
        disk.stall(lambda request: request.op == Op.DISCARD)
        async with trio.open_nursery() as nursery:
            if how == "cancel":
                with trio.move_on_after(0.1):
                    await handle.discard(0, 4096)
            else:
                nursery.start_soon(errno_of, handle.discard(0, 4096))
                await until(lambda: disk.stalled == 1)
                if how == "lost":
                    channel = carrying(pair, Command.IOCTL)
                    assert channel is not None
                    channel.fail("cable pulled")
        assert disk.stalled == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            await trio.sleep(0.2)
            assert disk.stalled == 1, "nothing newer reaches the disk before the old discard has ended"
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"
