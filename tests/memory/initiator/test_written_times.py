"""The time of the last write of a disk, from the exporter's clock to the port."""

import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from meshfs import limits
from meshfs.exporter.state import offered_disk
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.initiator.attached.written import WrittenTime
from meshfs.initiator.session.commands import query_one_of
from meshfs.limits import MIB
from meshfs.model import Access, DiskInfo, IoClass
from meshlab.fakes.mesh_pair import Pair, mesh_pair


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, MIB, io_timeout_s=3.0) as both:
        yield both


async def test_every_write_moves_the_time_and_nothing_else_does(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    times = [await pair.port.written_ns()]
    for write_through in (False, True, False):
        await handle.write(0, b"news", write_through=write_through)
        times.append(await pair.port.written_ns())
        await handle.read(0, 512)
        await handle.flush()
        assert await pair.port.written_ns() == times[-1]
    assert times == sorted(set(times))


async def test_a_failed_write_may_have_changed_something(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"news")
    before = await pair.port.written_ns()
    pair.exporter.disk.fail(0, 512)
    with pytest.raises(OSError, match="Input/output error") as caught:
        await handle.write(0, b"more")
    assert caught.value.errno == errno.EIO
    assert await pair.port.written_ns() > before


async def test_the_last_known_time_is_shown_while_the_owner_is_away(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"news")
    known = await pair.port.written_ns()
    await pair.exporter.stop()
    with trio.fail_after(limits.ASK_DISK_TIMEOUT_S * 4):
        for _ in range(20):
            assert await pair.port.written_ns() == known
    await pair.nursery.start(pair.exporter.run)
    await pair.connected()
    await pair.exporter.withdraw()
    assert await pair.port.written_ns() == known


@pytest.mark.parametrize("asked_before", [False, True])
async def test_a_write_moves_the_time_though_the_owner_crashed_and_its_clock_was_set_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, asked_before: bool
) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"news")
    times = [await pair.port.written_ns()]
    monkeypatch.setattr(offered_disk.time, "time_ns", lambda: 1_000_000_000)
    await pair.restart()
    for data in (b"more", b"last"):
        if asked_before:
            assert await pair.port.written_ns() == times[-1]
        await handle.write(0, data)
        times.append(await pair.port.written_ns())
    assert times == sorted(set(times))
    assert await pair.port.written_ns() == times[-1]


def test_only_another_session_may_tell_of_an_older_time() -> None:
    written, first, second = WrittenTime(100), object(), object()

    def shown(ns: int, session: object) -> int:
        written.told(ns, session)
        return written.shown_ns

    assert [shown(ns, first) for ns in (100, 0, 120, 110, 120)] == [100, 100, 120, 120, 120]
    assert [shown(ns, second) for ns in (0, 120, 90, 130)] == [120, 120, 120, 130]
    assert [shown(ns, first) for ns in (90, 90, 95, 93, 200)] == [131, 131, 132, 132, 200]


def test_the_list_of_disks_is_no_write_of_its_own() -> None:
    written, session = WrittenTime(0), object()
    written.announced(100)
    written.told(100, session)
    assert written.shown_ns == 100
    written.announced(90)
    written.announced(110)
    written.told(110, session)
    assert written.shown_ns == 110


async def test_the_root_describes_one_disk_by_its_name(pair: Pair) -> None:
    session = pair.session.session
    assert session is not None
    info = pair.exporter.info()
    told = await session.ask(lambda channel: query_one_of(channel, session.root, info))
    assert told is not None
    assert replace(told, written_ns=0) == info
    other = replace(info, id="other", name="no such disk")
    assert await session.ask(lambda channel: query_one_of(channel, session.root, other)) is None


def offered(runner: object, written_ns: int = 0) -> OfferedDisk:
    info = DiskInfo(
        id="d", node="n1", name="d", size_bytes=512, access=Access.READ_WRITE, verifier="", written_ns=written_ns
    )
    return OfferedDisk(info, cast(Any, runner), lambda node: Access.READ_WRITE)


def test_the_time_moves_forward_though_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = SimpleNamespace(written_s=None, now=100.0)
    runner.age_s = lambda then_s: runner.now - then_s
    disk = offered(runner, written_ns=5_000_000_000)
    assert disk.written_ns() == 5_000_000_000
    monkeypatch.setattr(offered_disk.time, "time_ns", lambda: 9_000_000_000)
    runner.written_s = 99.0
    # The write was one second ago, and stays at that time whenever it is queried.
    assert disk.written_ns() == 8_000_000_000
    runner.now = 300.0
    assert disk.written_ns() == 8_000_000_000
    monkeypatch.setattr(offered_disk.time, "time_ns", lambda: 1_000_000_000)
    runner.written_s = 300.0
    assert disk.written_ns() == 8_000_000_001
