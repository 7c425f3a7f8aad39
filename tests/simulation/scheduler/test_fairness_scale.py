"""An hour of load on 16 nodes with 26 disks each, simulated in seconds.

Each of the 416 disks has a fair queue of its own, and runs for 3600 s of simulated time. All 16 nodes are its flows,
with applications and system. 416 real disks would do 100 to 100,000 requests a second, which is 10^8 to 10^11
decisions. So there are two loads with fewer:

    in rushes    416 hard disks of 200 requests a second. They are idle but for two rushes of 2.5 s at random times,
                 which all nodes join and leave within a second. That makes 1,300 requests a disk.
    saturated    416 disks that are 300 times slower (1.6 s a request), and that all nodes use without a pause. The
                 tags of the scheduler have no unit of time, so the run is the same as 12 s of hard disks.
"""

import random
from collections.abc import Hashable

import pytest

from meshfs.disk.base import Op
from meshfs.limits import KIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshlab.models.devices import HddDevice, Times
from meshlab.models.queue_checks import Totals, jain
from meshlab.models.queue_simulation import Simulation
from meshlab.models.queue_workloads import ClosedLoop, Mix, Workload
from support.queue_scenarios import APP, SYSTEM, FixedDepth, KnownCosts

NODES = [f"n{number}" for number in range(16)]
DISKS = 416
HOUR_S = 3600.0
DEPTH = 4
WEIGHTS = {node: float(1 + number % 2) for number, node in enumerate(NODES)}
MIX = Mix([(op, size * KIB) for op in (Op.READ, Op.WRITE) for size in (4, 16, 64, 256)])
POLICY = DiskPolicy(weights=WEIGHTS)


def hard_disk(seed: int, speed: float) -> HddDevice:
    device = HddDevice(Times(0.2e-3, 5e-9, 0.3e-3, 5.5e-9, 15e-3), 12e-3, spread=0.3, seed=seed)
    device.speed = speed
    return device


def hour(disk: int, workloads: list[Workload], speed: float) -> tuple[Simulation, Totals]:
    """Simulate an hour of one disk."""
    device = hard_disk(disk, speed)
    costs = KnownCosts(device)
    totals = Totals()
    queue = FairQueue(POLICY, costs, FixedDepth(DEPTH))
    simulation = Simulation(queue, device, workloads, costs.cost, depth_max=DEPTH, recorders=[totals])
    simulation.run(HOUR_S)
    return simulation, totals


def in_rushes(disk: int) -> list[Workload]:
    """Return the load of two rushes: every node as an application, and every second one also as the system."""
    rng = random.Random(disk)
    workloads: list[Workload] = []
    for rush_s in (rng.uniform(0, HOUR_S / 2 - 10), rng.uniform(HOUR_S / 2, HOUR_S - 10)):
        for number, node in enumerate(NODES):
            for io_class, depth in ((APP, 4), (SYSTEM, 2))[: 2 - number % 2]:
                start_s, stop_s = rush_s + rng.random(), rush_s + 2.5 + rng.random()
                flow = FlowKey(node, io_class)
                workloads.append(ClosedLoop(flow, depth, MIX, start_s=start_s, stop_s=stop_s, seed=disk))
    return workloads


def saturated(disk: int) -> list[Workload]:
    apps: list[Workload] = [ClosedLoop(FlowKey(node, APP), 8, MIX, seed=disk) for node in NODES]
    return apps + [ClosedLoop(FlowKey(node, SYSTEM), 4, MIX, seed=disk) for node in NODES[::2]]


@pytest.mark.parametrize("part", range(4))
def test_an_hour_of_416_disks_in_rushes(part: int) -> None:
    """Every request is served, and none waits longer than the queues of all others take.

    A node of weight 1 among 24 has at most 4 outstanding requests. While they are served, its class gets 24 * 4 = 96,
    or twice as many if they are small and its own are large. The system gets a quarter more. At 200 a second, 240
    requests take 1.2 s.
    """
    requests = 0
    for disk in range(part, DISKS, 4):
        simulation, totals = hour(disk, in_rushes(disk), 1.0)
        requests += simulation.requests
        assert max(totals.wait_max_s.values()) <= 1.5, disk
        assert sum(totals.count.values()) == simulation.requests
        assert not simulation.waiting
    assert requests > 50_000


@pytest.mark.parametrize("part", range(4))
def test_an_hour_of_416_slow_disks_saturated(part: int) -> None:
    """Classes share 80 : 20, and nodes share by weight, at each disk and over all disks.

    A disk does about 2,200 requests, 55 to 154 for each flow. The bounds of test_fairness.py (D + 1 largest requests)
    allow some per cent at each disk. Over the 104 disks of a part, the differences average out.
    """
    work: dict[Hashable, float] = {}
    for disk in range(part, DISKS, 4):
        _, totals = hour(disk, saturated(disk), 1 / 300)
        by_class = {io_class: sum(w for (_, c), w in totals.work.items() if c is io_class) for io_class in IoClass}
        assert by_class[SYSTEM] / sum(by_class.values()) == pytest.approx(0.2, abs=0.02), disk
        parts = [totals.work[node, APP] / WEIGHTS[node] for node in NODES]
        assert jain(parts) >= 0.99, disk
        for flow, done in totals.work.items():
            work[flow] = work.get(flow, 0.0) + done
    parts = [work[node, APP] / WEIGHTS[node] for node in NODES]
    assert jain(parts) >= 0.9999
    assert min(parts) >= 0.98 * max(parts)
