"""Random loads on one simulated disk with a fair queue, as values. A property that fails prints the value."""

import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from meshfs.disk.base import Op
from meshfs.limits import MIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy, check
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.learn.depth import DepthControl
from meshfs.scheduler.learn.observation import Observation
from meshlab.models.devices import HddDevice, PipeDevice, ServerDevice, Times
from meshlab.models.queue_checks import Order, Trace
from meshlab.models.queue_simulation import Recorder, Simulation
from meshlab.models.queue_workloads import SIZES_BYTES, ClosedLoop, Mix, OnOff, OpenLoop, SimulatedRequest, Workload

APP, SYSTEM = IoClass.APP, IoClass.SYSTEM
#: The examples are the same in every run, and therefore a failure of CI is a failure here.
DETERMINISTIC = settings(
    derandomize=True, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
#: The tolerance for sums of many floats.
EPSILON = 1e-9

SimulatedDevice = ServerDevice | PipeDevice


class KnownCosts(CostModel):
    """The costs of a device's requests, which are known instead of learnt."""

    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__()
        for name, op in (("read", Op.READ), ("write", Op.WRITE)):
            fixed_s = device.capacity_cost_s(op, 0)
            setattr(self, f"{name}_fixed_s", fixed_s)
            setattr(self, f"{name}_byte_s", (device.capacity_cost_s(op, MIB) - fixed_s) / MIB)
        self.flush_fixed_s = device.capacity_cost_s(Op.FLUSH, 0)

    def cost(self, op: int, length: int) -> float:
        if op == Op.READ:
            return self.read_fixed_s + self.read_byte_s * length
        if op == Op.WRITE:
            return self.write_fixed_s + self.write_byte_s * length
        return self.flush_fixed_s

    def learn(self, window: Observation) -> None:
        """Do nothing, because the costs are known."""


class FixedDepth(DepthControl):
    """A depth that is fixed, because some checks need bounds that depend on it."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth

    def learn(self, window: Observation, cost_s: float) -> None:
        """Do nothing, because the depth is fixed."""


#: Each request takes 1 to 10 ms, so that a second has a few hundred decisions.
DEVICES: Mapping[str, Callable[[int], SimulatedDevice]] = {
    "one server": lambda seed: ServerDevice(Times(2e-3, 4e-9, 3e-3, 5e-9, 1e-3), 1, spread=0.3, seed=seed),
    "array": lambda seed: ServerDevice(Times(8e-3, 16e-9, 9e-3, 20e-9, 4e-3), 4, spread=0.5, seed=seed),
    "pipe": lambda seed: PipeDevice(Times(2e-3, 4e-9, 2e-3, 6e-9, 1e-3), 5e-3, spread=0.1, seed=seed),
    "hdd": lambda seed: HddDevice(Times(0.2e-3, 5e-9, 0.3e-3, 5.5e-9, 5e-3), 8e-3, spread=0.3, seed=seed),
}


@dataclass(frozen=True)
class Load:
    """An open of a flow. A ``depth`` of 0 means Poisson arrivals at ``rate_per_s``."""

    depth: int = 8
    rate_per_s: float = 0.0
    on_off_s: tuple[float, float] | None = None
    think_s: float = 0.0
    sizes: tuple[int, ...] = (4096,)
    ops: tuple[Op, ...] = (Op.READ,)
    flushes: float = 0.0

    def workload(self, flow: FlowKey, seed: int) -> Workload:
        kinds = [(op, size) for op in self.ops for size in self.sizes]
        frequencies = [(1.0 - self.flushes) / len(kinds)] * len(kinds)
        mix = Mix([*kinds, (Op.FLUSH, 0)], [*frequencies, self.flushes]) if self.flushes else Mix(kinds)
        if not self.depth:
            return OpenLoop(flow, self.rate_per_s, mix, seed=seed)
        if self.on_off_s:
            return OnOff(flow, self.depth, mix, on_s=self.on_off_s[0], off_s=self.on_off_s[1], seed=seed)
        return ClosedLoop(flow, self.depth, mix, think_s=self.think_s, seed=seed)


@dataclass(frozen=True)
class Wants:
    """A flow, as its policy and its opens."""

    flow: FlowKey
    policy: FlowPolicy = field(default_factory=FlowPolicy)
    loads: tuple[Load, ...] = (Load(),)


@dataclass(frozen=True)
class Scenario:
    """Everything that decides a run."""

    wants: tuple[Wants, ...]
    device: str = "one server"
    depth: int = 4
    seed: int = 0
    system_floor: float = 0.2
    limit_iops: float | None = None
    limit_bytes_per_s: float | None = None
    duration_s: float = 3.0

    @property
    def policy(self) -> DiskPolicy:
        policy = DiskPolicy(
            system_floor=self.system_floor,
            limit_iops=self.limit_iops,
            limit_bytes_per_s=self.limit_bytes_per_s,
            flows={wants.flow: wants.policy for wants in self.wants},
        )
        check(policy, [wants.flow.node for wants in self.wants])
        return policy

    def start(self, *recorders: Recorder, device: SimulatedDevice | None = None) -> Simulation:
        """Start the simulation, with the checks that always hold."""
        device = device or DEVICES[self.device](self.seed)
        costs = KnownCosts(device)
        return Simulation(
            FairQueue(self.policy, costs, FixedDepth(self.depth)),
            device,
            self.workloads(),
            costs.cost,
            depth_max=self.depth,
            recorders=[Order(), *recorders],
        )

    def workloads(self) -> list[Workload]:
        return [
            load.workload(wants.flow, self.seed + number)
            for wants in self.wants
            for number, load in enumerate(wants.loads)
        ]

    def run(self, *recorders: Recorder) -> Trace:
        """Run the whole scenario. A check that fails prints the last events."""
        trace = Trace()
        with explained(trace, self):
            self.start(trace, *recorders).run(self.duration_s)
        return trace

    def shares(self, io_class: IoClass) -> dict[FlowKey, float]:
        """Return the weights of the flows of a class."""
        return {wants.flow: wants.policy.weight for wants in self.wants if wants.flow.io_class is io_class}

    def class_shares(self) -> dict[IoClass, float]:
        return {APP: 1.0 - self.system_floor, SYSTEM: self.system_floor}


@contextmanager
def explained(trace: Trace, scenario: object) -> Iterator[None]:
    """Add the last events, and what replays them, to whatever fails inside."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{scenario}\nlast events:\n{trace.tail()}")
        raise


# --- strategies -------------------------------------------------------------------------

WEIGHTS = st.sampled_from([0.1, 0.5, 1.0, 1.0, 1.0, 2.0, 3.0, 10.0])
DEPTHS = st.sampled_from([1, 2, 3, 8, 32])
SIZES = st.lists(st.sampled_from(SIZES_BYTES), min_size=1, max_size=3, unique=True).map(tuple)
OPS = st.sampled_from([(Op.READ,), (Op.WRITE,), (Op.READ, Op.WRITE)])


def loads(*, flushes: bool = False) -> st.SearchStrategy[Load]:
    """Draw loads: closed loops of all depths, most without thinking time; Poisson arrivals; bursts."""
    return st.builds(
        Load,
        depth=st.sampled_from([0, 1, 2, 4, 16, 64]),
        rate_per_s=st.sampled_from([20.0, 100.0, 400.0]),
        on_off_s=st.sampled_from([None, None, (0.3, 0.2)]),
        think_s=st.sampled_from([0.0, 0.0, 0.01]),
        sizes=SIZES,
        ops=OPS,
        flushes=st.sampled_from([0.0, 0.02, 0.2]) if flushes else st.just(0.0),
    )


@st.composite
def scenarios(
    draw: st.DrawFn,
    *,
    classes: Sequence[IoClass] = (APP, SYSTEM),
    flushes: bool = False,
    reservations: bool = False,
    duration_s: float = 2.0,
) -> Scenario:
    """Draw 2 to 5 flows with their opens on any device."""
    count = draw(st.integers(2, 5))
    wants = []
    floor = draw(st.sampled_from([0.01, 0.2, 0.2, 0.5, 0.9]))
    left = {APP: 1.0 - floor, SYSTEM: floor}
    for number in range(count):
        flow = FlowKey(f"n{number}", draw(st.sampled_from(list(classes))))
        policy = FlowPolicy(draw(WEIGHTS))
        if reservations and (part := draw(st.sampled_from([0.0, 0.3, 0.7]))):
            policy = replace(policy, reservation=part * left[flow.io_class])
            left[flow.io_class] -= policy.reservation
        opens = draw(st.lists(loads(flushes=flushes), min_size=1, max_size=2))
        wants.append(Wants(flow, policy, tuple(opens)))
    return Scenario(
        tuple(wants),
        device=draw(st.sampled_from(list(DEVICES))),
        depth=draw(DEPTHS),
        seed=draw(st.integers(0, 999)),
        system_floor=floor,
        duration_s=duration_s,
    )


def flow_of(request: SimulatedRequest) -> Hashable:
    return request.flow


def class_of(request: SimulatedRequest) -> IoClass:
    return request.flow.io_class


def one(request: SimulatedRequest) -> float:
    """Count a request as one, for a limit in requests."""
    return 1.0


def size(request: SimulatedRequest) -> float:
    """Count a request by its bytes, for a limit in bytes."""
    return float(request.length)


def drain(simulation: Simulation) -> None:
    """End the load, and check that every request that waits is served."""
    for workload in simulation.workloads():
        simulation.stop(workload)
    simulation.run(math.inf)
    assert not simulation.waiting
    assert not simulation.in_flight


def cancel_some(simulation: Simulation, rng: random.Random) -> None:
    """Cancel some of the waiting requests."""
    waiting = list(simulation.waiting)
    for request in rng.sample(waiting, rng.randint(0, len(waiting))):
        # A cancel can let other requests go only at the next pop, so all of these still wait.
        simulation.cancel(request)
