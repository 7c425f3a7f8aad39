"""The promises of the fair queue, with random loads on simulated disks. Each test states its bound and its source.

Notation: c_f the largest cost (seconds of the disk) of a request of flow f, w_f its weight, W_f the work (cost) it
got over an interval, D the requests at the device at once, s_c the share of class c. The virtual time v is the
start tag of the last request sent; S = max(v, F_previous) and F = S + c / w are a request's tags.

Lemmas (Goyal, Vin, Cheng 1996, lemmas 1 and 2), by the order of sending, while v goes from v1 to v2:
    (a)  W_f >= w_f (v2 - v1) - c_f      when f is backlogged
    (b)  W_f <= w_f (v2 - v1) + c_f      always
"""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings

from meshfs.disk.base import Op
from meshfs.limits import KIB, MIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy
from meshfs.scheduler.decide.queue import FifoQueue, Queue
from meshlab.models import devices as device_models
from meshlab.models.queue_checks import (
    Event,
    Totals,
    Trace,
    WorkConserving,
    jain,
    largest_work,
    shortfall,
    unfairness,
    waits,
    work_done,
)
from meshlab.models.queue_simulation import Simulation
from meshlab.models.queue_workloads import ClosedLoop, Mix
from support.queue_scenarios import (
    APP,
    DETERMINISTIC,
    EPSILON,
    SYSTEM,
    FixedDepth,
    KnownCosts,
    Load,
    Scenario,
    Wants,
    class_of,
    drain,
    flow_of,
    scenarios,
)

A_FEW = settings(DETERMINISTIC, max_examples=25)
MORE = settings(DETERMINISTIC, max_examples=60)


def check_fair(trace: Trace, shares: Mapping[FlowKey, float], depth: int) -> None:
    """Check the bounds of the first test below, for every interval in which two flows are backlogged."""
    largest = largest_work(trace, flow_of)
    for (f, g), found in unfairness(trace, flow_of, shares).items():
        bound = largest[f] / shares[f] + largest[g] / shares[g]
        assert found.of_sent <= bound + EPSILON, (f, g)
        assert found.of_done <= (depth + 1) * bound + EPSILON, (f, g)


# --- shares -------------------------------------------------------------------------------


@MORE
@given(scenarios())
def test_backlogged_flows_of_a_class_get_work_by_weight(scenario: Scenario) -> None:
    """|W_f / w_f - W_g / w_g| is at most c_f / w_f + c_g / w_g of work sent, (D + 1) times that of work done.

    Sent: (a) for one, (b) for the other (Goyal et al., theorem 1). Done (Jin, Chase, Kaur 2004, theorem 1): what
    completes in an interval was sent in it, or was at the device when it began, less what is there when it
    ends; with at most D at the device each of the flows differs by at most D of its requests.
    Checked for every interval in which both wait, not for the longest only.
    """
    trace = scenario.run()
    for io_class in IoClass:
        check_fair(trace, scenario.shares(io_class), scenario.depth)


@MORE
@given(scenarios())
def test_classes_that_both_want_get_their_shares(scenario: Scenario) -> None:
    """Both backlogged, of work W the system gets W s within s (1 - s) B, with B = c_app / (1 - s) + c_system / s.

    The classes are two flows with the weights 1 - s and s, so |W_sys / s - W_app / (1 - s)| = d <= B (above), and
    with W = W_sys + W_app it follows that W_sys = s W +- s (1 - s) d.
    """
    trace = scenario.run()
    largest = largest_work(trace, class_of)
    shares = scenario.class_shares()
    bound = sum(largest[io_class] / shares[io_class] for io_class in IoClass)
    found = unfairness(trace, class_of, shares)[APP, SYSTEM]
    assert found.of_sent <= bound + EPSILON
    assert found.of_done <= (scenario.depth + 1) * bound + EPSILON
    for io_class, share in shares.items():
        worst = shortfall(trace, class_of, io_class, share)
        # By (b), the other class gets even less while it is not backlogged.
        assert worst <= share * (1 - share) * bound + EPSILON, io_class


@pytest.mark.parametrize("wanting", [0.05, 0.5, 1.0, 4.0])
def test_a_class_gets_the_part_that_the_other_does_not_want(wanting: float) -> None:
    """Applications that want a part of the disk get it. The flood of the system gets all the rest."""
    app = Wants(FlowKey("n1", APP), loads=(Load(depth=0, rate_per_s=wanting * 200, sizes=(4096,)),))
    flood = Wants(FlowKey("n2", SYSTEM), loads=(Load(depth=64, sizes=(MIB,), ops=(Op.WRITE,)),))
    trace = Scenario((app, flood), duration_s=60.0, depth=2).run(WorkConserving(2))
    work = work_done(trace, class_of)
    arrived = sum(entry.request.work for entry in trace.of(Event.ADDED) if entry.request.flow.io_class is APP)
    assert work[APP] == pytest.approx(min(arrived, 0.8 * sum(work.values())), rel=0.02)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 4.0), (4.0, 2.0, 1.0)])
@pytest.mark.parametrize("device", ["one server", "hdd"])
def test_weights_hold_whatever_depth_and_size(device: str, weights: tuple[float, float, float]) -> None:
    """Depth 1, 4 and 64, of 4 KiB, 64 KiB and 1 MiB, behind one another at a device that takes one at a time.

    A flow of depth 1 asks again at the instant its request is done, before the queue decides: it is backlogged
    wherever it matters. (At a depth of more than 1 a lone request at a time cannot use a third of a device.)
    """
    loads = [Load(1, sizes=(4 * KIB,)), Load(4, sizes=(64 * KIB,)), Load(64, sizes=(MIB,), ops=(Op.WRITE,))]
    wants = tuple(
        Wants(FlowKey(f"n{number}", APP), FlowPolicy(weight), (load,))
        for number, (weight, load) in enumerate(zip(weights, loads, strict=True))
    )
    trace = Scenario(wants, device=device, depth=1, duration_s=40.0).run()
    for since_s in range(0, 35, 5):
        work = work_done(trace, flow_of, since_s, since_s + 5)
        parts = [work[w.flow] / w.policy.weight * sum(weights) / sum(work.values()) for w in wants]
        assert min(parts) >= 0.95
        assert jain(parts) >= 0.99


def test_more_opens_are_not_more() -> None:
    """A node with 40 opens of depth 16 gets what a node with one open gets."""
    many = Wants(FlowKey("n1", APP), loads=tuple(Load(16, sizes=(64 * KIB,)) for _ in range(40)))
    single = Wants(FlowKey("n2", APP), loads=(Load(8, sizes=(4 * KIB,)),))
    trace = Scenario((many, single), duration_s=30.0).run()
    work = work_done(trace, flow_of, 5.0)
    assert work[many.flow] == pytest.approx(work[single.flow], rel=0.02)


# --- no starvation, work conservation, repeatability ----------------------------------------


@MORE
@given(scenarios())
def test_every_request_is_sent_within_a_bound(scenario: Scenario) -> None:
    """The work sent between a request's arrival and its departure is at most X + (s_o / s_c) (X + c_c) + c_o, with
    X = q + sum over the other flows g of its class of (w_g (q + c_f) / w_f + c_g), and q the work of its own flow
    it queued behind; c is its class, o the other one.

    At its arrival v = v1. The flow's last tag is at most v1 + c_f / w_f, so its start tag is at most
    v1 + (c_f + q) / w_f, and until it leaves v is not past that: (b) bounds each g, hence X the class's work. Its class
    is backlogged meanwhile, so the other class gets at most s_o / s_c (X + c_c) + c_o by (a) and (b).
    """
    trace = scenario.run()
    largest, of_class = largest_work(trace, flow_of), largest_work(trace, class_of)
    shares = scenario.class_shares()
    weights = {io_class: scenario.shares(io_class) for io_class in IoClass}
    for wait in waits(trace):
        flow, mine = wait.request.flow, wait.request.flow.io_class
        other = SYSTEM if mine is APP else APP
        tags = (largest[flow] + wait.own) / weights[mine][flow]
        of_mine = wait.own + sum(w * tags + largest[g] for g, w in weights[mine].items() if g != flow)
        bound = of_mine + shares[other] / shares[mine] * (of_mine + of_class[mine]) + of_class[other]
        assert wait.work <= bound + EPSILON, wait


@MORE
@given(scenarios(flushes=True, reservations=True))
def test_the_disk_is_never_idle_while_requests_may_go(scenario: Scenario) -> None:
    """After every decision, the device has ``depth`` requests, or only flushes that must wait are left."""
    scenario.run(WorkConserving(scenario.depth))


def work_of_a_class_alone(queue: Queue, name: str, io_class: IoClass, requests: int) -> float:
    """Return the work done for three nodes of different depth and size, in the time of ``requests`` of 64 KiB."""
    device = device_models.DEVICES[name](3)
    sizes = [(4 * KIB,), (64 * KIB,), (4 * KIB, 256 * KIB)]
    loads = [Load(depth, sizes=of) for depth, of in zip((64, 16, 4), sizes, strict=True)]
    workloads = [load.workload(FlowKey(f"n{number}", io_class), number) for number, load in enumerate(loads)]
    totals = Totals()
    costs = KnownCosts(device)
    servers = getattr(device, "servers", 1)
    duration_s = requests * device.capacity_cost_s(Op.READ, 64 * KIB) * max(1.0, servers / queue.depth)
    Simulation(queue, device, workloads, costs.cost, depth_max=queue.depth, recorders=[totals]).run(duration_s)
    return sum(totals.work.values())


@pytest.mark.parametrize("io_class", list(IoClass))
@pytest.mark.parametrize("name", list(device_models.DEVICES))
@pytest.mark.parametrize("depth", [1, 8, 64])
def test_a_class_alone_gets_what_fifo_gets(name: str, io_class: IoClass, depth: int) -> None:
    """On each device model, the fair queue gets at least 97 % of the work of FIFO done, in the same time and depth."""
    costs = KnownCosts(device_models.DEVICES[name](3))
    fair = work_of_a_class_alone(FairQueue(DiskPolicy(), costs, FixedDepth(depth)), name, io_class, 2000)
    assert fair >= 0.97 * work_of_a_class_alone(FifoQueue(depth), name, io_class, 2000)


@A_FEW
@given(scenarios(flushes=True, reservations=True))
def test_the_same_seed_gives_the_same_decisions(scenario: Scenario) -> None:
    assert scenario.run().decisions() == scenario.run().decisions()


# --- flushes ----------------------------------------------------------------------------------


@MORE
@given(scenarios(flushes=True))
def test_a_flush_waits_for_earlier_writes_and_for_nothing_else(scenario: Scenario) -> None:
    """The recorder ``Order`` checks the order of every request. After the load ends, every request is served."""
    totals = Totals()
    trace = Trace()
    simulation = scenario.start(trace, totals, WorkConserving(scenario.depth))
    simulation.run(scenario.duration_s)
    drain(simulation)


def test_a_flush_is_not_held_by_writes_that_came_after_it() -> None:
    """Writes never cease, and the queue is empty at each completion. A flush leaves once earlier writes are done."""
    writer = ClosedLoop(FlowKey("n1", APP), 3, Mix.one_size(4096, Op.WRITE))
    device = device_models.sata_ssd(1)
    costs = KnownCosts(device)
    trace = Trace()
    simulation = Simulation(
        FairQueue(DiskPolicy(), costs, FixedDepth(8)), device, [writer], costs.cost, depth_max=8, recorders=[trace]
    )
    simulation.at(0.01, lambda: simulation.enter(ClosedLoop(FlowKey("n1", APP), 1, Mix.one_size(0, Op.FLUSH), seed=1)))
    simulation.run(1.0)
    flushes = [wait for wait in waits(trace) if wait.request.op == Op.FLUSH]
    longest_write_s = 10 * device.times.of(Op.WRITE, 4096)
    assert len(flushes) > 100
    assert max(wait.waited_s for wait in flushes) <= longest_write_s
