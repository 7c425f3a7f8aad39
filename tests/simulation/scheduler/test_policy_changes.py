"""Policies that change while a fair queue works, and everything that can go wrong at once."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs.limits import KIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy
from meshlab.models.queue_checks import (
    Trace,
    WorkConserving,
    largest_work,
    sent_between,
    unfairness,
    work_done,
)
from support.queue_scenarios import (
    APP,
    DETERMINISTIC,
    DEVICES,
    EPSILON,
    SYSTEM,
    Load,
    Scenario,
    Wants,
    cancel_some,
    drain,
    explained,
    flow_of,
    one,
    scenarios,
)

HOUR_S = 3600.0
MORE = settings(DETERMINISTIC, max_examples=60)


# --- other policies at run time -------------------------------------------------------------------


@MORE
@given(scenarios(), st.integers(0, 999))
def test_weights_that_change_count_from_then_on(scenario: Scenario, seed: int) -> None:
    """Weights and floors change ten times at random. After the last change, the bounds are those of the last policy."""
    rng = random.Random(seed)
    trace = Trace()
    simulation = scenario.start(trace, WorkConserving(scenario.depth))
    times = sorted(rng.uniform(0, scenario.duration_s / 2) for _ in range(10))
    latest: list[DiskPolicy] = []

    def change() -> None:
        flows = {wants.flow: FlowPolicy(rng.choice([0.01, 0.5, 1.0, 3.0, 100.0])) for wants in scenario.wants}
        latest.append(DiskPolicy(system_floor=rng.choice([0.01, 0.2, 0.9]), flows=flows))
        assert isinstance(simulation.queue, FairQueue)
        simulation.queue.configure(latest[-1], simulation.clock())

    for time in times:
        simulation.at(time, change)
    with explained(trace, (scenario, seed)):
        simulation.run(scenario.duration_s)
        # A start tag that was made with an old weight may be too late by this much, once.
        largest = largest_work(trace, flow_of)
        for io_class in IoClass:
            shares = {flow: policy.weight for flow, policy in latest[-1].flows.items() if flow.io_class is io_class}
            for (f, g), found in unfairness(trace, flow_of, shares, times[-1]).items():
                old = largest[f] / 0.01 + largest[g] / 0.01
                assert found.of_sent <= largest[f] / shares[f] + largest[g] / shares[g] + old + EPSILON


def changing(first: DiskPolicy, second: DiskPolicy, wants: tuple[Wants, ...], *, depth: int = 1) -> Trace:
    """Run for 20 s with each of the policies, and return the trace."""
    trace = Trace()
    simulation = Scenario(wants, depth=depth).start(trace)
    assert isinstance(simulation.queue, FairQueue)
    simulation.queue.configure(first, 0.0)
    simulation.at(20.0, lambda: simulation.queue.configure(second, simulation.clock()))  # type: ignore[attr-defined]
    simulation.run(40.0)
    return trace


FLOOD = (Load(16, sizes=(4 * KIB, 64 * KIB)),)
TWO = (
    Wants(FlowKey("n1", APP), loads=FLOOD),
    Wants(FlowKey("n2", APP), loads=FLOOD),
    Wants(FlowKey("n3", SYSTEM), loads=FLOOD),
)
ONE_FLOW = FlowKey("n1", APP)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"weight": 100.0}, {}, id="weight"),
        pytest.param({"weight": 0.01}, {}, id="small weight"),
        pytest.param({"reservation": 0.8}, {}, id="reservation"),
        pytest.param({"limit_iops": 5.0}, {}, id="limit"),
        pytest.param({"limit_bytes_per_s": 8192.0}, {}, id="limit in bytes"),
        pytest.param({"weight": 0.01, "reservation": 0.7}, {}, id="reservation of a small one"),
    ],
)
def test_service_under_an_old_policy_is_not_made_up_for(first: dict[str, float], second: dict[str, float]) -> None:
    """A second after the change, the share of a flow is the new one, however much it got or missed before."""
    trace = changing(
        DiskPolicy(flows={ONE_FLOW: FlowPolicy(**first)}), DiskPolicy(flows={ONE_FLOW: FlowPolicy(**second)}), TWO
    )
    for since_s in (21.0, 25.0, 35.0):
        work = work_done(trace, flow_of, since_s, since_s + 4.0)
        total = sum(work.values())
        parts = [work[wants.flow] / total for wants in TWO]
        assert parts == pytest.approx([0.4, 0.4, 0.2], abs=0.03), since_s


def test_a_disks_limit_that_comes_and_goes() -> None:
    trace = changing(DiskPolicy(limit_iops=50.0), DiskPolicy(), TWO, depth=4)
    unlimited = sent_between(trace, one, 21.0, 39.0) / 18.0
    assert unlimited > 250
    trace = changing(DiskPolicy(), DiskPolicy(limit_iops=50.0), TWO, depth=4)
    assert sent_between(trace, one, 21.0, 39.0) / 18.0 == pytest.approx(50.0, rel=0.03)
    trace = changing(DiskPolicy(limit_iops=200.0), DiskPolicy(limit_iops=20.0), TWO, depth=4)
    assert sent_between(trace, one, 21.0, 39.0) / 18.0 == pytest.approx(20.0, rel=0.05)


# --- everything at once ---------------------------------------------------------------------------


@dataclass
class Chaos:
    """Does everything that can happen to a queue, at random from a seed."""

    scenario: Scenario
    seed: int

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.trace = Trace()
        self.device = DEVICES[self.scenario.device](self.seed)
        self.simulation = self.scenario.start(self.trace, device=self.device)

    def run(self) -> None:
        deeds: list[Callable[[], None]] = [self.cancel, self.replace, self.configure, self.jump, self.stall, self.look]
        for _ in range(60):
            self.simulation.at(self.rng.uniform(0, self.scenario.duration_s), self.rng.choice(deeds))
        self.simulation.run(self.scenario.duration_s)
        self.look()
        drain(self.simulation)
        self.look()

    def cancel(self) -> None:
        cancel_some(self.simulation, self.rng)

    def replace(self) -> None:
        if workloads := self.simulation.workloads():
            self.simulation.leave(self.rng.choice(workloads))
        wants = self.rng.choice(self.scenario.wants)
        self.simulation.enter(wants.loads[0].workload(wants.flow, self.rng.randrange(1000)))

    def configure(self) -> None:
        rng, floor = self.rng, self.rng.choice([0.01, 0.2, 0.5, 0.9])
        left = {APP: 1.0 - floor, SYSTEM: floor}
        flows = {}
        for wants in self.scenario.wants:
            reservation = rng.choice([0.0, 0.0, 0.5, 1.0]) * left[wants.flow.io_class]
            left[wants.flow.io_class] -= reservation
            iops, bytes_per_s = rng.choice([None, 1.0, 300.0]), rng.choice([None, 1e6])
            flows[wants.flow] = FlowPolicy(rng.choice([0.01, 1.0, 1000.0]), reservation, iops, bytes_per_s)
        policy = DiskPolicy(
            floor, rng.choice([None, None, 2.0, 500.0]), rng.choice([None, None, 1e6, 1e9]), flows=flows
        )
        assert isinstance(self.simulation.queue, FairQueue)
        self.simulation.queue.configure(policy, self.simulation.clock())

    def jump(self) -> None:
        self.simulation.clock_offset_s += self.rng.choice([HOUR_S, -HOUR_S, 1.0, -1.0, 1e-3, -1e-3])

    def stall(self) -> None:
        self.device.stall(self.simulation.now + self.rng.choice([0.1, 60.0]))

    def look(self) -> None:
        """Check that the numbers of the queue are finite, and agree with the requests of the simulation."""
        states = self.simulation.queue.flows(self.simulation.clock())
        assert sum(state.queued for state in states) == len(self.simulation.waiting)
        assert sum(state.in_flight for state in states) == self.simulation.in_flight
        for state in states:
            assert math.isfinite(state.lag_s)
            assert 0.0 <= state.entitlement <= 1.0 + EPSILON
            assert state.held in ("", "flow limit", "disk limit")
            assert state.queued or not state.held


@settings(DETERMINISTIC, max_examples=120)
@given(scenarios(flushes=True, reservations=True), st.integers(0, 9999))
def test_nothing_is_lost_whatever_happens(scenario: Scenario, seed: int) -> None:
    """Cancels, lost flows, other policies, jumping clocks and stalls come together. In the end, all is served."""
    chaos = Chaos(scenario, seed)
    with explained(chaos.trace, (scenario, seed)):
        chaos.run()
