"""What goes wrong around a fair queue: cancels, flows that vanish, clocks that jump, and disks that stall."""

import gc
import random
import types
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.limits import KIB, MIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy
from meshlab.models import devices as device_models
from meshlab.models.queue_checks import (
    Event,
    Trace,
    WorkConserving,
    excess,
    largest_work,
    sent_between,
    unfairness,
    waits,
    work_done,
)
from meshlab.models.queue_simulation import Simulation
from meshlab.models.queue_workloads import ClosedLoop, Mix
from support.queue_scenarios import (
    APP,
    DETERMINISTIC,
    DEVICES,
    EPSILON,
    SYSTEM,
    FixedDepth,
    KnownCosts,
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


def check_fair(trace: Trace, shares: Mapping[FlowKey, float], since_s: float = 0.0) -> None:
    """Check the bound for work that is sent, of test_fairness.py."""
    largest = largest_work(trace, flow_of)
    for (f, g), found in unfairness(trace, flow_of, shares, since_s).items():
        assert found.of_sent <= largest[f] / shares[f] + largest[g] / shares[g] + EPSILON, (f, g)


# --- requests and flows that vanish ---------------------------------------------------------


@MORE
@given(scenarios(), st.integers(0, 999))
def test_cancels_change_nothing_for_the_others(scenario: Scenario, seed: int) -> None:
    """Ten times a second, some of the waiting requests are cancelled. Bounds and work conservation hold."""
    rng = random.Random(seed)
    trace = Trace()
    with explained(trace, (scenario, seed)):
        simulation = scenario.start(trace, WorkConserving(scenario.depth))
        for _ in range(int(scenario.duration_s * 10)):
            simulation.at(rng.uniform(0, scenario.duration_s), lambda: cancel_some(simulation, rng))
        simulation.run(scenario.duration_s)
        for io_class in IoClass:
            check_fair(trace, scenario.shares(io_class))
        drain(simulation)


@MORE
@given(scenarios(flushes=True), st.integers(0, 999))
def test_flows_that_vanish_leave_nothing_behind(scenario: Scenario, seed: int) -> None:
    """Initiators end with requests queued and at the disk, and others come. Nothing of the ended ones is left."""
    rng = random.Random(seed)
    trace = Trace()
    with explained(trace, (scenario, seed)):
        simulation = scenario.start(trace, WorkConserving(scenario.depth))

        def vanish() -> None:
            if workloads := simulation.workloads():
                gone = rng.choice(workloads)
                simulation.leave(gone)
                wants = rng.choice(scenario.wants)
                simulation.enter(wants.loads[0].workload(wants.flow, rng.randrange(1000)))

        for _ in range(20):
            simulation.at(rng.uniform(0, scenario.duration_s), vanish)
        simulation.run(scenario.duration_s)
        drain(simulation)
        states = simulation.queue.flows(simulation.clock())
        assert not any(state.queued or state.in_flight or state.held for state in states)


def reachable(root: object) -> int:
    """Return the number of objects that ``root`` keeps alive, without code and classes."""
    seen, todo = {id(root)}, [root]
    while todo:
        for each in gc.get_referents(todo.pop()):
            code = isinstance(each, type | types.ModuleType | types.FunctionType)
            if id(each) in seen or code or (isinstance(each, dict) and "__builtins__" in each):
                continue
            seen.add(id(each))
            todo.append(each)
    return len(seen)


POLICIES = {
    "plain": DiskPolicy(),
    "disk limits": DiskPolicy(limit_iops=5000.0, limit_bytes_per_s=2e8),
    "reservations and flow limits": DiskPolicy(
        flows={
            FlowKey(f"n{number}", APP): FlowPolicy(2.0, 0.8 / 3000, limit_iops=100.0, limit_bytes_per_s=1e6)
            for number in range(3000)
        }
    ),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("depth", [1, 8])
def test_thousands_of_flows_come_and_go(policy: DiskPolicy, depth: int) -> None:
    """3000 nodes come for a moment, and a quarter of them end with queued requests. The queue's state does not grow.

    The queue forgets flows whenever their number has doubled. So compare the largest sizes of both halves.
    """
    device = device_models.fast_ssd(1)
    costs = KnownCosts(device)
    queue = FairQueue(policy, costs, FixedDepth(4))
    simulation = Simulation(queue, device, [], costs.cost, depth_max=4)
    sizes: list[int] = []
    for number in range(3000):
        mix = Mix([(Op.READ, 4 * KIB), (Op.WRITE, 8 * KIB), (Op.FLUSH, 0)])
        workload = ClosedLoop(FlowKey(f"n{number}", APP), depth, mix, stop_s=simulation.now + 0.001, seed=number)
        simulation.enter(workload)
        simulation.run(simulation.now + 0.02)
        if number % 4 == 0:
            simulation.leave(workload)
        if number % 50 == 0:
            sizes.append(reachable(queue))
    assert max(sizes[30:]) <= 1.2 * max(sizes[:30]), sizes
    assert len(queue.flows(simulation.clock())) < 500
    drain(simulation)


def test_a_crowd_is_forgotten() -> None:
    """After 2000 flows at once, a few come one after the other. The queue forgets most of the crowd."""
    device = device_models.fast_ssd(1)
    costs = KnownCosts(device)
    queue = FairQueue(DiskPolicy(), costs, FixedDepth(8))
    crowd = [ClosedLoop(FlowKey(f"n{number}", APP), 2, Mix.one_size(4096), stop_s=0.1) for number in range(2000)]
    simulation = Simulation(queue, device, crowd, costs.cost, depth_max=8)
    simulation.run(0.1)
    assert len(queue.flows(simulation.clock())) == 2000
    for number in range(5000):
        late = ClosedLoop(FlowKey(f"late{number}", APP), 1, Mix.one_size(4096), stop_s=simulation.now + 0.001)
        simulation.enter(late)
        simulation.run(simulation.now + 0.01)
    assert len(queue.flows(simulation.clock())) < 1000


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 0.5, -0.5], ids="{:+g}".format)
@pytest.mark.parametrize("limit", ["flow", "disk", "both", "none"])
def test_a_clock_that_jumps_changes_a_moment_at_most(jump_s: float, limit: str) -> None:
    """The clock jumps while requests are held, ready and at the disk. Limits hold before, across and after the jump.

    Across the jump, each limit may let one burst go, or hold waiting requests for one spacing.
    """
    iops = 100.0
    own = FlowPolicy(limit_iops=iops) if limit in ("flow", "both") else FlowPolicy()
    first, second = Wants(FlowKey("n1", APP), own, (Load(8),)), Wants(FlowKey("n2", APP), own, (Load(8),))
    disk_iops = 100.0 if limit == "disk" else 150.0 if limit == "both" else None
    scenario = Scenario((first, second), depth=2, limit_iops=disk_iops)
    trace = Trace()
    simulation = scenario.start(trace)

    def jump() -> None:
        simulation.clock_offset_s += jump_s

    simulation.at(3.0051, jump)
    simulation.run(6.0)
    check_fair(trace, scenario.shares(APP)) if limit == "none" else None
    counts = [sent_between(trace, one, since_s, since_s + 0.5) for since_s in (2.4, 3.1, 4.0, 5.4)]
    assert max(counts) - min(counts) <= 0.05 * max(counts) + 4, counts
    burst = iops * limits.LIMIT_BURST_S + 2
    if limit in ("flow", "both"):
        assert excess(trace, iops, one, first.flow) <= 2 * burst
    if disk_iops:
        assert excess(trace, disk_iops, one) <= 2 * 2 * (disk_iops * limits.LIMIT_BURST_S + 2)


# --- a disk that stalls -------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["none", "flow", "disk"])
def test_a_disk_that_stalls_for_a_minute_comes_back_as_it_was(limit: str) -> None:
    """After the stall, no flow gets more than the bursts of its limits, and every flow gets the same work as before."""
    policies = [FlowPolicy(weight, limit_iops=60.0 * weight if limit == "flow" else None) for weight in (1.0, 2.0)]
    wants = tuple(
        Wants(FlowKey(f"n{n}", APP), policy, (Load(16, sizes=(4 * KIB, MIB)),)) for n, policy in enumerate(policies)
    )
    system = Wants(FlowKey("n9", SYSTEM), loads=(Load(16),))
    scenario = Scenario((*wants, system), depth=4, limit_iops=120.0 if limit == "disk" else None)
    trace = Trace()
    device = DEVICES["one server"](1)
    simulation = scenario.start(trace, device=device)
    simulation.at(10.0, lambda: device.stall(70.0))
    simulation.run(90.0)
    check_fair(trace, scenario.shares(APP) if limit == "none" else {})
    burst_s = limits.LIMIT_BURST_S
    for each in wants:
        if each.policy.limit_iops:
            assert excess(trace, each.policy.limit_iops, one, each.flow) <= each.policy.limit_iops * burst_s + 2 + 1e-6
    if scenario.limit_iops:
        bound = len(scenario.wants) * (scenario.limit_iops * burst_s + 2)
        assert excess(trace, scenario.limit_iops, one) <= bound + 1e-6
    before, after = (work_done(trace, flow_of, since_s, since_s + 9.0) for since_s in (1.0, 70.5))
    for each in scenario.wants:
        assert after[each.flow] == pytest.approx(before[each.flow], rel=0.08)


def test_a_stall_of_one_disk_is_nothing_to_another() -> None:
    """Two disks run in turn in one process. The decisions of the other disk are those that it makes alone."""
    mix = (Load(16, sizes=(4 * KIB, MIB), ops=(Op.READ, Op.WRITE), flushes=0.05), Load(0, rate_per_s=50.0))
    wants = tuple(Wants(FlowKey(f"n{n}", io_class), loads=mix) for n in range(3) for io_class in IoClass)
    scenario = Scenario(wants, limit_iops=200.0)
    alone, beside = Trace(), Trace()
    scenario.start(alone).run(80.0)
    stalling = DEVICES["array"](1)
    pair = [scenario.start(beside), replace(scenario, device="array").start(Trace(), device=stalling)]
    pair[1].at(5.0, lambda: stalling.stall(65.0))
    for turn in range(1, 801):
        for simulation in pair:
            simulation.run(turn / 10)
    assert beside.decisions() == alone.decisions()


def test_requests_that_waited_for_a_stalled_disk_can_be_cancelled() -> None:
    """An initiator gives up during the stall. When the disk is back, only the others are served."""
    wants = tuple(Wants(FlowKey(f"n{n}", APP), loads=(Load(16),)) for n in range(3))
    trace = Trace()
    device = DEVICES["one server"](1)
    simulation = Scenario(wants).start(trace, device=device)
    simulation.at(1.0, lambda: device.stall(61.0))
    simulation.at(30.0, lambda: simulation.leave(simulation.workloads()[0]))
    simulation.run(63.0)
    assert not [entry for entry in trace.of(Event.SENT) if entry.time > 30.0 and entry.request.flow == wants[0].flow]
    work = work_done(trace, flow_of, 61.5, 63.0)
    assert work[wants[1].flow] == pytest.approx(work[wants[2].flow], rel=0.03)
    drain(simulation)


@pytest.mark.parametrize("depth", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_is_served_like_the_others_at_once(depth: int, seed: int) -> None:
    """After half an hour of other flows, a newcomer is served like one of them. It has neither credit nor debt.

    The bound of a request that waits (test_fairness.py) with nothing before it in its own flow, whose tag is v: at most
    X = one request of each of the others in its class, and (s_o / s_c) (X + c_c) + c_o of the other class.
    """
    others = tuple(Wants(FlowKey(f"n{n}", APP), loads=(Load(4, sizes=(MIB,)),)) for n in range(3))
    scenario = Scenario((*others, Wants(FlowKey("n8", SYSTEM), loads=(Load(depth, sizes=(MIB,)),))), depth=1)
    trace = Trace()
    device = DEVICES["hdd"](seed)
    device.speed = 0.05
    simulation = scenario.start(trace, device=device)
    newcomer = FlowKey("n7", APP)
    simulation.at(1800.0, lambda: simulation.enter(ClosedLoop(newcomer, 1, Mix.one_size(4096))))
    simulation.run(1840.0)
    first = next(wait for wait in waits(trace) if wait.request.flow == newcomer)
    largest = largest_work(trace, flow_of)
    in_class = sum(largest[each.flow] for each in others)
    other_class = 0.2 / 0.8 * (in_class + max(largest.values())) + largest["n8", SYSTEM]
    assert first.work <= in_class + other_class + EPSILON
