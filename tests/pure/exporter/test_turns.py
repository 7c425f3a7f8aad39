"""Turns at the exporter's processor: shares, no credit for idle time, and how long a light flow waits."""

import heapq
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.exporter.rules.turns import STRANGERS, TurnFlow, Turns
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import DiskPolicy

APP, SYSTEM = IoClass.APP, IoClass.SYSTEM


def policy(floor: float = 0.2, **weights: float) -> DiskPolicy:
    return DiskPolicy(system_floor=floor, weights=MappingProxyType(weights))


@dataclass
class Load:
    """A flow whose steps take ``step_s``. It always wants turns, or wants a step at each of ``times``."""

    key: tuple[str, IoClass]
    step_s: float
    times: list[float] | None = None
    waits_s: list[float] = field(default_factory=list)
    used_s: float = 0.0
    pending: list[float] = field(default_factory=list)


def simulate(turns: Turns[TurnFlow], loads: list[Load], until_s: float) -> None:
    """Serve turns of whole steps until the quantum is used up, on a clock of the test."""
    now = 0.0
    arrivals: list[tuple[float, int]] = [(time, n) for n, load in enumerate(loads) for time in load.times or ()]
    heapq.heapify(arrivals)
    by_flow: dict[TurnFlow, Load] = {}
    for load in loads:
        flow = turns.flow(load.key)
        by_flow[flow] = load
        if load.times is None:
            turns.add(flow)
    while now < until_s:
        while arrivals and arrivals[0][0] <= now:
            time, n = heapq.heappop(arrivals)
            loads[n].pending.append(time)
            flow = turns.flow(loads[n].key)
            if not flow.wants:
                turns.add(flow)
        chosen = turns.next()
        if chosen is None:
            if not arrivals:
                return
            now = arrivals[0][0]
            continue
        load, begun_s = by_flow[chosen], now
        end_s = now + turns.quantum_s(chosen)
        while now < end_s and (load.times is None or load.pending):
            if load.pending:
                load.waits_s.append(now - load.pending.pop(0))
            now += load.step_s
        load.used_s += now - begun_s
        turns.charge(chosen, now - begun_s, wants=load.times is None or bool(load.pending))


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=6),
    steps=st.lists(st.floats(1e-4, 3e-3), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_backlogged_nodes_share_by_weight(weights: list[float], steps: list[float]) -> None:
    """|W_f / w_f - W_g / w_g| <= (q + m_f) / w_f + (q + m_g) / w_g (theorem 1), where a turn is q + m."""
    names = {f"n{index}": weight for index, weight in enumerate(weights)}
    turns = Turns(TurnFlow, policy(**names))
    loads = [Load(FlowKey(name, APP), step) for name, step in zip(names, steps, strict=False)]
    simulate(turns, loads, 1.0)
    for f in loads:
        for g in loads:
            w_f, w_g = names[f.key[0]], names[g.key[0]]
            bound_s = sum((limits.TURN_ALONE_S + x.step_s) / w for x, w in ((f, w_f), (g, w_g)))
            assert abs(f.used_s / w_f - g.used_s / w_g) <= bound_s + 1e-9


@pytest.mark.parametrize("floor", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("steps", [(1e-5, 1e-3), (1e-3, 1e-5), (1e-4, 1e-4)])
def test_the_system_keeps_its_floor_and_has_no_more(floor: float, steps: tuple[float, float]) -> None:
    app, system = Load(FlowKey("n1", APP), steps[0]), Load(FlowKey("n2", SYSTEM), steps[1])
    simulate(Turns(TurnFlow, policy(floor)), [app, system], 2.0)
    assert system.used_s / (app.used_s + system.used_s) == pytest.approx(floor, abs=0.003)


def test_the_system_has_what_applications_do_not_want() -> None:
    app = Load(FlowKey("n1", APP), 1e-4, [n * 1e-3 for n in range(1000)])
    system = Load(FlowKey("n2", SYSTEM), 1e-4)
    simulate(Turns(TurnFlow, policy()), [app, system], 1.0)
    assert app.used_s == pytest.approx(0.1, abs=0.001)
    assert system.used_s == pytest.approx(0.9, abs=0.001)


@given(
    floods=st.dictionaries(st.sampled_from(["n1", "n2", "n3", ""]), st.floats(5e-5, 2e-3), min_size=1, max_size=3),
    system=st.floats(5e-5, 2e-3),
    gaps=st.lists(st.floats(1e-3, 2e-2), min_size=20, max_size=60),
)
@settings(max_examples=40, deadline=None)
def test_a_light_flow_waits_for_the_turn_under_way_only(
    floods: dict[str, float], system: float, gaps: list[float]
) -> None:
    """The light node needs far less than its share, one step at a time, beside nodes, strangers and the system.

    Where applications want everything, the system first gets what is due to it for the turn before.
    """
    loads = [Load(FlowKey(name, APP), step) for name, step in floods.items()]
    loads.append(Load(FlowKey("n1", SYSTEM), system))
    times, now = [], 0.1
    for gap in gaps:
        now += gap
        times.append(now)
    light = Load(FlowKey("light", APP), 1e-5, times)
    simulate(Turns(TurnFlow, policy()), [*loads, light], now + 1.0)
    assert len(light.waits_s) == len(times)
    turn_s = limits.TURN_S + max(floods.values())
    system_turn_s = limits.TURN_SYSTEM_S + system
    assert max(light.waits_s) <= max(turn_s + turn_s * 0.2 / 0.8, system_turn_s) + system_turn_s + 1e-9


def test_a_flow_that_was_idle_has_saved_up_nothing() -> None:
    turns = Turns(TurnFlow, policy())
    busy, idle = Load(FlowKey("n1", APP), 1e-4), Load(FlowKey("n2", APP), 1e-4, [])
    simulate(turns, [busy, idle], 2.0)
    late = Load(FlowKey("n2", APP), 1e-4)
    before_s = busy.used_s
    flow = turns.flow(busy.key)
    assert flow.wants
    # From now on both want everything. The late one gets its half, without the two seconds that it missed.
    both = {turns.flow(busy.key): busy, turns.flow(late.key): late}
    turns.add(turns.flow(late.key))
    for _ in range(1000):
        chosen = turns.next()
        assert chosen is not None
        both[chosen].used_s += 2e-4
        turns.charge(chosen, 2e-4, wants=True)
    assert late.used_s == pytest.approx(busy.used_s - before_s, abs=1e-3)


def test_strangers_are_one_flow_of_small_weight() -> None:
    strangers, node = Load(STRANGERS, 1e-3), Load(FlowKey("n1", APP), 1e-4)
    simulate(Turns(TurnFlow, policy()), [strangers, node], 2.0)
    part = limits.STRANGERS_WEIGHT / (1 + limits.STRANGERS_WEIGHT)
    assert strangers.used_s / 2.0 == pytest.approx(part, abs=0.005)


def test_what_is_done_outside_of_turns_is_paid_for() -> None:
    """A flow is charged also while it waits, and while it wants no turn."""
    turns = Turns(TurnFlow, policy())
    first, second = turns.flow(FlowKey("n1", APP)), turns.flow(FlowKey("n2", APP))
    turns.add(first)
    turns.add(second)
    turns.charge_beside(first, 1e-2)
    served = []
    for _ in range(20):
        chosen = turns.next()
        assert chosen is not None
        served.append(chosen)
        turns.charge(chosen, 1e-3, wants=True)
    assert served.index(first) >= 9
    assert first.used_s == pytest.approx(1e-2 + 1e-3 * served.count(first))


def test_a_turn_taken_at_once_is_charged_like_any_other() -> None:
    turns = Turns(TurnFlow, policy())
    first, second = turns.flow(FlowKey("n1", APP)), turns.flow(FlowKey("n2", APP))
    turns.take(first)
    turns.add(second)
    turns.charge(first, 1e-3, wants=True)
    assert turns.next() is second
    turns.charge(second, 2e-3, wants=True)
    assert turns.next() is first


def test_another_policy_holds_from_the_next_turn_on() -> None:
    turns = Turns(TurnFlow, policy(n1=1, n2=1))
    loads = [Load(FlowKey("n1", APP), 1e-4), Load(FlowKey("n2", APP), 1e-4)]
    turns.configure(policy(n1=3, n2=1))
    simulate(turns, loads, 1.0)
    assert loads[0].used_s / loads[1].used_s == pytest.approx(3, rel=0.01)


def test_turns_of_a_flow_that_is_alone_are_longer_until_another_has_one() -> None:
    turns = Turns(TurnFlow, policy())
    first, system = turns.flow(FlowKey("n1", APP)), turns.flow(FlowKey("n2", SYSTEM))
    turns.add(first)
    assert turns.quantum_s(first) == limits.TURN_S
    for _ in range(300):
        assert turns.next() is first
        turns.charge(first, limits.TURN_S, wants=True)
    assert turns.is_alone
    assert turns.quantum_s(first) == limits.TURN_ALONE_S
    assert turns.quantum_s(system) == limits.TURN_SYSTEM_S
    turns.add(system)
    for _ in range(2):
        chosen = turns.next()
        assert chosen is not None
        turns.charge(chosen, limits.TURN_S, wants=True)
    assert not turns.is_alone
    assert turns.quantum_s(first) == limits.TURN_S
