"""The counts and latencies of a port's reads, writes and flushes, as the status shows them."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshfs.disk.base import Op
from meshfs.initiator.attached.port_meter import PERIOD_S, PortMeter
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of

SIZE = 4 * MIB
COUNTS = ("reads", "writes", "flushes", "errors", "read_bytes", "written_bytes")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as both:
        yield both


def counts(pair: Pair) -> tuple[int, ...]:
    status = pair.port.meter.status(trio.current_time())
    for op, many in (("read", "reads"), ("write", "writes"), ("flush", "flushes")):
        assert sum(status[f"{op}_histogram"]) == status[many]
    return tuple(status[name] for name in COUNTS)


async def test_every_call_is_counted_once_whatever_way_it_takes(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    system = await pair.port.open(IoClass.SYSTEM, writable=True)
    assert counts(pair) == (0,) * 6
    await handle.write(0, bytes(4 * KIB))
    assert counts(pair) == (0, 1, 0, 0, 0, 4 * KIB)
    await handle.read(0, 4 * KIB)
    assert counts(pair) == (1, 1, 0, 0, 4 * KIB, 4 * KIB)
    # These calls are cut at the end of the disk, begin behind it, or are of the other class.
    await handle.read(SIZE - 100, 4 * KIB)
    assert await system.read(SIZE, 1) == b""
    await system.write(SIZE - 50, bytes(100))
    assert counts(pair) == (3, 2, 0, 0, 4 * KIB + 100, 4 * KIB + 50)
    await handle.flush()
    assert counts(pair) == (3, 2, 1, 0, 4 * KIB + 100, 4 * KIB + 50)


async def test_calls_that_fail_are_counted(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.exporter.disk.fail(0, SIZE)
    assert await errno_of(handle.read(0, 512)) == errno.EIO
    assert counts(pair) == (1, 0, 0, 1, 0, 0)
    assert await errno_of(handle.write(0, bytes(512))) == errno.EIO
    assert counts(pair) == (1, 1, 0, 2, 0, 0)
    assert await errno_of(handle.flush()) == errno.EIO
    assert counts(pair) == (1, 1, 1, 3, 0, 0)
    assert await errno_of(handle.write(SIZE, b"past the end")) == errno.ENOSPC
    assert counts(pair) == (1, 2, 1, 4, 0, 0)


async def test_a_deadline_is_an_error_of_its_length(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.exporter.disk.stall()
    assert await errno_of(handle.read(0, 512)) == errno.ETIMEDOUT
    status = pair.port.meter.status(trio.current_time())
    assert (status["reads"], status["errors"]) == (1, 1)
    # The bound is 1 s, which belongs to the buckets between 100 ms and 10 s.
    assert sum(status["read_histogram"][4:6]) == 1
    assert status["read_latency_ms"]["p99"] > 500
    pair.exporter.disk.release()


async def test_a_killed_caller_is_not_counted(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.exporter.disk.stall(lambda request: request.op == Op.READ)
    with trio.move_on_after(0.05):
        await handle.read(0, 512)
    assert counts(pair) == (0,) * 6
    pair.exporter.disk.release()


async def test_waiting_for_the_exporter_is_part_of_the_latency(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle.read, 0, 512)
        await trio.sleep(0.2)
        await pair.nursery.start(pair.exporter.run)
    status = pair.port.meter.status(trio.current_time())
    assert (status["reads"], status["errors"]) == (1, 0)
    assert sum(status["read_histogram"][:3]) == 0
    assert status["read_time_s"] >= 0.2


async def test_a_closed_handle_is_an_error(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.close()
    assert await errno_of(handle.flush()) == errno.EBADF
    assert counts(pair) == (0, 0, 1, 1, 0, 0)


# --- by the meter's own clock ----------------------------------------------------------------


def read_for(meter: PortMeter, latency_s: float, now: float) -> None:
    meter.read(100, now - latency_s, now)


def p50(meter: PortMeter, now: float) -> Any:
    return meter.status(now)["read_latency_ms"]["p50"]


def test_an_unused_meter_says_so() -> None:
    status = PortMeter(5.0).status(5.0)
    assert [status[name] for name in COUNTS] == [0] * 6
    for op in ("read", "write", "flush"):
        assert status[f"{op}_histogram"] == [0] * 7
        assert status[f"{op}_latency_ms"] == {"p50": None, "p99": None}
        assert status[f"{op}_time_s"] == 0


def test_coarse_buckets_and_times() -> None:
    meter = PortMeter(0.0)
    for latency_ms in (0.5, 1, 4, 9, 90, 900, 9000, 11_000):
        meter.wrote(10, 1.0, 1.0 + latency_ms / 1000)
    status = meter.status(2.0)
    assert status["write_histogram"] == [2, 1, 1, 1, 1, 1, 1]
    assert status["written_bytes"] == 80
    assert status["write_time_s"] == pytest.approx(21.0045)
    assert status["reads"] == status["flushes"] == 0


@pytest.mark.parametrize("gap_s", [PERIOD_S, 2 * PERIOD_S + 1, 1000 * PERIOD_S])
def test_percentiles_forget_and_totals_do_not(gap_s: float) -> None:
    meter = PortMeter(0.0)
    for second in range(90):
        read_for(meter, 1.0, float(second))
    assert p50(meter, 90.0) == pytest.approx(1000, rel=0.13)
    later = 90.0 + gap_s
    for _ in range(100):
        read_for(meter, 0.009, later)
    if gap_s > 2 * PERIOD_S:
        assert p50(meter, later) == pytest.approx(9, rel=0.13)
    assert p50(meter, later + 2 * PERIOD_S + 1) is None
    status = meter.status(later + 10_000)
    assert status["reads"] == 190
    assert status["read_histogram"] == [0, 0, 100, 0, 90, 0, 0]


def test_a_change_is_seen_within_a_minute_and_not_forgotten_within_half_of_one() -> None:
    meter = PortMeter(0.0)
    for tick in range(1, 1201):
        now = tick / 10
        read_for(meter, 0.002 if now < 60 else 0.2, now)
        if now >= 60 + 2 * PERIOD_S:
            assert p50(meter, now) == pytest.approx(200, rel=0.13)
    read_for(meter, 0.0005, 120.0)
    assert p50(meter, 120.0 + PERIOD_S - 1) == pytest.approx(200, rel=0.13)
