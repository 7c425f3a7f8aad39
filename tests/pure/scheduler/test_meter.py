"""The meter of a disk's flows, against lists of what was done, over gaps, jumps and crowds."""

import math
import random
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.usage import DiskMeter, DiskUsage, FlowUsage, jain

A, B, C = (FlowKey("n1", IoClass.APP), FlowKey("n2", IoClass.APP), FlowKey("n1", IoClass.SYSTEM))
TICK = 1 / 64  # a power of two: sums of ticks are exact


def completion(
    flow: object = A, op: Op = Op.READ, *, result: int = 4096, cost_s: float = TICK, added_s: float, sent_s: float
) -> DiskRequest:
    request = DiskRequest(op, 0, max(result, 0), None, 0, lambda _: None, flow=flow)
    request.result, request.cost_s, request.added_s, request.sent_s = result, cost_s, added_s, sent_s
    return request


def serve(meter: DiskMeter, now: float, flow: object = A, op: Op = Op.READ, **values: float) -> None:
    """Serve a request that completes at once."""
    meter.done(completion(flow, op, added_s=now, sent_s=now, **values), now)  # type: ignore[arg-type]


def look(meter: DiskMeter, now: float, flow: object = A) -> FlowUsage:
    return meter.snapshot(now, {}).flows[flow]


# --- against a list -----------------------------------------------------------------------


@dataclass
class Done:
    """A request, with times in ticks. `gap` is the time since the request before."""

    gap: int
    flow: object
    op: Op
    result: int
    cost: int
    queued: int
    at_disk: int


DONE = st.builds(
    Done,
    gap=st.integers(0, 64) | st.sampled_from([64, 640, 64 * 59, 64 * 60, 64 * 61, 64 * 200]),
    flow=st.sampled_from([A, B, C]),
    op=st.sampled_from(list(Op)),
    result=st.sampled_from([0, 512, 4096, 1 << 20, -5]),
    cost=st.integers(1, 64),
    queued=st.integers(0, 200),
    at_disk=st.integers(0, 200),
)


@settings(max_examples=150)
@given(st.lists(DONE, min_size=1, max_size=60), st.integers(0, 64 * 70), st.booleans())
def test_the_meter_agrees_with_the_list_of_what_was_done(done: list[Done], rest: int, looked: bool) -> None:
    """``looked`` takes snapshots on the way, which must change nothing."""
    meter = DiskMeter(0.0)
    now = 0.0
    past: list[tuple[float, Done]] = []
    for each in done:
        now += each.gap * TICK
        past.append((now, each))
        sent_s = now - each.at_disk * TICK
        added_s = sent_s - each.queued * TICK
        cost_s, times = each.cost * TICK, {"added_s": added_s, "sent_s": sent_s}
        meter.done(completion(each.flow, each.op, result=each.result, cost_s=cost_s, **times), now)
        if looked:
            meter.snapshot(now, {})
    now += rest * TICK
    usage = meter.snapshot(now, {})
    check_totals(usage, past)
    check_windows(usage, past, math.floor(now))
    check_latencies(usage, past, math.floor(now))


def check_totals(usage: DiskUsage, past: list[tuple[float, Done]]) -> None:
    for flow, found in usage.flows.items():
        mine = [each for _, each in past if each.flow == flow]
        for op in Op:
            of_op = [each for each in mine if each.op is op]
            assert found.counted.completions[op] == len(of_op)
            assert found.counted.bytes[op] == sum(max(each.result, 0) for each in of_op)
            assert found.counted.times_s[op] == sum(each.queued + each.at_disk for each in of_op) * TICK
        assert found.counted.errors == sum(each.result < 0 for each in mine)
        assert found.counted.cost_s == sum(each.cost for each in mine) * TICK
        assert sum(found.counted.read_histogram) == found.counted.completions[Op.READ]
        assert sum(found.counted.write_histogram) == found.counted.completions[Op.WRITE]
    assert set(usage.flows) == {each.flow for _, each in past}


def check_windows(usage: DiskUsage, past: list[tuple[float, Done]], second: int) -> None:
    for window in (1, 60):
        seconds = min(window, second)
        within = [each for now, each in past if second - seconds <= now < second]
        cost = sum(each.cost for each in within) * TICK
        assert usage.usage[window].cost == pytest.approx(cost / max(seconds, 1))
        for flow, found in usage.flows.items():
            mine, got = [each for each in within if each.flow == flow], found.usage[window]
            own_cost = sum(each.cost for each in mine) * TICK
            assert got.cost == pytest.approx(own_cost / max(seconds, 1))
            assert got.iops == pytest.approx(len(mine) / max(seconds, 1))
            moved = sum(max(each.result, 0) for each in mine if each.op not in (Op.ZERO, Op.DISCARD))
            assert got.bytes_per_s == pytest.approx(moved / max(seconds, 1))
            assert got.share == pytest.approx(own_cost / cost if cost else 0.0)


def check_latencies(usage: DiskUsage, past: list[tuple[float, Done]], second: int) -> None:
    """Check percentiles by nearest rank. Those of a histogram are within 13 %, and at least within 1 us."""
    oldest = second - second % 10 - 50
    for flow, found in usage.flows.items():
        mine = [each for now, each in past if each.flow == flow and now >= oldest]
        total = sorted(max((each.queued + each.at_disk) * TICK, 1e-6) for each in mine)
        disk = sorted(max(each.at_disk * TICK, 1e-6) for each in mine)
        for q, told, latencies in (
            (50, found.latency_p50_s, total),
            (99, found.latency_p99_s, total),
            (50, found.disk_latency_p50_s, disk),
            (99, found.disk_latency_p99_s, disk),
        ):
            if not latencies:
                assert told is None
                continue
            assert told == pytest.approx(latencies[math.ceil(len(latencies) * q / 100) - 1], rel=0.14)


# --- windows ------------------------------------------------------------------------------


def test_a_window_is_of_whole_seconds_that_are_over() -> None:
    meter = DiskMeter(100.0)
    for step in range(10):
        serve(meter, 100.0 + step / 10)
    assert look(meter, 100.95).usage[1].iops == 0
    assert look(meter, 101.0).usage[1].iops == 10
    assert look(meter, 101.99).usage[60].iops == 10
    assert look(meter, 102.0).usage[1].iops == 0
    assert look(meter, 102.0).usage[60].iops == 5
    assert look(meter, 160.0).usage[60].iops == pytest.approx(10 / 60)
    assert look(meter, 161.0).usage[60].iops == 0
    assert look(meter, 161.0).counted.completions[Op.READ] == 10


def test_a_gap_of_any_length_leaves_windows_empty_and_totals_right() -> None:
    meter = DiskMeter(0.0)
    for gap in (0.5, 1.0, 59.9, 60.0, 61.0, 3600.0, 1e6):
        before = look(meter, meter._begin).counted.completions[0] if meter._flows else 0
        now = meter._begin + gap
        serve(meter, now)
        found = look(meter, now + 1.0)
        assert found.counted.completions[0] == before + 1
        assert found.usage[1].iops == 1


@pytest.mark.parametrize("jump_s", [-0.001, -1.0, -1e6, 1e6, 1e18])
def test_a_clock_that_jumps_goes_on_from_there(jump_s: float) -> None:
    meter = DiskMeter(1000.0)
    now = 1000.0
    for _ in range(20):
        serve(meter, now)
        now += 0.1
    now += jump_s
    meter.done(completion(added_s=now - jump_s, sent_s=now - jump_s), now)
    assert look(meter, now).counted.completions[0] == 21
    if abs(jump_s) > 1e9:
        return  # a clock without fractions has no rates
    now = meter._end
    for _ in range(30):
        meter.done(completion(added_s=now - 0.2, sent_s=now), now)
        now += 0.1
    found = meter.snapshot(now, {A: 0.2}).flows[A]
    assert found.counted.completions[0] == 51
    assert found.usage[1].iops == pytest.approx(10, abs=1)
    assert found.usage[1].backlogged


def test_absurd_latencies_never_make_a_counter_fall() -> None:
    meter = DiskMeter(0.0)
    meter.done(completion(added_s=5.0, sent_s=7.0), 0.5)
    meter.done(completion(added_s=-1e9, sent_s=-1e8), 0.6)
    found = look(meter, 1.5)
    assert found.counted.times_s[Op.READ] == pytest.approx(1e9)
    assert found.counted.read_histogram == [1, 0, 0, 0, 0, 0, 1]


# --- who was backlogged -------------------------------------------------------------------


def run_flow(meter: DiskMeter, flow: object, seconds: int, depth: int, *, service_s: float, think_s: float = 0) -> None:
    """Keep ``depth`` requests at a disk that takes one at a time. After each, ``think_s`` pass before the next."""
    free, added = 0.0, [0.0] * depth
    while free < seconds:
        added.sort()
        came = added.pop(0)
        sent = max(free, came)
        free = sent + service_s
        meter.done(completion(flow, added_s=came, sent_s=sent), free)
        added.append(free + think_s)


def test_a_flow_that_always_waits_is_backlogged() -> None:
    meter = DiskMeter(0.0)
    run_flow(meter, A, 70, 4, service_s=0.01)
    usage = look(meter, 69.5).usage
    assert (usage[1].backlogged, usage[60].backlogged) == (True, True)


def test_a_flow_whose_requests_go_at_once_is_not() -> None:
    meter = DiskMeter(0.0)
    run_flow(meter, A, 70, 1, service_s=0.01)
    run_flow(meter, B, 70, 2, service_s=0.01, think_s=0.05)
    usage = meter.snapshot(69.5, {})
    assert not any(got.backlogged for found in usage.flows.values() for got in found.usage.values())


def test_long_waits_that_end_seldom_count_for_all_of_their_time() -> None:
    meter = DiskMeter(0.0)
    run_flow(meter, A, 63, 3, service_s=7.0)
    assert meter.snapshot(62.5, {A: 13.0}).flows[A].usage[60].backlogged
    assert meter.snapshot(62.5, {A: 13.0}).flows[A].usage[1].backlogged


def test_a_starved_flow_is_seen_though_it_never_was_served() -> None:
    meter = DiskMeter(0.0)
    run_flow(meter, A, 10, 4, service_s=0.01)
    usage = meter.snapshot(10.5, {A: 0.04, B: 10.5, C: 0.7})
    assert usage.flows[B].usage[60].backlogged
    assert usage.flows[B].usage[1].backlogged
    assert not usage.flows[C].usage[60].backlogged
    assert not usage.flows[C].usage[1].backlogged
    shares = [usage.flows[flow].usage[60].share for flow in (A, B)]
    assert jain(shares) == 0.5


def test_a_flow_that_wanted_nothing_for_a_fifth_of_the_time_is_not_backlogged() -> None:
    meter = DiskMeter(0.0)
    for second in range(60):
        for step in range(8):
            now = second + (step + 1) / 10
            meter.done(completion(added_s=now - 0.1, sent_s=now), now)
    assert not look(meter, 60.0).usage[60].backlogged


def test_jain_is_one_for_equals_and_one_nth_for_one_that_has_it_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([1.0, 2.0]) == pytest.approx(0.9)
    assert jain([1e-200, 2e-200]) == pytest.approx(0.9)
    assert jain([5.0]) is None
    assert jain([0.0, 0.0]) is None
    assert jain([]) is None


# --- bounds -------------------------------------------------------------------------------


def test_of_too_many_flows_the_longest_idle_go_and_sums_stay() -> None:
    meter, generator, now = DiskMeter(0.0), random.Random(1), 0.0
    served: dict[object, int] = defaultdict(int)
    for number in range(5000):
        now += generator.random() / 50
        for flow in (A, FlowKey(f"stranger{number}", IoClass.APP)):
            served[flow] += 1
            serve(meter, now, flow)
    usage = meter.snapshot(now + 1, {})
    assert len(usage.flows) <= limits.FLOWS_PER_DISK_MAX
    assert usage.flows[A].counted.completions[Op.READ] == 5000
    assert len(usage.flows) + usage.flows_let_go == 5001
    there = sum(found.counted.completions[Op.READ] for found in usage.flows.values())
    assert there + usage.others.completions[Op.READ] == 10_000
    assert usage.usage[60].cost == pytest.approx(10_000 * TICK / math.floor(now + 1), rel=0.05)
    assert usage.flows[A].usage[60].share == pytest.approx(0.5)


def test_flows_that_come_within_one_second_do_not_push_out_one_at_work() -> None:
    meter = DiskMeter(0.0)
    serve(meter, 0.1)
    for number in range(4 * limits.FLOWS_PER_DISK_MAX):
        serve(meter, 1.0 + number / 2000)
        serve(meter, 1.0 + number / 2000, FlowKey(f"stranger{number}", IoClass.APP))
    assert look(meter, 1.9).counted.completions[Op.READ] == 4 * limits.FLOWS_PER_DISK_MAX + 1


def test_an_hour_of_load_keeps_no_more_than_a_minute() -> None:
    meter = DiskMeter(0.0)
    for step in range(3600 * 4):
        serve(meter, step / 4)
    flow = meter._flows[A]
    assert len(flow.notes._kept) == 61
    assert len(flow._latency_notes._kept) == 7
    assert len(meter._notes._kept) == 61
