import errno

import pytest
import trio
import trio.testing

from meshfs.disk.base import Op
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.suites.disk import MIB, Batch, DiskCase, DiskSuite, flush, read, write


class TestMemoryDisk(DiskSuite):
    @pytest.fixture
    def case(self) -> DiskCase:
        disk = MemoryDisk(3 * MIB + 1234)
        return DiskCase(disk, lambda: bytes(disk.data))


async def test_a_bad_range_fails_what_touches_it_and_heals() -> None:
    disk = MemoryDisk(MIB)
    disk.fail(4096, 8192, errno.EIO, {Op.READ})
    assert await read(disk, 0, 4096) == bytes(4096)
    assert await read(disk, 0, 4097) == -errno.EIO
    assert await write(disk, 4096, b"w" * 10) == 10
    disk.fail(0, 1, errno.ENOSPC)
    assert await flush(disk) == -errno.ENOSPC
    disk.heal()
    assert await read(disk, 4096, 10) == b"w" * 10


async def test_a_stalled_request_waits_for_its_release() -> None:
    disk = MemoryDisk(MIB)
    disk.stall(lambda request: request.op == Op.WRITE)
    batch = Batch(disk)
    held = batch.write(0, b"held")
    disk.submit([held])
    assert disk.stalled == disk.in_flight == 1
    assert await read(disk, 0, 4) == bytes(4)
    with pytest.raises(RuntimeError, match="in flight"):
        disk.close()
    disk.release()
    await batch.finished()
    assert held.result == 4
    assert await read(disk, 0, 4) == b"held"
    disk.close()


async def test_a_delay_passes_on_the_clock(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk(MIB)
    disk.delay_s = 7.0
    assert await read(disk, 0, 512) == bytes(512)
    assert trio.current_time() == pytest.approx(7.0)


async def test_power_loss_takes_unflushed_writes_and_changes_the_verifier() -> None:
    disk = MemoryDisk(MIB)
    verifier = disk.verifier
    await write(disk, 0, b"flushed")
    await flush(disk)
    await write(disk, 0, b"unflushed")
    await write(disk, 100, b"through", through=True)
    disk.power_loss()
    assert disk.verifier != verifier
    assert await read(disk, 0, 9) == b"flushed\0\0"
    assert await read(disk, 100, 7) == b"through"


async def test_a_read_only_disk_refuses_writes() -> None:
    assert await write(MemoryDisk(MIB, read_only=True), 0, b"x") == -errno.EROFS
