"""Flushes and lost writes: each handle whose acknowledged writes were lost gets EIO once, and no other does."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Op
from meshfs.initiator.attached.handle import Handle
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of
from support.waiting import until

SIZE = 8 * MIB


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=3.0) as both:
        yield both


async def test_an_unmount_flushes_writes_that_no_program_flushed(pair: Pair) -> None:
    disk = pair.exporter.disk

    await pair.port.settle()
    assert disk.flushes == 0
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"closed without fsync")
    await handle.close()
    await pair.port.settle()
    flushed = disk.flushes
    assert flushed == 1
    disk.power_loss()
    assert bytes(disk.data[:20]) == b"closed without fsync"
    await pair.port.settle()
    assert disk.flushes == flushed


async def test_an_unmount_does_not_wait_for_an_owner_that_is_away_and_says_so(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"x")
    await pair.exporter.stop()
    await until(lambda: pair.session.session is None)
    with trio.fail_after(1):
        await pair.port.settle()
    assert "what nobody flushed may not be on stable storage" in caplog.text


async def test_lost_writes_are_reported_once_to_each_writer(pair: Pair) -> None:
    writer = await pair.port.open(IoClass.APP, writable=True)
    durable = await pair.port.open(IoClass.APP, writable=True)
    reader = await pair.port.open(IoClass.SYSTEM, writable=True)
    await durable.write(4096, b"safe")
    await durable.flush()
    await durable.write(8192, b"safe too", write_through=True)
    await writer.write(0, b"lost")
    await pair.exporter.stop()
    pair.exporter.disk.power_loss()
    await pair.nursery.start(pair.exporter.run)
    assert await errno_of(writer.flush()) == errno.EIO
    assert await errno_of(writer.flush()) is None
    assert await errno_of(durable.flush()) is None
    assert await errno_of(reader.flush()) is None
    assert bytes(pair.exporter.disk.data[4096:4100]) == b"safe"
    await writer.write(0, b"anew")
    assert await errno_of(writer.flush()) is None


async def test_a_restart_that_loses_nothing_is_no_error(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"kept")
    await pair.restart()
    assert await errno_of(handle.flush()) is None


async def test_a_failed_flush_is_reported_to_every_writer(pair: Pair) -> None:
    first = await pair.port.open(IoClass.APP, writable=True)
    second = await pair.port.open(IoClass.SYSTEM, writable=True)
    await first.write(0, b"1")
    await second.write(512, b"2")
    pair.exporter.disk.fail(0, SIZE, errno.EIO, (Op.FLUSH,))
    assert await errno_of(first.flush()) == errno.EIO
    pair.exporter.disk.heal()
    assert await errno_of(second.flush()) == errno.EIO
    assert [await errno_of(handle.flush()) for handle in (first, second)] == [None, None]


async def test_pages_another_initiators_flush_lost_are_noticed(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"gone")
    pair.exporter.disk.power_loss()
    assert await errno_of(handle.flush()) == errno.EIO
    assert await errno_of(handle.flush()) is None


async def test_a_loss_is_reported_though_the_exporter_goes_away_while_it_is_found(pair: Pair) -> None:
    """The FLUSH fails, and the verifier cannot be queried. The time-out of the query must not stand for the loss."""
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"lost")
    disk = pair.exporter.disk
    disk.fail(0, SIZE, errno.EIO, (Op.FLUSH,))
    check = handle._check_verifier

    async def exporter_stops(deadline: float) -> None:
        await pair.exporter.stop()
        await check(trio.current_time() + 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handle, "_check_verifier", lambda _, deadline: exporter_stops(deadline))
        assert await errno_of(handle.flush()) in (errno.EIO, errno.ETIMEDOUT)
    disk.heal()
    await pair.nursery.start(pair.exporter.run)
    told = await errno_of(handle.flush())
    assert told == errno.EIO
    assert await errno_of(handle.flush()) is None


async def test_a_flush_of_a_handle_without_writes_does_not_hide_the_loss_of_another(pair: Pair) -> None:
    """The FLUSH covers the writes of the other handle. So the port has to check whether they were lost."""
    writer = await pair.port.open(IoClass.APP, writable=True)
    other = await pair.port.open(IoClass.APP, writable=True)
    await writer.write(0, b"gone")
    pair.exporter.disk.power_loss()
    assert await errno_of(other.flush()) is None
    assert await errno_of(writer.flush()) == errno.EIO
    assert await errno_of(writer.flush()) is None
