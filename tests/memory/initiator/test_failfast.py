"""One bound for all calls: an exporter that stays away, and a disk that hangs, cost a program io_timeout_s once."""

import errno
import functools
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.disk.base import Op
from meshfs.exporter.serving.link import Link
from meshfs.initiator.remote.dialing import UnixWay
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.remote.status import exporter_status
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import MIB
from meshfs.model import DiskState, IoClass
from meshfs.smb.auth import Login
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.waiting import until

SIZE = 8 * MIB
T = 4.0
#: The delay that a call may have at its end, because a channel checks deadlines once a tick.
LATE_S = 2 * limits.CHANNEL_TICK_S


async def timed(call: Awaitable[object]) -> tuple[int, float]:
    """Return the errno of a call, or 0 if the call succeeds, and how long it took."""
    start_s, number = trio.current_time(), 0
    try:
        await call
    except OSError as error:
        number = error.errno or -1
    return number, trio.current_time() - start_s


async def at_once(call: Awaitable[object]) -> None:
    assert (number_and_time := await timed(call)) == (errno.ETIMEDOUT, pytest.approx(0, abs=0.01)), number_and_time


async def test_a_program_that_repeats_its_call_waits_for_a_lost_exporter_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """For example, md repeats a failed write sector by sector."""
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        await pair.exporter.stop()
        start_s = trio.current_time()
        for sector in range(64):
            with suppress(TimeoutError):
                await handle.write(sector * 512, bytes(512))
        assert trio.current_time() - start_s == pytest.approx(T, abs=LATE_S)
        assert exporter_status(pair.session, trio.current_time())["failing_fast"]
        await at_once(handle.read(0, 512))
        await at_once(handle.flush())
        await at_once(pair.port.open(IoClass.SYSTEM, writable=False))
        await handle.close()
        assert not pair.session.waiting


async def test_the_bound_begins_again_when_the_exporter_was_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        await pair.exporter.stop()
        await trio.sleep(3 * T)
        await at_once(handle.read(0, 512))
        await pair.nursery.start(pair.exporter.run)
        await pair.connected()
        assert await timed(handle.read(0, 512)) == (0, pytest.approx(0, abs=LATE_S))
        await pair.exporter.stop()
        assert await timed(handle.read(0, 512)) == (errno.ETIMEDOUT, pytest.approx(T, abs=LATE_S))
        await at_once(handle.read(0, 512))


async def test_attempts_that_fail_do_not_prolong_the_bound(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        await pair.exporter.stop()
        await trio.sleep(T / 2)
        failures = pair.session.failures
        assert await timed(handle.read(0, 512)) == (errno.ETIMEDOUT, pytest.approx(T / 2, abs=LATE_S))
        assert pair.session.failures > failures


async def test_many_calls_end_together_and_the_status_says_when(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        await pair.exporter.stop()
        await trio.sleep(1.0)
        results: list[tuple[int, float]] = []

        async def read() -> None:
            results.append(await timed(handle.read(0, 512)))

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(read)
            await trio.sleep(0.1)
            waiting = exporter_status(pair.session, trio.current_time())["waiting"]
            assert len(waiting) == 500
            assert all(call["left_s"] == pytest.approx(T - 1.1, abs=LATE_S) for call in waiting)
        assert {number for number, _ in results} == {errno.ETIMEDOUT}
        assert all(took_s == pytest.approx(T - 1.0, abs=LATE_S) for _, took_s in results)


async def test_an_exporter_that_was_never_reached_is_away_since_the_mount_started(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        other = RemoteExporter(
            "n9",
            UnixWay(pair.exporter.path),
            lambda: Login("n2", "a password", "demo"),
            policy=Policy(),
            guid=bytes(16),
            pool=BufferPool(),
            on_change=lambda: None,
            io_timeout_s=T,
        )
        await pair.exporter.stop()
        pair.nursery.start_soon(other.run)
        await trio.sleep(T - 0.1)
        assert not exporter_status(other, trio.current_time())["failing_fast"]
        await trio.sleep(0.2)
        assert exporter_status(other, trio.current_time())["failing_fast"]


async def test_a_silent_exporter_is_away_since_its_last_message(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Here the bound is longer than the silence after which the channel ends."""
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=10.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        start_s = trio.current_time()
        with pytest.MonkeyPatch.context() as patch:
            freeze(pair, patch)
            assert (await timed(handle.write(0, bytes(512))))[0] == errno.ETIMEDOUT
            await timed(handle.write(512, bytes(512)))
            assert trio.current_time() - start_s == pytest.approx(10.0, abs=LATE_S)
            await at_once(handle.write(512, bytes(512)))


async def test_a_silent_exporter_is_away_after_a_bound_that_is_shorter_than_its_patience(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=2.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        start_s = trio.current_time()
        with pytest.MonkeyPatch.context() as patch:
            freeze(pair, patch)
            for sector in range(64):
                with suppress(TimeoutError):
                    await handle.write(sector * 512, bytes(512))
            assert trio.current_time() - start_s < 3.0


def freeze(pair: Pair, patch: pytest.MonkeyPatch) -> None:
    """Let the exporter answer nothing, on this connection and on later ones, like a stopped process."""

    def work(link: Link, until_s: float) -> bool:
        if not link._socket.recv(MIB):
            link._lost()
        return False

    patch.setattr(Link, "_work", work)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
async def test_a_program_that_repeats_its_call_waits_for_a_hung_disk_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, op: Op
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall()
        call = (
            functools.partial(handle.read, size=512)
            if op is Op.READ
            else functools.partial(handle.write, data=bytes(512))
        )
        start_s = trio.current_time()
        for sector in range(64):
            with suppress(TimeoutError):
                await call(sector * 512)
        assert trio.current_time() - start_s == pytest.approx(T + limits.PROBE_PATIENCE_S, abs=LATE_S)
        await at_once(handle.flush())
        await at_once(pair.port.open(IoClass.SYSTEM, writable=False))
        await trio.sleep(LATE_S)
        (hung,) = exporter_status(pair.session, trio.current_time())["hung_disks"]
        assert hung["disk"] == "disk0"
        assert hung["for_s"] >= T
        # The disk answers again.
        pair.exporter.disk.release()
        await until(lambda: not pair.session.hung_disks)
        assert not pair.port.answers.held
        assert (await timed(call(0)))[0] == 0


async def test_a_hung_disk_is_asked_on_though_its_last_handle_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall()
        assert (await timed(handle.read(0, 512)))[0] == errno.ETIMEDOUT
        await handle.close()
        await trio.sleep(T)
        await at_once(pair.port.open(IoClass.APP, writable=True))
        pair.exporter.disk.release()
        await until(lambda: not pair.port.answers.held)
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert (await timed(handle.read(0, 512)))[0] == 0
        await handle.close()
        exporter = pair.exporter.exporter
        assert exporter is not None
        (disk,) = exporter.disks.all()
        await until(lambda: not disk.opens)


async def test_a_disk_that_is_merely_slow_fails_no_call_before_its_own_bound(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The disk answers some calls within each bound, and others not."""
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.offset < MIB)
        disk.delay_s = 0.9 * T
        results: dict[str, tuple[int, float]] = {}

        async def read(name: str, offset: int) -> None:
            results[name] = await timed(handle.read(offset, 512))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "late", 0)
            nursery.start_soon(read, "slow", 4 * MIB)
            await trio.sleep(T / 2)
            nursery.start_soon(read, "slow 2", 5 * MIB)
            await trio.sleep(T / 2 + 0.3)
            nursery.start_soon(read, "slow 3", 6 * MIB)
        assert results["late"] == (errno.ETIMEDOUT, pytest.approx(T, abs=LATE_S))
        assert [results[name][0] for name in ("slow", "slow 2", "slow 3")] == [0, 0, 0]


async def test_a_disk_with_one_bad_spot_serves_the_rest(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall(lambda request: request.offset == 0 and request.length == 512)
        assert (await timed(handle.read(0, 512)))[0] == errno.ETIMEDOUT
        assert await timed(handle.read(4096, 512)) == (0, pytest.approx(0, abs=LATE_S))
        assert not pair.session.hung_disks


def announce(pair: Pair, state: DiskState) -> None:
    """Let the exporter announce its disk in that state."""
    exporter = pair.exporter.exporter
    assert exporter is not None
    (disk,) = exporter.disks.all()
    disk.takes_opens = state is not DiskState.DRAINED
    disk.update(replace(disk.info, state=state, why="on purpose"))
    exporter.disks.modified(disk)


async def test_each_call_of_a_suspended_disk_waits_for_its_own_bound_and_the_disk_never_hangs(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        exporter = pair.exporter.exporter
        assert exporter is not None
        (disk,) = exporter.disks.all()
        disk.runner.pause()
        announce(pair, DiskState.SUSPENDED)
        await until(lambda: pair.port.silent_on_purpose)
        for call in (handle.read(0, 512), handle.write(0, bytes(512)), handle.read(0, 512), handle.flush()):
            assert await timed(call) == (errno.ETIMEDOUT, pytest.approx(T, abs=LATE_S))
            assert not pair.port.answers.held
        assert not pair.session.hung_disks
        results: list[tuple[int, float]] = []

        async def write() -> None:
            results.append(await timed(handle.write(0, bytes(512))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(T - 1)
            disk.runner.resume()
            announce(pair, DiskState.OK)
        assert results == [(0, pytest.approx(T - 1, abs=LATE_S))]
        await until(lambda: not pair.port.silent_on_purpose)
        # From now on the disk may hang again.
        pair.exporter.disk.stall()
        assert (await timed(handle.read(0, 512)))[0] == errno.ETIMEDOUT
        assert pair.port.answers.held
        pair.exporter.disk.release()


async def test_a_hung_disk_that_is_suspended_is_not_probed_and_its_calls_wait_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall()
        assert (await timed(handle.read(0, 512)))[0] == errno.ETIMEDOUT
        await trio.sleep(T)
        await at_once(handle.read(0, 512))
        announce(pair, DiskState.SUSPENDED)
        await until(lambda: not pair.port.answers.held)
        assert not pair.session.hung_disks
        assert await timed(handle.read(0, 512)) == (errno.ETIMEDOUT, pytest.approx(T, abs=LATE_S))
        pair.exporter.disk.release()


async def test_a_drained_disk_is_away_since_it_was_drained(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        exporter = pair.exporter.exporter
        assert exporter is not None
        (disk,) = exporter.disks.all()
        announce(pair, DiskState.DRAINED)
        exporter.disks.end_opens(disk)
        await until(lambda: pair.port.silent_on_purpose)
        drained_s = trio.current_time()
        await trio.sleep(1)
        assert (await timed(pair.port.open(IoClass.APP, writable=True)))[0] == errno.ENXIO
        with pytest.raises(TimeoutError, match="the disk is drained: on purpose"):
            await handle.read(0, 512)
        assert trio.current_time() - drained_s == pytest.approx(T, abs=LATE_S)
        await at_once(handle.write(0, bytes(512)))
        assert not pair.session.hung_disks
        announce(pair, DiskState.OK)
        await until(lambda: not pair.port.silent_on_purpose)
        assert (await timed(handle.write(0, bytes(512))))[0] == 0


@pytest.mark.parametrize("drained", [True, False])
async def test_an_exporter_that_was_drained_before_it_ended_is_not_down(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, drained: bool
) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=T) as pair:
        if drained:
            announce(pair, DiskState.DRAINED)
            exporter = pair.exporter.exporter
            assert exporter is not None
            assert not exporter.disk_watchers.all_informed
            await until(lambda: pair.session.on_purpose.is_leaving)
            assert exporter.disk_watchers.all_informed
        await pair.exporter.stop()
        await until(lambda: pair.session.session is None)
        await trio.sleep(1)
        assert pair.session.state is (ExporterState.DRAINED if drained else ExporterState.DOWN)
        assert (exporter_status(pair.session, trio.current_time())["retry_in_s"] is None) is False
        await pair.nursery.start(pair.exporter.run)
        await pair.connected()
        await until(lambda: not pair.session.on_purpose.is_leaving)
