"""The depth at a device: deep enough for its throughput, shallow enough for newcomers, and steady."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.scheduler.learn.depth import DepthControl, levels
from meshfs.scheduler.learn.observation import Observation
from meshlab.models.device_load import Choose, DeviceLoad, mix
from meshlab.models.devices import PipeDevice, ServerDevice, Times, fast_ssd, hdd, network_volume, sata_ssd, slow_array

Make = Callable[[int], ServerDevice | PipeDevice]
SMALL = mix([4096], 0.3)


class Run:
    """A device under a queue that is never empty, with a controlled depth.

    The device's speed is off by ``noise`` in every window, and drifts by ``drift`` each way within minutes.
    """

    def __init__(
        self, make: Make, choose: Choose, length_s: float, *, noise: float = 0.03, drift: float = 0.2, seed: int = 1
    ) -> None:
        self.device = make(seed)
        self.load = DeviceLoad(self.device, choose, seed)
        self.control = DepthControl()
        self.depths: list[int] = []
        self._length_s, self._noise, self._drift = length_s, noise, drift
        self._dice = random.Random(seed)

    def windows(self, count: int) -> None:
        for _ in range(count):
            drift = self._drift * math.sin(self.load.now / 30)
            self.device.speed = math.exp(self._dice.gauss(0.0, self._noise) + drift)
            self.depths.append(self.control.depth)
            window = self.load.window(self.control.depth, self._length_s)
            self.control.learn(window, cost_s(window))


def cost_s(window: Observation) -> float:
    """Return a cost by some cost model. It only matters that the cost is the same for all windows."""
    return sum(window.counts) * 1e-4 + sum(window.sizes) * 1e-9


def throughputs(make: Make, choose: Choose, length_s: float) -> dict[int, float]:
    """Return the throughput of each depth, without noise."""
    found = {}
    for depth in levels(limits.DISK_DEPTH_MAX):
        load = DeviceLoad(make(1), choose, 2)
        load.window(depth, 2 * length_s)
        found[depth] = cost_s(load.window(depth, 10 * length_s)) / (10 * length_s)
    return found


def window(depth: int, *, count: int = 500, latency_s: float = 0.01, elapsed_s: float = 0.1) -> Observation:
    return Observation(elapsed_s, elapsed_s, True, [count, 0, 0], [count * 4096, 0, 0], latency_s, depth, 2 * latency_s)


SLOW: dict[str, tuple[Make, Choose, float]] = {
    "array of 3": (lambda seed: slow_array(3, seed), SMALL, 0.1),
    "array of 8": (lambda seed: slow_array(8, seed), SMALL, 0.1),
    "array of 32": (lambda seed: slow_array(32, seed), SMALL, 0.1),
    "network volume": (network_volume, SMALL, 0.1),
    "network volume, 1 MiB": (network_volume, mix([1 << 20], 0.3), 0.25),
    "HDD": (hdd, SMALL, 0.25),
    "HDD, mixed": (hdd, mix([4096, 65536, 1 << 20], 0.3), 0.25),
    "SSD, 1 MiB": (sata_ssd, mix([1 << 20], 0.3), 0.1),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("seed", [1, 2])
def test_slow_devices_get_their_throughput_at_no_more_than_twice_the_depth_it_takes(name: str, seed: int) -> None:
    make, choose, length_s = SLOW[name]
    by_depth = throughputs(make, choose, length_s)
    best = max(by_depth.values())
    needed = min(depth for depth, throughput in by_depth.items() if throughput >= 0.97 * best)
    run = Run(make, choose, length_s, seed=seed)
    run.windows(600)
    settled = run.depths[300:]
    # This includes the cost of the probes. With some 25 completions in a window, of sizes that differ by 256, and a
    # curve without a knee, one per cent more is within the noise.
    least = 0.955 if name == "HDD, mixed" else 0.97
    assert fmean(by_depth[depth] for depth in settled) >= least * best
    assert fmean(settled) <= 2 * needed


def test_a_serial_disk_gets_a_depth_of_few() -> None:
    run = Run(lambda seed: slow_array(1, seed), SMALL, 0.25, noise=0.02)
    run.windows(400)
    assert fmean(run.depths[300:]) <= 3


@pytest.mark.parametrize("make", [fast_ssd, lambda seed: ServerDevice(fast_ssd(seed).times, 16, spread=0.3, seed=seed)])
def test_fast_devices_are_doubled_at_once(make: Make) -> None:
    run = Run(make, SMALL, 0.01)
    run.windows(12)
    assert run.control.depth == limits.DISK_DEPTH_MAX


def test_a_fast_device_is_not_driven_past_the_latency_target() -> None:
    run = Run(sata_ssd, SMALL, 0.05, noise=0.0, drift=0.0)
    run.windows(100)
    last = run.load.window(run.control.depth, 0.1)
    assert limits.DEPTH_START < run.control.depth < limits.DISK_DEPTH_MAX
    assert last.latency_s < limits.DEPTH_LATENCY_TARGET_S


def test_a_device_that_loses_much_goes_up_within_seconds() -> None:
    run = Run(lambda seed: slow_array(64, seed), SMALL, 0.1)
    run.windows(60)
    assert run.control.depth == 64


def test_a_device_that_changed_is_found_out_again() -> None:
    run = Run(lambda seed: slow_array(3, seed), SMALL, 0.1)
    run.windows(500)
    assert run.control.depth <= 6
    assert isinstance(run.device, ServerDevice)
    run.device.servers = 48
    run.windows(800)
    assert fmean(run.depths[-100:]) >= 44


def test_probing_is_rare_when_all_is_decided() -> None:
    control = DepthControl()
    knee, depths = 6, []
    for _ in range(3000):
        depths.append(control.depth)
        control.learn(window(control.depth), min(control.depth, knee) / knee)
    assert max(set(depths[500:]), key=depths[500:].count) == knee
    lost = [1 - min(depth, knee) / knee for depth in depths[500:]]
    assert fmean(lost) < 0.004
    assert 0 < sum(depth < knee for depth in depths[500:]) < 100  # The control does probe now and then.


# --- what must not change it ---


def settled(depth: int = 6) -> DepthControl:
    """Return a control that has found that a device (0.1 s a window, 10 ms) needs this depth."""
    control = DepthControl()
    for _ in range(1000):
        control.learn(window(control.depth), min(control.depth, depth) / depth)
    while control.depth != depth:
        control.learn(window(control.depth), min(control.depth, depth) / depth)
    return control


def test_a_stall_of_a_minute_changes_nothing() -> None:
    run = Run(network_volume, SMALL, 0.1, noise=0.0, drift=0.0)
    run.windows(500)
    before = run.depths[-1]
    run.device.stall(run.load.now + 60.0)
    run.windows(600)
    stalled = run.depths[-598:]
    assert set(stalled) == {before}
    run.windows(100)
    assert max(set(run.depths[-100:]), key=run.depths[-100:].count) == before


def test_windows_with_one_completion_change_nothing_for_long() -> None:
    control = settled(6)
    for elapsed_s in (60.0, 0.1, 1e-6):
        control.learn(window(control.depth, count=1, latency_s=elapsed_s, elapsed_s=elapsed_s), 1e-4)
    for _ in range(40):
        control.learn(window(control.depth), min(control.depth, 6) / 6)
    assert control.depth in (4, 6, 12)  # The depth is the base, or a neighbour that is probed.
    seen = set()
    for _ in range(400):
        control.learn(window(control.depth), min(control.depth, 6) / 6)
        seen.add(control.depth)
    assert seen <= {4, 6, 12}


def test_windows_that_are_not_saturated_end_a_probe_and_teach_nothing() -> None:
    control = settled(6)
    while control.depth == 6:
        control.learn(window(6), 1.0)
    idle = window(control.depth)
    idle.saturated = False
    control.learn(idle, 1.0)
    assert control.depth == 6
    for _ in range(500):
        control.learn(idle, 100.0)
        assert control.depth == 6


def test_a_fast_device_is_doubled_only_where_its_depth_held_something_back() -> None:
    control = DepthControl()
    one = window(control.depth, latency_s=1e-4)
    one.saturated = one.held_back = False
    for _ in range(10):
        control.learn(one, 0.1)
    assert control.depth == limits.DEPTH_START
    one.held_back = True
    for _ in range(2):
        control.learn(one, 0.1)
    assert control.depth == 2 * limits.DEPTH_START


def test_windows_of_another_depth_teach_nothing() -> None:
    control = settled(6)
    for depth in (0, 3, 64) * 100:
        control.learn(window(depth, latency_s=1e-5), 100.0)
        assert control.depth == 6


@pytest.mark.parametrize("broken", [math.nan, math.inf, 0.0, -1.0])
def test_broken_figures_teach_nothing(broken: float) -> None:
    control = settled(6)
    for _ in range(100):
        control.learn(window(6), broken)
        control.learn(window(6, elapsed_s=broken if broken != math.inf else math.nan), 1.0)
        assert control.depth == 6


figures = st.floats(1e-9, 1e9)


@settings(max_examples=100, deadline=None)
@given(
    depth_max=st.integers(1, 100),
    shown=st.lists(st.tuples(st.booleans(), st.integers(0, 1000), figures, figures, figures), max_size=100),
)
def test_whatever_it_is_shown_the_depth_is_a_level_and_repeatable(
    depth_max: int, shown: list[tuple[bool, int, float, float, float]]
) -> None:
    def play() -> list[int]:
        control, depths = DepthControl(depth_max), []
        for saturated, count, elapsed_s, latency_s, cost in shown:
            one = window(control.depth, count=count, elapsed_s=elapsed_s, latency_s=latency_s)
            one.saturated = saturated
            control.learn(one, cost)
            depths.append(control.depth)
        return depths

    depths = play()
    assert set(depths) <= set(levels(depth_max))
    assert play() == depths


def test_levels() -> None:
    assert levels(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert levels(1) == [1]
    assert levels(5) == [1, 2, 3, 4, 5]
    assert DepthControl(4).depth == 4
    with pytest.raises(ValueError, match="depth_max 0"):
        DepthControl(0)


class Gaps(Run):
    """The load leaves the device short of requests at times when it may have more than 8."""

    def windows(self, count: int, part: float = 1.0, *, waits: bool = True) -> None:
        for number in range(count):
            self.depths.append(self.control.depth)
            window = self.load.window(self.control.depth, self._length_s)
            if self.control.depth > limits.DEPTH_START and (number % 2 or not waits):
                window = replace(window, saturated=False, latency_s=window.latency_s * part, held_back=waits)
            self.control.learn(window, cost_s(window))


def ten_servers(seed: int) -> ServerDevice:
    return ServerDevice(Times(5.2e-3, 0.0, 5.2e-3, 0.0, 5e-3), 10, spread=0.05, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_of_an_instant_does_not_keep_a_device_below_its_depth(seed: int) -> None:
    run = Gaps(ten_servers, SMALL, 0.1, seed=seed)
    run.windows(60)
    assert run.control.depth >= 10


@pytest.mark.parametrize("seed", range(5))
def test_an_application_of_depth_16_gets_a_depth_of_16(seed: int) -> None:
    """Nothing waits then, and one request in eight is on its way."""
    run = Gaps(ten_servers, SMALL, 0.1, seed=seed)
    run.windows(60, part=0.88, waits=False)
    assert run.control._base == 16


@pytest.mark.parametrize("seed", range(5))
def test_a_load_that_is_gone_half_of_the_time_tells_nothing_of_a_depth(seed: int) -> None:
    run = Gaps(ten_servers, SMALL, 0.1, seed=seed)
    run.windows(60, part=0.5)
    assert run.control._base == limits.DEPTH_START
