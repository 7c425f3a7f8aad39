"""A disk that is replaced under its name: handles of the old disk get ESTALE, and never touch the new one."""

import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.initiator.attached.handle import Handle
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of

SIZE = MIB
OLD, NEW = b"old disk", b"new disk"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=3.0) as both:
        both.exporter.disk.data[: len(OLD)] = OLD
        yield both


def another_disk(size_bytes: int = SIZE) -> MemoryDisk:
    disk = MemoryDisk(size_bytes, name="another")
    disk.data[: len(NEW)] = NEW
    return disk


async def swap(pair: Pair, *, restart: bool, disk: MemoryDisk | None = None, instance: str = "another") -> None:
    disk = disk or another_disk()
    if restart:
        await pair.exporter.stop()
        pair.exporter.disk, pair.exporter.instance = disk, instance
        await pair.nursery.start(pair.exporter.run)
    else:
        await pair.exporter.swap(disk, instance)


async def errors_of(handle: Handle) -> set[int | None]:
    return {
        await errno_of(handle.read(0, 512)),
        await errno_of(handle.write(0, bytes(512))),
        await errno_of(handle.flush()),
        await errno_of(handle.write(0, bytes(512), write_through=True)),
    }


async def is_stale(handle: Handle) -> bool:
    return await errors_of(handle) == {errno.ESTALE}


@pytest.mark.parametrize("restart", [True, False])
async def test_handles_of_the_old_disk_never_touch_the_new_one(pair: Pair, *, restart: bool) -> None:
    old = [await pair.port.open(io_class, writable=True) for io_class in (IoClass.APP, IoClass.SYSTEM, IoClass.APP)]
    assert bytes(await old[0].read(0, len(OLD))) == OLD
    await old[1].write(512, OLD)
    await swap(pair, restart=restart)
    for handle in old:
        assert await is_stale(handle)
    assert pair.exporter.disk.data[: len(NEW)] == NEW
    new = await pair.port.open(IoClass.APP, writable=True)
    assert bytes(await new.read(0, len(NEW))) == NEW
    await new.write(512, NEW)
    await new.flush()
    for handle in old:
        assert await is_stale(handle)
        await handle.close()
    assert bytes(await new.read(512, len(NEW))) == NEW
    assert pair.exporter.disk.data[512 : 512 + len(NEW)] == NEW
    assert pair.port.fences == 0


async def test_handles_of_the_old_disk_do_not_tell_whether_the_new_one_hangs(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=0.5) as pair:
        old = await pair.port.open(IoClass.APP, writable=True)
        await swap(pair, restart=False)
        assert await is_stale(old)
        new = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall()
        assert await errno_of(new.read(0, 512)) == errno.ETIMEDOUT
        await trio.testing.wait_all_tasks_blocked()
        assert pair.port.answers.held
        assert await is_stale(old)
        await trio.sleep(3 * limits.CHANNEL_TICK_S)
        assert pair.port.answers.held
        pair.exporter.disk.release()


async def test_a_new_open_finds_the_new_disk_although_nobody_used_the_old_one(pair: Pair) -> None:
    old = await pair.port.open(IoClass.APP, writable=True)
    await swap(pair, restart=False)
    # The list of disks shows the other disk before any request of the old open fails.
    pair.port.announced(pair.exporter.info())
    new = await pair.port.open(IoClass.APP, writable=True)
    assert bytes(await new.read(0, len(NEW))) == NEW
    assert await is_stale(old)


async def test_an_old_list_of_disks_does_no_harm(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.port.announced(replace(pair.exporter.info(), instance="an old one"))
    assert bytes(await handle.read(0, len(OLD))) == OLD
    await handle.write(0, OLD)
    await handle.flush()


@pytest.mark.parametrize(("size", "stale"), [(SIZE // 2, True), (SIZE * 2, False)])
async def test_a_disk_that_shrank_is_another_one_and_one_that_grew_is_not(
    pair: Pair, size: int, *, stale: bool
) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await swap(pair, restart=True, disk=another_disk(size), instance=pair.exporter.instance)
    assert await is_stale(handle) is stale


async def test_a_restart_with_the_same_disk_changes_nothing(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, NEW)
    await pair.restart()
    assert bytes(await handle.read(0, len(NEW))) == NEW
    await handle.flush()


async def test_a_write_that_waited_for_the_old_disk_is_not_done_on_the_new_one(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.stop()
    results: list[int | None] = []

    async def write() -> None:
        results.append(await errno_of(handle.write(0, OLD)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.05)
        pair.exporter.disk, pair.exporter.instance = another_disk(), "another"
        await pair.nursery.start(pair.exporter.run)
    assert results == [errno.ESTALE]
    assert pair.exporter.disk.data[: len(NEW)] == NEW


async def test_an_open_under_way_while_the_disk_is_replaced_gets_the_new_disk(pair: Pair) -> None:
    old = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.stop()
    opened: list[Handle] = []

    async def open_it() -> None:
        opened.append(await pair.port.open(IoClass.APP, writable=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_it)
        await trio.testing.wait_all_tasks_blocked(0.05)
        pair.exporter.disk, pair.exporter.instance = another_disk(), "another"
        await pair.nursery.start(pair.exporter.run)
    assert bytes(await opened[0].read(0, len(NEW))) == NEW
    assert await is_stale(old)


async def test_an_open_that_finds_another_disk_corrects_the_list_of_disks(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await swap(pair, restart=True)
    assert await is_stale(handle)
    assert [info.instance for info in pair.session.disks] == ["another"]


async def test_an_open_file_of_a_disk_that_is_not_offered_now_gets_enodev_until_it_is_back(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.withdraw()
    assert await errors_of(handle) == {errno.ENODEV}
    assert await errno_of(pair.port.open(IoClass.SYSTEM, writable=True)) == errno.ENOENT
    pair.exporter.offer()
    with trio.fail_after(5):
        while await errno_of(handle.read(0, 512)) == errno.ENODEV:  # noqa: ASYNC110 - the open is tried each second
            await trio.sleep(0.1)
    assert bytes(await handle.read(0, len(OLD))) == OLD
