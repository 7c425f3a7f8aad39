"""Limits of a flow and of a disk, and reservations, with random loads. Each test states its bound and its source.

test_fairness.py has the notation.
"""

from collections.abc import Hashable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.limits import KIB, MIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import FlowPolicy
from meshlab.models import devices as device_models
from meshlab.models.queue_checks import (
    Event,
    Trace,
    excess,
    jain,
    largest_work,
    sent_between,
    shortfall,
    waits,
)
from support.queue_scenarios import (
    APP,
    DETERMINISTIC,
    EPSILON,
    SYSTEM,
    Load,
    Scenario,
    Wants,
    class_of,
    flow_of,
    one,
    scenarios,
    size,
)

MORE = settings(DETERMINISTIC, max_examples=60)


# --- limits -------------------------------------------------------------------------------


def limited(scenario: Scenario) -> Trace:
    trace = Trace()
    device = device_models.fast_ssd(scenario.seed)
    scenario.start(trace, device=device).run(scenario.duration_s)
    return trace


@MORE
@given(
    scenarios(duration_s=4.0), st.sampled_from([5.0, 40.0, 300.0]), st.sampled_from([2e5, 5e6, 1e8]), st.integers(0, 2)
)
def test_a_flows_limit_holds_in_every_window(scenario: Scenario, iops: float, bytes_per_s: float, which: int) -> None:
    """At most limit * (T + LIMIT_BURST_S) and two requests leave in T seconds (gates.py: the limit paces, by GCRA,
    the entry of one request at a time into the competition; in a window of T there is the one at its beginning,
    and one that had passed the limit before and waited for the disk).
    """
    first = scenario.wants[0]
    policy = replace(
        first.policy, limit_iops=iops if which != 1 else None, limit_bytes_per_s=bytes_per_s if which else None
    )
    scenario = replace(scenario, wants=(replace(first, policy=policy), *scenario.wants[1:]))
    trace = scenario.run()
    burst_s = limits.LIMIT_BURST_S
    if policy.limit_iops is not None:
        assert excess(trace, iops, one, first.flow) <= iops * burst_s + 2 + EPSILON
    if policy.limit_bytes_per_s is not None:
        largest = max(
            (entry.request.length for entry in trace.of(Event.SENT) if entry.request.flow == first.flow), default=0
        )
        assert excess(trace, bytes_per_s, size, first.flow) <= bytes_per_s * burst_s + 2 * largest + 1e-3


@MORE
@given(
    scenarios(duration_s=4.0), st.sampled_from([5.0, 40.0, 300.0]), st.sampled_from([2e6, 2e7, 1e8]), st.integers(0, 2)
)
def test_a_disks_limit_holds_in_every_window(scenario: Scenario, iops: float, bytes_per_s: float, which: int) -> None:
    """In T seconds at most limit * T leaves, and of each flow limit * LIMIT_BURST_S and two requests.

    By pacer.py the fluid is done with all but what flows in use are ahead of it: each may leave LIMIT_BURST_S early,
    at its speed of that moment (alone: the whole limit), and one request is in the fluid. Another one of each may
    have passed before and waited for the disk, as with a flow's limit.
    """
    scenario = replace(
        scenario, limit_iops=iops if which != 1 else None, limit_bytes_per_s=bytes_per_s if which else None
    )
    trace = scenario.run()
    burst_s, flows = limits.LIMIT_BURST_S, len(scenario.wants)
    if scenario.limit_iops is not None:
        assert excess(trace, iops, one) <= flows * (iops * burst_s + 2) + EPSILON
    if scenario.limit_bytes_per_s is not None:
        largest: dict[Hashable, float] = {}
        for entry in trace.of(Event.SENT):
            largest[entry.request.flow] = max(largest.get(entry.request.flow, 0.0), entry.request.length)
        assert excess(trace, bytes_per_s, size) <= flows * bytes_per_s * burst_s + 2 * sum(largest.values()) + 1e-3


@pytest.mark.parametrize("iops", [7.0, 100.0, 2500.0])
def test_a_flows_limit_in_requests_is_used_up(iops: float) -> None:
    wants = Wants(FlowKey("n1", APP), FlowPolicy(limit_iops=iops), (Load(16),))
    duration_s = max(0.3, 150 / iops)
    trace = limited(Scenario((wants,), depth=8, duration_s=duration_s))
    assert sent_between(trace, one, 0.0, duration_s, wants.flow) >= 0.97 * iops * duration_s


@pytest.mark.parametrize("bytes_per_s", [1e5, 3e7, 2e8])
def test_a_flows_limit_in_bytes_is_used_up(bytes_per_s: float) -> None:
    wants = Wants(
        FlowKey("n1", SYSTEM), FlowPolicy(limit_bytes_per_s=bytes_per_s), (Load(16, sizes=(512, 65536, MIB)),)
    )
    duration_s = max(1.0, 100 * MIB / bytes_per_s)
    trace = limited(Scenario((wants,), depth=8, duration_s=duration_s))
    assert sent_between(trace, size, 0.0, duration_s, wants.flow) >= 0.97 * bytes_per_s * duration_s


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 4.0)])
@pytest.mark.parametrize("kind", ["limit_iops", "limit_bytes_per_s"])
def test_a_disks_limit_is_used_up_and_shared_by_weight(kind: str, weights: tuple[float, float, float]) -> None:
    """Depth 1, 4 and 64 of 4 KiB, 64 KiB and 1 MiB: everybody gets its part of what the limit counts.

    The reader of depth 1 needs 80 us at the device and is let go every 0.25 ms (bytes) or 10 ms (requests): it asks
    again before its turn, so it loses nothing.
    """
    rate = 300.0 if kind == "limit_iops" else 5e7
    loads = [Load(1, sizes=(4 * KIB,)), Load(4, sizes=(64 * KIB,)), Load(64, sizes=(MIB,), ops=(Op.WRITE,))]
    wants = tuple(
        Wants(FlowKey(f"n{number}", APP), FlowPolicy(weight), (load,))
        for number, (weight, load) in enumerate(zip(weights, loads, strict=True))
    )
    amount = one if kind == "limit_iops" else size
    trace = limited(replace(Scenario(wants, depth=16, duration_s=11.0), **{kind: rate}))
    for since_s in (1.0, 6.0):
        sent = [sent_between(trace, amount, since_s, since_s + 5.0, each.flow) for each in wants]
        assert sum(sent) >= 0.97 * rate * 5.0
        parts = [part / weight for part, weight in zip(sent, weights, strict=True)]
        assert min(parts) >= 0.95 * sum(parts) / len(parts)
        assert jain(parts) >= 0.99


def test_a_disks_limit_keeps_the_floor() -> None:
    app = Wants(FlowKey("n1", APP), loads=(Load(64, sizes=(64 * KIB,)),))
    system = Wants(FlowKey("n2", SYSTEM), loads=(Load(4, sizes=(MIB,)),))
    trace = limited(Scenario((app, system), depth=16, duration_s=20.0, limit_bytes_per_s=5e7))
    sent = {each.flow: sent_between(trace, size, 1.0, 20.0, each.flow) for each in (app, system)}
    assert sent[system.flow] / sum(sent.values()) == pytest.approx(0.2, abs=0.02)


def test_a_lone_reader_waits_no_longer_than_its_own_spacing_at_a_limit() -> None:
    """Beside three floods of 1 MiB on a disk of 50 MB/s a reader of 4 KiB is owed a quarter: one request each 0.33 ms.

    It waits for that, and not for the 20 ms each of the others' requests takes of the limit. A disk of 80 us to
    0.1 ms with a depth of 16 adds its own queue: at most 16 large requests among 64 servers, so nothing.
    """
    reader = Wants(FlowKey("n1", APP), loads=(Load(1, sizes=(4 * KIB,)),))
    floods = tuple(Wants(FlowKey(f"n{number}", APP), loads=(Load(32, sizes=(MIB,)),)) for number in (2, 3, 4))
    scenario = Scenario((reader, *floods), depth=16, duration_s=5.0, limit_bytes_per_s=5e7)
    trace = limited(scenario)
    waited = sorted(wait.waited_s for wait in waits(trace) if wait.request.flow == reader.flow)
    spacing_s = 4 * KIB / (5e7 / 4)
    assert len(waited) > 5000
    assert waited[-1] <= 1.5 * spacing_s


# --- reservations ---------------------------------------------------------------------------


@MORE
@given(scenarios(reservations=True))
def test_a_reservation_is_kept_while_it_is_wanted(scenario: Scenario) -> None:
    """A backlogged flow falls short of its reservation r by at most c_f + r c_max + the c_g of all with a reservation.

    A flow is due when the disk's work reached its clock, which each request of cost c moves on by c / r. When its
    backlog begins the clock is at most c_f / r ahead, in which it is owed r c_f / r. Nobody is stopped: the work
    passes the clock by at most c_max. Others that are due, and longer, go before: as all r add up to no more
    than 1, the disk is never owed more than one request by each of them.
    """
    trace = scenario.run()
    largest = largest_work(trace, flow_of)
    promised = {wants.flow: wants.policy.reservation for wants in scenario.wants if wants.policy.reservation}
    others = sum(largest[flow] for flow in promised)
    for flow, share in promised.items():
        bound = largest[flow] + share * max(largest.values()) + others
        assert shortfall(trace, flow_of, flow, share) <= bound + EPSILON, flow


@MORE
@given(scenarios(reservations=True))
def test_reservations_do_not_take_from_the_floor(scenario: Scenario) -> None:
    """A backlogged class gets its share of the work whoever has reserved what: a reservation is of its class's share.

    Within B as without reservations, and the requests sent before their turn: one, and one it may catch up on,
    of each flow with a reservation.
    """
    trace = scenario.run()
    largest = largest_work(trace, flow_of)
    early = 2 * sum(largest[wants.flow] for wants in scenario.wants if wants.policy.reservation)
    shares = scenario.class_shares()
    of_class = largest_work(trace, class_of)
    bound = sum(of_class[io_class] / shares[io_class] for io_class in IoClass)
    for io_class, share in shares.items():
        found = shortfall(trace, class_of, io_class, share)
        assert found <= share * (1 - share) * bound + early + EPSILON, io_class
