"""The fair queue's single decisions. Properties over random loads are in tests/simulation."""

import pytest

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.learn.depth import DepthControl
from meshfs.scheduler.learn.observation import Observation
from meshlab.suites.queue import make_request, pop_all

MIB = limits.MIB
APP, SYSTEM = IoClass.APP, IoClass.SYSTEM


def make(policy: DiskPolicy | None = None, depth: int = 8, costs: CostModel | None = None) -> FairQueue:
    depths = DepthControl(64)
    depths.depth = depth
    return FairQueue(policy or DiskPolicy(), costs, depths)


def add(queue: FairQueue, node: str, count: int, now: float = 0.0, **more: object) -> list[DiskRequest]:
    requests = [make_request(node, **more) for _ in range(count)]  # type: ignore[arg-type]
    for request in requests:
        queue.add(request, now)
    return requests


def learnt(read_fixed_s: float, read_byte_s: float) -> CostModel:
    """Return a model that believes in these costs after enough windows."""
    costs = CostModel({**CostModel().state(), "read_fixed_s": read_fixed_s, "read_byte_s": read_byte_s})
    for _ in range(2 * limits.COST_CALIBRATED_WINDOWS):
        for count, length in ((400, 4096), (40, MIB)):
            elapsed_s = count * (read_fixed_s + length * read_byte_s)
            sizes = [count * length, 0, 0]
            costs.learn(
                Observation(elapsed_s, elapsed_s, True, [count, 0, 0], sizes, elapsed_s / count, 8, elapsed_s / 20)
            )
    assert costs.calibrated
    return costs


def test_an_active_application_finds_room_beside_a_system_flood() -> None:
    queue = make(depth=8)
    (asked,) = add(queue, "n1", 1)
    assert queue.pop(0.0) is asked
    add(queue, "n2", 20, io_class=SYSTEM)
    popped, _ = pop_all(queue, 0.001)
    assert len(popped) == 6
    queue.done(asked, 0.002)
    assert queue.pop(0.002) is None
    (again,) = add(queue, "n1", 1, 0.003)
    assert queue.pop(0.003) is again


def test_what_no_application_asks_for_the_system_gets_whole() -> None:
    queue = make(depth=8)
    (asked,) = add(queue, "n1", 1)
    queue.pop(0.0)
    queue.done(asked, 0.001)
    add(queue, "n2", 20, 0.001, io_class=SYSTEM)
    later = limits.APP_ACTIVE_S + 0.001
    assert len(pop_all(queue, later)[0]) == 8


def test_a_system_that_gives_way_hides_no_wake_up_of_a_limited_application() -> None:
    queue = make(DiskPolicy(flows={FlowKey("n1", APP): FlowPolicy(limit_iops=100.0)}), depth=16)
    add(queue, "n1", 5)
    add(queue, "n2", 20, io_class=SYSTEM)
    popped, wake_time = pop_all(queue, 0.0)
    assert [request.flow.node for request in popped].count("n2") == 12
    assert wake_time is not None
    assert 0.0 < wake_time < 0.02


def test_a_clock_that_jumps_back_leaves_no_application_active() -> None:
    queue = make(depth=8)
    (asked,) = add(queue, "n1", 1, 3600.0)
    queue.pop(3600.0)
    queue.done(asked, 3600.0)
    add(queue, "n2", 20, 0.0, io_class=SYSTEM)
    assert len(pop_all(queue, 0.0)[0]) == 8


def test_an_application_goes_before_the_system_and_the_floor_is_kept() -> None:
    queue = make(depth=1)
    add(queue, "n1", 40)
    add(queue, "n2", 40, io_class=SYSTEM)
    order = []
    for _ in range(40):
        request = queue.pop(0.0)
        assert isinstance(request, DiskRequest)
        order.append(request.flow.io_class)
        queue.done(request, 0.0)
    assert order[0] is APP
    assert order.count(SYSTEM) == 8


def test_of_large_requests_fewer_are_at_a_slow_disk() -> None:
    """Eight small requests of 1 ms are as much as one of 1 MiB, and therefore two of those are sent."""
    costs = learnt(1e-3, 7e-3 / MIB)
    small, large = make(costs=costs), make(costs=costs)
    add(small, "n1", 20)
    add(large, "n1", 20, length=MIB)
    assert len(pop_all(small, 0.0)[0]) == 8
    assert len(pop_all(large, 0.0)[0]) == 2


def test_a_fast_disk_gets_its_depth_whatever_the_size() -> None:
    queue = make(costs=learnt(1e-5, 1e-10), depth=32)
    add(queue, "n1", 40, length=MIB)
    assert len(pop_all(queue, 0.0)[0]) == 32


def test_at_a_limited_disk_cost_is_what_the_limit_counts() -> None:
    queue = make(DiskPolicy(limit_iops=10.0, limit_bytes_per_s=1.0 * MIB))
    small, large = add(queue, "n1", 1, length=512) + add(queue, "n1", 1, length=MIB)
    assert small.cost_s == pytest.approx(0.1)
    assert large.cost_s == pytest.approx(1.0)


def test_flows_tell_who_waits_for_what_and_what_is_due() -> None:
    policy = DiskPolicy(weights={"n2": 3.0}, flows={FlowKey("n3", APP): FlowPolicy(limit_iops=1.0)})
    queue = make(policy, depth=1)
    for node in ("n1", "n2", "n3"):
        add(queue, node, 3)
    add(queue, "n1", 1, io_class=SYSTEM)
    pop_all(queue, 0.0)
    found = {state.flow: state for state in queue.flows(0.5)}
    assert {flow: state.queued + state.in_flight for flow, state in found.items()} == {
        FlowKey("n1", APP): 3,
        FlowKey("n2", APP): 3,
        FlowKey("n3", APP): 3,
        FlowKey("n1", SYSTEM): 1,
    }
    assert found["n1", APP].entitlement == pytest.approx(0.8 / 5)
    assert found["n2", APP].entitlement == pytest.approx(0.8 * 3 / 5)
    assert found["n1", SYSTEM].entitlement == pytest.approx(0.2)
    assert found["n1", SYSTEM].waits_s == 0.5


def test_a_flow_at_its_limit_is_told_from_one_that_waits_its_turn() -> None:
    queue = make(DiskPolicy(flows={FlowKey("n1", APP): FlowPolicy(limit_iops=1.0)}))
    add(queue, "n1", 3)
    popped, wake_time = pop_all(queue, 0.0)
    assert len(popped) == 1
    assert wake_time == pytest.approx(1.0 - limits.LIMIT_BURST_S)
    (state,) = queue.flows(0.0)
    assert (state.held, state.queued, state.in_flight) == ("flow limit", 2, 1)


def test_a_flush_goes_when_the_writes_before_it_are_done() -> None:
    queue = make()
    (write,) = add(queue, "n1", 1, op=Op.WRITE)
    assert queue.pop(0.0) is write
    (flush,) = add(queue, "n1", 1, op=Op.FLUSH, length=0)
    (later,) = add(queue, "n1", 1, op=Op.WRITE)
    assert queue.pop(0.0) is later
    assert queue.pop(0.0) is None
    queue.done(write, 0.1)
    assert queue.pop(0.1) is flush


@pytest.mark.parametrize("op", [Op.ZERO, Op.DISCARD])
def test_a_flush_waits_for_the_zeroings_and_discards_before_it(op: Op) -> None:
    queue = make()
    (zeroing,) = add(queue, "n1", 1, op=op)
    assert queue.pop(0.0) is zeroing
    (flush,) = add(queue, "n1", 1, op=Op.FLUSH, length=0)
    assert queue.pop(0.0) is None
    queue.done(zeroing, 0.1)
    assert queue.pop(0.1) is flush


@pytest.mark.parametrize("op", [Op.ZERO, Op.DISCARD])
def test_windows_with_a_zeroing_or_a_discard_teach_nothing_about_other_requests(op: Op) -> None:
    """A zeroing that takes a second among quick reads must not make reads look slow."""
    queue = make()
    before = queue.costs.cost(Op.READ, 4096)
    now = 0.0
    for _ in range(200):
        (zeroing,) = add(queue, "n1", 1, op=op, length=8 << 20)
        (reading,) = add(queue, "n1", 1)
        pop_all(queue, now)
        queue.done(reading, now + 0.001)
        now += 0.2
        queue.done(zeroing, now)
    assert queue.costs.windows == 0
    assert queue.costs.cost(Op.READ, 4096) == before


def test_a_flow_pays_for_its_discards_what_they_take() -> None:
    """After a discard that took 100 ms, the other flow gets reads that cost 100 ms, and not those for a write."""
    queue = make(depth=1)
    for number in range(40):
        (discard,) = add(queue, "n1", 1, op=Op.DISCARD, length=MIB)
        queue.pop(float(number))
        queue.done(discard, number + 0.1)
    assert queue.costs.cost(Op.DISCARD, MIB) == pytest.approx(0.1, rel=0.1)
    add(queue, "n1", 5, 50.0, op=Op.DISCARD, length=MIB)
    add(queue, "n2", 5000, 50.0)
    reads_s, between_s = 0.0, []
    for _ in range(4000):
        request = queue.pop(50.0)
        assert isinstance(request, DiskRequest)
        queue.done(request, 50.0)
        if request.op is Op.DISCARD:
            between_s.append(reads_s)
            reads_s = 0.0
        else:
            reads_s += request.cost_s
    assert between_s[1:] == pytest.approx([0.1] * (len(between_s) - 1), rel=0.15)
    assert len(between_s) > 2


def test_zeroing_flows_share_a_disk_by_what_zeroing_costs_it() -> None:
    """Zeroings that are cheap for the disk give the flow many bytes. No flow pays for bytes that were not moved."""
    queue = make()
    full = queue.costs.cost(Op.ZERO, 8 << 20)
    assert full == queue.costs.cost(Op.WRITE, 8 << 20)
    for number in range(40):
        (zeroing,) = add(queue, "n1", 1, op=Op.ZERO, length=8 << 20)
        queue.pop(float(number))
        queue.done(zeroing, number + 150e-6)
    assert queue.costs.cost(Op.ZERO, 8 << 20) < full / 20
    assert queue.costs.cost(Op.ZERO, 8 << 20) >= queue.costs.cost(Op.WRITE, 0)


def test_a_flush_is_not_charged_the_bytes_of_the_write_that_waits_for_the_disks_limit() -> None:
    queue = make(DiskPolicy(limit_bytes_per_s=1.0 * MIB))
    (first,) = add(queue, "n1", 1, op=Op.WRITE, length=MIB)
    (flush,) = add(queue, "n1", 1, op=Op.FLUSH, length=0)
    (second,) = add(queue, "n1", 1, op=Op.WRITE, length=MIB)
    assert pop_all(queue, 0.0)[0] == [first]
    queue.done(first, 0.1)
    now, popped = 0.1, []
    while len(popped) < 2:
        batch, wake_time = pop_all(queue, now)
        popped += batch
        if wake_time is not None:
            now = wake_time
    assert popped == [flush, second]
    assert second.sent_s <= 1.0
