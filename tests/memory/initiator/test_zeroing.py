"""Zeroing with both ends in one process: the promises of a handle while channels and exporters come and go."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk.open import DiskOpen
from meshfs.exporter.kinds.kind import Kind
from meshfs.initiator.attached.clear_size import ClearSize
from meshfs.initiator.attached.handle import Handle
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshfs.smb.constants import Command, Fsctl
from meshfs.smb.messages import IoctlRequest
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


async def zero_all(handle: Handle, offset: int, length: int) -> None:
    stop = offset + length
    while offset < stop:
        offset += await handle.zero(offset, stop - offset)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (4095, 2), (512, 4096), (100, SIZE - 200), (0, SIZE)])
async def test_a_zeroing_changes_exactly_its_range(pair: Pair, offset: int, length: int) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await zero_all(handle, offset, length)
    assert bytes(pair.exporter.disk.data) == FULL[:offset] + bytes(length) + FULL[offset + length :]
    assert bytes(await handle.read(max(offset - 1, 0), 3)) == bytes(pair.exporter.disk.data[max(offset - 1, 0) :][:3])


async def test_a_zeroing_is_refused_as_a_write_is(pair: Pair) -> None:
    reader = await pair.port.open(IoClass.APP, writable=False)
    handle = await pair.port.open(IoClass.APP, writable=True)
    assert await errno_of(reader.zero(0, 512)) == errno.EBADF
    assert await errno_of(handle.zero(SIZE, 1)) == errno.ENOSPC
    assert await handle.zero(SIZE - 10, 100) == 10
    await handle.close()
    assert await errno_of(handle.zero(0, 1)) == errno.EBADF


async def test_zeroing_returns_the_bytes_done_before_an_error(pair: Pair) -> None:
    handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
    disk.fail(PIECE + 4096, PIECE + 8192, errno.EIO, (Op.ZERO,))
    assert await handle.zero(0, SIZE) == PIECE
    assert await errno_of(handle.zero(PIECE, SIZE - PIECE)) == errno.EIO
    disk.heal()
    await zero_all(handle, PIECE, SIZE - PIECE)
    assert bytes(disk.data) == bytes(SIZE)


@pytest.mark.parametrize(
    ("size", "took_s", "following"),
    [
        (PIECE, 0.1, 2 * PIECE),
        (PIECE, 1.0, PIECE),
        (PIECE, 5.0, PIECE // 2),
        (limits.ZERO_PIECE_MIN_BYTES, 5.0, limits.ZERO_PIECE_MIN_BYTES),
        (limits.ZERO_REQUEST_MAX_BYTES, 0.1, limits.ZERO_REQUEST_MAX_BYTES),
    ],
)
def test_each_call_stays_far_from_the_bound(size: int, took_s: float, following: int) -> None:
    clear = ClearSize()
    clear.bytes = size
    clear.took(took_s, 30.0)
    assert clear.bytes == following


async def test_after_a_time_out_a_handle_asks_for_less_at_once(pair: Pair) -> None:
    handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
    disk.stall(lambda request: request.op == Op.ZERO)
    assert await errno_of(handle.zero(0, SIZE)) == errno.ETIMEDOUT
    disk.release()
    assert await handle.zero(0, SIZE) == limits.ZERO_PIECE_MIN_BYTES
    await zero_all(handle, 0, SIZE)
    assert bytes(disk.data) == bytes(SIZE)


# --- lost writes -------------------------------------------------------------------------


async def test_a_zeroing_counts_as_a_write_until_the_next_flush(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.zero(0, 4096)
    await handle.flush()
    await handle.zero(4096, 4096)
    pair.exporter.disk.power_loss()
    assert await errno_of(handle.flush()) == errno.EIO
    assert await errno_of(handle.flush()) is None


async def test_a_zeroing_with_write_through_is_stable_when_it_ends(pair: Pair) -> None:
    handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
    await handle.zero(0, 4096, write_through=True)
    disk.power_loss()
    assert bytes(disk.data[:4096]) == bytes(4096)
    assert await errno_of(handle.flush()) is None


# --- lost channels -----------------------------------------------------------------------


def is_zeroing(request: Request) -> bool:
    return IoctlRequest.unpack(request.message.body).ctl_code == Fsctl.SET_ZERO_DATA


async def test_a_zeroing_on_a_lost_channel_goes_again_as_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair_of(tmp_path, 2) as pair, trio.open_nursery() as nursery:
        seen, disk = Arrivals(monkeypatch, Command.IOCTL, is_zeroing), pair.exporter.disk
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk.data[:] = b"\xaa" * len(disk.data)
        disk.stall(lambda request: request.op == Op.ZERO)
        done: list[int] = []

        async def zero() -> None:
            done.append(await handle.zero(0, 8192))

        nursery.start_soon(zero)
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
        assert bytes(disk.data[:8192]) == b"next" + bytes(8188)


@pytest.mark.parametrize("how", ["timeout", "cancel", "lost"])
async def test_a_zeroing_that_was_given_up_never_lands_over_a_newer_write(tmp_path: Path, how: str) -> None:
    async with pair_of(tmp_path, 2, io_timeout_s=0.6) as pair:
        handle, disk = await pair.port.open(IoClass.APP, writable=True), pair.exporter.disk
        disk.stall(lambda request: request.op == Op.ZERO)
        async with trio.open_nursery() as nursery:
            if how == "cancel":
                with trio.move_on_after(0.1):
                    await handle.zero(0, 4096)
            else:
                nursery.start_soon(errno_of, handle.zero(0, 4096))
                await until(lambda: disk.stalled == 1)
                if how == "lost":
                    channel = carrying(pair, Command.IOCTL)
                    assert channel is not None
                    channel.fail("cable pulled")
        assert disk.stalled == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            await trio.sleep(0.2)
            assert disk.stalled == 1, "nothing newer reaches the disk before the old zeroing has ended"
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"


async def test_an_exporter_that_cannot_zero_is_written_to(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older exporter cannot zero. A cluster has both while it is upgraded node by node."""
    monkeypatch.setattr(DiskOpen, "ioctl", Kind.ioctl)
    handle = await pair.port.open(IoClass.APP, writable=True)
    await zero_all(handle, 100, 3 * MIB)
    assert bytes(pair.exporter.disk.data[: 4 * MIB]) == FULL[:100] + bytes(3 * MIB) + FULL[: MIB - 100]


async def test_a_zeroing_waits_for_an_exporter_that_is_away(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle.zero, 0, 4096)
        await trio.sleep(0.2)
        await nursery.start(pair.exporter.run)
        await until(lambda: bytes(pair.exporter.disk.data[:4096]) == bytes(4096))
        nursery.cancel_scope.cancel()
