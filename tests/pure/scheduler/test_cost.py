"""The cost model: what it learns and how fast, what it refuses to learn, and what it keeps."""

import json
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.scheduler.learn.cost import NAMES, CostModel
from meshfs.scheduler.learn.observation import Observation
from meshlab.models.device_load import DeviceLoad, mix
from meshlab.models.devices import DEVICES, Times

READ, WRITE, FLUSH, ZERO, DISCARD = 0, 1, 2, 3, 4
SSD = Times(200e-6, 1e-9, 300e-6, 2e-9, 2e-3)
# A case trains a model for at least a tenth of a second. To shrink a case would take minutes, past the test's timeout.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
MIXES: Sequence[Sequence[int]] = ([4096], [1 << 20], [4096, 1 << 20], [65536], [4096, 65536])


def window(
    work: Sequence[tuple[int, int]], elapsed_s: float, *, saturated: bool = True, longest_s: float | None = None
) -> Observation:
    """Return a window in which ``work`` (operation, bytes) completed, at a depth of 8."""
    counts, sizes = [0, 0, 0], [0, 0, 0]
    for op, length in work:
        counts[op] += 1
        sizes[op] += length
    latency_s = 8 * elapsed_s / max(len(work), 1)
    longest_s = 2 * latency_s if longest_s is None else longest_s
    return Observation(elapsed_s, elapsed_s, saturated, counts, sizes, latency_s, 8, longest_s)


def saturated(
    dice: random.Random,
    times: Times,
    lengths: Sequence[int],
    writes: float,
    *,
    flushes: float = 0.0,
    noise: float = 0.06,
    elapsed_s: float = 0.25,
) -> Observation:
    """Return what a disk of ``times`` does in about ``elapsed_s``, off by ``noise``."""
    work, used_s = [], 0.0
    while used_s < elapsed_s:
        op = FLUSH if dice.random() < flushes else WRITE if dice.random() < writes else READ
        work.append((op, dice.choice(lengths) if op != FLUSH else 0))
        used_s += times.of(*work[-1])
    return window(work, used_s * math.exp(dice.gauss(0.0, noise)))


def varied(dice: random.Random, times: Times) -> Observation:
    return saturated(dice, times, dice.choice(MIXES), dice.choice([0, 0.3, 0.7, 1]), flushes=dice.choice([0, 0.02]))


def small_reads(dice: random.Random, times: Times) -> Observation:
    """Return 4 KiB reads alone. They are counted and not drawn, for tests of thousands of windows."""
    elapsed_s, count = 0.25 * math.exp(dice.gauss(0.0, 0.06)), int(0.25 / times.of(READ, 4096))
    return Observation(elapsed_s, elapsed_s, True, [count, 0, 0], [count * 4096, 0, 0], 2.0 / count, 8, 4.0 / count)


def slower(times: Times, factor: float) -> Times:
    return Times(*(getattr(times, name) * factor for name in NAMES))


def trained(times: Times, windows: int = 300, seed: int = 0) -> CostModel:
    model, dice = CostModel(), random.Random(seed)
    for _ in range(windows):
        model.learn(varied(dice, times))
    return model


def errors(model: CostModel, cost: Callable[[int, int], float]) -> dict[tuple[int, int], float]:
    """Return the factor by which costs are off, per operation and size."""
    return {
        (op, length): model.cost(op, length) / cost(op, length)
        for op in (READ, WRITE)
        for length in (4096, 65536, 1 << 20)
    }


def ratio(model: CostModel, op: int = READ) -> float:
    return model.cost(op, 1 << 20) / model.cost(op, 4096)


def disk(fixed_s: float, break_even_bytes: float, write_fixed: float, write_byte: float, flush: float) -> Times:
    """Return a disk on which a read of no bytes takes `fixed_s`, and a read of `break_even_bytes` takes twice that.

    The other costs are given in parts of a read's.
    """
    byte_s = fixed_s / break_even_bytes
    return Times(fixed_s, byte_s, fixed_s * write_fixed, byte_s * write_byte, fixed_s * flush)


def worst_error(model: CostModel, times: Times) -> float:
    """Return the largest error of the costs of reads and writes, and of the ratios between large and small ones."""
    ratios = [ratio(model, op) * times.of(op, 4096) / times.of(op, 1 << 20) for op in (READ, WRITE)]
    return max(abs(factor - 1.0) for factor in [*errors(model, times.of).values(), *ratios])


def state(**changes: object) -> dict[str, object]:
    return {**CostModel().state(), **changes}


# --- what it learns ---


def test_varied_load_teaches_every_cost_and_ratio() -> None:
    """Of 2,000 such disks, half were off by at most 2.6 %, 90 % by 4.5 %, 99 % by 11 %, and one by 21 %.

    Windows are off by 6 %. The large errors are those of 1 MiB where the disk differs most from the prior: a break-even
    size of 512 KiB and more (prior: 64 KiB) with cheap bytes of writes. The model takes the first windows of large
    requests for bytes alone. What they teach wrongly halves with each doubling of the windows. The hundred disks here
    are always the same, and therefore the bounds are close to what they have: 2.6 %, 4.0 % and 9.2 %.
    """
    dice, worst = random.Random(0), []
    for seed in range(100):
        times = disk(
            10 ** dice.uniform(-3.7, -2.5),
            2 ** dice.uniform(12, 20),
            dice.uniform(0.4, 2.5),
            dice.uniform(0.4, 2.5),
            dice.uniform(0.5, 20.0),
        )
        model = trained(times, 400, seed)
        assert model.calibrated
        worst.append(worst_error(model, times))
    worst.sort()
    assert worst[50] < 0.03
    assert worst[90] < 0.05
    assert worst[-1] < 0.15


@settings(max_examples=25, deadline=None, phases=UNSHRUNK)
@given(
    times=st.builds(
        disk,
        fixed_s=st.floats(-3.7, -2.5).map(lambda e: 10**e),
        break_even_bytes=st.floats(12, 20).map(lambda e: 2**e),
        write_fixed=st.floats(0.4, 2.5),
        write_byte=st.floats(0.4, 2.5),
        flush=st.floats(0.5, 20.0),
    ),
    seed=st.integers(0, 1 << 30),
)
def test_no_disk_is_learnt_far_off(times: Times, seed: int) -> None:
    """Hypothesis likes limits. Of 1,920 disks with all five at a limit, the worst was off by 36 %."""
    assert worst_error(trained(times, 400, seed), times) < 0.5


@pytest.mark.parametrize("name", [name for name in DEVICES if name != "fast_ssd"])
def test_devices_are_learnt_from_their_throughput(name: str) -> None:
    """At a depth of 64, a request's latency is up to 64 times its share of the device."""
    device = DEVICES[name](3)
    model, load = CostModel(), DeviceLoad(device, mix([4096]), 1)
    mixes = [mix([4096], 0.1), mix([4096, 1 << 20], 0.7), mix([65536], 0.5, 0.02), mix([1 << 20], 0.9), mix([16384])]
    for i in range(300):
        load.choose = mixes[i // 5 % len(mixes)]
        model.learn(load.window(64, 0.05 if name == "sata_ssd" else 0.25))
    for what, factor in errors(model, device.capacity_cost_s).items():
        assert factor == pytest.approx(1.0, abs=0.15), what


@pytest.mark.parametrize("factor", [5.0, 0.2, 30.0])
def test_a_disk_that_became_slower_or_faster_is_learnt_in_some_tens_of_windows(factor: float) -> None:
    model, dice, times = trained(SSD), random.Random(1), slower(SSD, factor)
    for _ in range(30):
        model.learn(varied(dice, times))
    for what, error in errors(model, times.of).items():
        assert error == pytest.approx(1.0, abs=0.3), what


def test_a_disk_whose_bandwidth_alone_changed_gets_another_ratio() -> None:
    model, dice = trained(SSD), random.Random(2)
    times = Times(SSD.read_fixed_s, 4 * SSD.read_byte_s, SSD.write_fixed_s, 4 * SSD.write_byte_s, SSD.flush_fixed_s)
    for _ in range(200):
        model.learn(varied(dice, times))
    for op in (READ, WRITE):
        assert ratio(model, op) == pytest.approx(times.of(op, 1 << 20) / times.of(op, 4096), rel=0.15)


def test_drift_by_half_within_minutes_is_followed() -> None:
    model, dice = trained(SSD), random.Random(3)
    for i in range(2000):
        now = slower(SSD, 2 ** (0.5 * math.sin(i / 60)))
        model.learn(small_reads(dice, now))
        assert model.cost(READ, 4096) == pytest.approx(now.of(READ, 4096), rel=0.2)


@pytest.mark.parametrize("period", [16, 60])
def test_one_size_for_hours_leaves_the_ratios_where_they_were(period: int) -> None:
    model, dice = trained(SSD), random.Random(4)
    before = {op: ratio(model, op) for op in (READ, WRITE)}
    across = model.cost(WRITE, 4096) / model.cost(READ, 4096)
    for i in range(10_000):
        model.learn(small_reads(dice, slower(SSD, 2 ** (0.3 * math.sin(i / period)))))
    assert {op: ratio(model, op) for op in (READ, WRITE)} == pytest.approx(before, rel=0.3)
    assert model.cost(WRITE, 4096) / model.cost(READ, 4096) == pytest.approx(across, rel=0.3)


def test_an_unseen_disk_with_small_reads_only_gets_plausible_costs_for_the_rest() -> None:
    for times in (slower(SSD, 0.05), SSD, slower(SSD, 50.0)):
        model, dice = CostModel(), random.Random(5)
        for _ in range(100):
            model.learn(small_reads(dice, times))
        assert model.cost(READ, 4096) == pytest.approx(times.of(READ, 4096), rel=0.1)
        assert 4 < ratio(model) < 256  # This is between a pipe of bytes and free bytes.
        assert 0.5 < model.cost(WRITE, 4096) / model.cost(READ, 4096) < 2


# --- what it refuses to learn ---


def test_single_outliers_move_a_confident_model_little() -> None:
    model, dice = trained(SSD), random.Random(6)
    for i in range(200):
        one = varied(dice, SSD)
        if i % 10 == 0:
            one.elapsed_s *= 10
        elif i % 10 == 5:
            one.elapsed_s /= 10
        model.learn(one)
        assert model.cost(READ, 4096) == pytest.approx(SSD.of(READ, 4096), rel=0.25)


def test_a_window_with_a_stall_moves_nothing() -> None:
    model = trained(SSD)
    before = errors(model, SSD.of)
    for _ in range(5):
        model.learn(window([(READ, 4096)] * 200, 60.0, longest_s=59.9))
    assert errors(model, SSD.of) == before


def test_stalls_in_every_window_are_the_disk_as_it_is() -> None:
    model = trained(SSD)
    for _ in range(60):
        model.learn(window([(READ, 4096)] * 1000, 2.0, longest_s=1.9))
    assert model.cost(READ, 4096) == pytest.approx(2e-3, rel=0.1)


def test_a_minute_without_completions_and_back() -> None:
    device = DEVICES["slow_array"](1)
    model, load = CostModel(), DeviceLoad(device, mix([4096]), 1)
    for _ in range(100):
        model.learn(load.window(16, 0.25))
    device.stall(load.now + 60.0)
    for _ in range(250):
        model.learn(load.window(16, 0.25))
        assert model.cost(READ, 4096) == pytest.approx(device.capacity_cost_s(READ, 4096), rel=0.15)


def test_unsaturated_windows_lower_costs_that_cannot_be_and_nothing_else() -> None:
    model = trained(slower(SSD, 4.0))
    dice = random.Random(7)
    for _ in range(100):
        before = model.cost(READ, 4096)
        one = small_reads(dice, SSD)
        one.saturated = False
        model.learn(one)
        assert model.cost(READ, 4096) <= before
    assert model.cost(READ, 4096) == pytest.approx(SSD.of(READ, 4096), rel=0.35)
    assert model.cost(READ, 4096) > SSD.of(READ, 4096)


def test_an_idle_disk_teaches_nothing() -> None:
    """There are few requests in much time: the bound says little, and noise must not lower any cost much."""
    model, dice = trained(SSD), random.Random(8)
    before, windows = [getattr(model, name) for name in NAMES], model.windows
    for _ in range(500):
        one = small_reads(dice, SSD)
        one.saturated, one.elapsed_s = False, 1.0
        model.learn(one)
    assert [getattr(model, name) for name in NAMES] == pytest.approx(before, rel=0.1)
    assert model.windows < windows + 25


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0, math.inf, math.nan])
def test_windows_of_a_broken_clock_are_ignored(elapsed_s: float) -> None:
    model = trained(SSD, 50)
    before = model.state()
    model.learn(window([(READ, 4096)], elapsed_s))
    model.learn(window([], 1.0))
    assert model.state() == before


amounts = st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3)
seconds = st.floats(0.0, 1e9)
windows = st.builds(
    Observation, seconds, seconds, st.booleans(), amounts, amounts, seconds, st.integers(0, 64), seconds
)


@settings(max_examples=300, deadline=None)
@given(st.lists(windows, max_size=30))
def test_whatever_it_is_shown_costs_stay_positive_bounded_and_ordered(shown: list[Observation]) -> None:
    model = CostModel()
    for one in shown:
        model.learn(one)
        for op in (READ, WRITE, FLUSH):
            small, large = model.cost(op, 1), model.cost(op, limits.IO_SIZE_MAX_BYTES)
            assert 0.0 < small <= large <= limits.COST_FIXED_MAX_S + limits.COST_BYTE_MAX_S * limits.IO_SIZE_MAX_BYTES
    CostModel(model.state())


@settings(max_examples=50, deadline=None, phases=UNSHRUNK)
@given(st.lists(windows, max_size=30))
def test_no_nonsense_is_learnt_for_good(shown: list[Observation]) -> None:
    model, dice = CostModel(), random.Random(9)
    for one in shown:
        model.learn(one)
    for _ in range(150):
        model.learn(varied(dice, SSD))
    for what, factor in errors(model, SSD.of).items():
        assert 0.2 < factor < 5.0, what


# --- what it keeps ---


def test_the_state_survives_a_restart_and_json() -> None:
    model = trained(SSD)
    again = CostModel(json.loads(json.dumps(model.state())))
    assert again.state() == model.state()
    assert again.calibrated
    assert (again.windows, again.cost(READ, 5000)) == (300, model.cost(READ, 5000))


def test_calibrated_counts_saturated_windows_only() -> None:
    model = CostModel()
    assert not model.calibrated
    for _ in range(5 * limits.COST_CALIBRATED_WINDOWS):
        model.learn(window([(READ, 4096)] * 100_000, 1e-3, saturated=False))
    assert model.windows > 0
    assert not model.calibrated
    for i in range(limits.COST_CALIBRATED_WINDOWS):
        assert not model.calibrated, i
        model.learn(window([(READ, 4096)] * 100, 0.1))
    assert model.calibrated


@settings(max_examples=25, deadline=None, phases=UNSHRUNK)
@given(st.tuples(*[st.floats(-1.0, 1.0)] * 5))
def test_a_state_of_another_disk_is_unlearnt(off: tuple[float, ...]) -> None:
    """Each cost is off by up to 30, either way."""
    values = {name: getattr(SSD, name) * 30**power for name, power in zip(NAMES, off, strict=True)}
    model, dice = CostModel(state(**values)), random.Random(10)
    for _ in range(400):
        model.learn(varied(dice, SSD))
    for what, factor in errors(model, SSD.of).items():
        assert 0.3 < factor < 3.0, what


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (state(version=2), "version 2, expected 1"),
        (state(version="1"), "version '1'"),
        (state(version=True), "version True"),
        ({"version": 1, "windows": 3}, "flush_fixed_s, read_byte_s, read_fixed_s, saturated_windows"),
        ({}, "version None"),
        (state(colour="red"), "unknown key 'colour'"),
        (state(read_fixed_s=math.nan), "read_fixed_s is nan"),
        (state(read_fixed_s=math.inf), "read_fixed_s is inf"),
        (state(write_fixed_s=-1e-3), "write_fixed_s is -0.001"),
        (state(write_byte_s=0), "write_byte_s is 0"),
        (state(read_byte_s="1e-9"), "read_byte_s is '1e-9'"),
        (state(flush_fixed_s=True), "flush_fixed_s is True"),
        (state(flush_fixed_s=10**400), "flush_fixed_s is 1000"),
        (state(read_fixed_s=None), "read_fixed_s is None"),
        (state(read_fixed_s=[1e-3]), "read_fixed_s is [0.001]"),
        (state(windows=-1), "windows is -1"),
        (state(windows=1.5), "windows is 1.5"),
        (state(windows=5, saturated_windows=6), "saturated_windows 6, more than windows 5"),
        ([1, 2], "expected an object, found list"),
        ("state", "expected an object, found str"),
    ],
)
def test_a_bad_state_is_refused_with_what_is_wrong(bad: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=r"^cost state: ") as caught:
        CostModel(bad)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(state())) | st.text(max_size=5), json_values))
def test_hostile_states_are_refused_or_sane(changes: dict[str, object]) -> None:
    try:
        model = CostModel({**state(), **changes})
    except ValueError:
        return
    assert 0.0 < model.cost(READ, 4096) < limits.COST_FIXED_MAX_S + 4096 * limits.COST_BYTE_MAX_S


def test_a_zeroing_costs_a_write_at_most_and_what_zeroings_took() -> None:
    model, size = CostModel(), 8 << 20
    assert model.cost(ZERO, size) == model.cost(WRITE, size)
    for time_s in (0.0, -1.0, math.inf, math.nan):
        model.cleared(ZERO, size, time_s)
    model.cleared(ZERO, 0, 1.0)
    assert model.cost(ZERO, size) == model.cost(WRITE, size)
    for _ in range(50):
        model.cleared(ZERO, size, 1e-3)
    assert model.cost(ZERO, size) == pytest.approx(1e-3, rel=0.01)
    for _ in range(50):
        model.cleared(ZERO, size, 10.0)
    assert model.cost(ZERO, size) == model.cost(WRITE, size)
    model.cleared(ZERO, size, 1e-9)
    assert 0.0 < model.cost(ZERO, size) < model.cost(WRITE, size)


def test_a_discard_costs_a_write_until_the_first_one_and_then_what_discards_take() -> None:
    """A device whose discards take 5 ms and 10 ms per GiB: the model finds both from two sizes."""
    model, small, large = CostModel(), 64 << 10, 256 << 20
    assert model.cost(DISCARD, large) == model.cost(WRITE, large)
    for time_s in (0.0, -1.0, math.inf, math.nan):
        model.cleared(DISCARD, large, time_s)
    model.cleared(DISCARD, 0, 1.0)
    assert model.cost(DISCARD, large) == model.cost(WRITE, large)
    written, zeroed = model.cost(WRITE, large), model.cost(ZERO, large)
    for _ in range(200):
        for size in (small, large):
            model.cleared(DISCARD, size, 5e-3 + size * 10e-3 / (1 << 30))
    assert model.cost(DISCARD, small) == pytest.approx(5e-3, rel=0.05)
    assert model.cost(DISCARD, large) == pytest.approx(7.5e-3, rel=0.05)
    # Neither writes nor zeroings cost anything else than before.
    assert (model.cost(WRITE, large), model.cost(ZERO, large)) == (written, zeroed)


def test_the_cost_of_discards_stays_within_its_bounds() -> None:
    model = CostModel()
    for time_s in (1e-12, 1e12):
        for _ in range(500):
            model.cleared(DISCARD, 4096, time_s)
        assert 0.0 < model.cost(DISCARD, 4096) <= limits.COST_FIXED_MAX_S + 4096 * limits.COST_BYTE_MAX_S
