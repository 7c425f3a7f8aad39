"""What tools/bench fairness concludes from samples, on samples whose answer is known."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import fairness_rules as rules
from benchmark.fairness_rules import Flow, FlowTotals, Sample

A: Flow = ("n2", "app")
B: Flow = ("n3", "app")
S: Flow = ("n4", "system")
STEP_S = 0.25


def samples(rates: dict[Flow, Sequence[float]], *, queued: dict[Flow, Sequence[int]] | None = None) -> list[Sample]:
    """Return a sample for each STEP_S. `rates` is what each flow is served per second in each step."""
    totals = dict.fromkeys(rates, 10.0)
    steps = len(next(iter(rates.values())))
    made = []
    for step in range(steps + 1):
        waiting = {flow: queued[flow][min(step, steps - 1)] if queued else 1 for flow in rates}
        flows = {flow: FlowTotals(totals[flow], 0, 0, waiting[flow], 1) for flow in rates}
        made.append(Sample(100 + step * STEP_S, flows))
        if step < steps:
            totals = {flow: total + rates[flow][step] * STEP_S for flow, total in totals.items()}
    return made


@pytest.mark.parametrize(
    ("values", "index"), [([5, 5, 5], 1.0), ([1, 0, 0, 0], 0.25), ([0, 0], 1.0), ([], 1.0), ([2, 1], 0.9)]
)
def test_jains_index(values: list[float], index: float) -> None:
    assert rules.jain(values) == pytest.approx(index)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20), st.floats(0.01, 100))
def test_jains_index_has_bounds_and_no_unit(values: list[float], factor: float) -> None:
    index = rules.jain(values)
    assert 1 / len(values) - 1e-9 <= index <= 1 + 1e-9
    assert rules.jain([value * factor for value in values]) == pytest.approx(index)


def test_served_is_the_growth_of_totals_also_of_a_flow_that_came_later() -> None:
    first = Sample(0, {A: FlowTotals(7, 0, 0, 0, 0)})
    last = Sample(1, {A: FlowTotals(9, 0, 0, 0, 0), B: FlowTotals(0.5, 0, 0, 0, 0)})
    assert rules.served([first, last]) == {A: 2, B: 0.5}


def test_what_a_limit_counts_is_compared_by_that() -> None:
    first = Sample(0, {A: FlowTotals(7, 10, 4096, 0, 0), B: FlowTotals(7, 0, 0, 0, 0)})
    last = Sample(1, {A: FlowTotals(9, 30, 8192, 0, 0), B: FlowTotals(7, 20, 512, 0, 0)})
    assert rules.served([first, last], "operations") == {A: 20, B: 20}
    assert rules.served([first, last], "bytes") == {A: 4096, B: 512}
    assert rules.lowest_window([first, last], {A: 1, B: 1}, "operations", 1.0) == 1
    assert rules.lowest_window([first, last], {A: 1, B: 1}, window_s=1.0) == 0


def test_only_flows_that_always_wait_are_backlogged() -> None:
    steps = 20
    run = samples({A: [1] * steps, B: [1] * steps}, queued={A: [3] * steps, B: [1, 0] * (steps // 2)})
    assert rules.queued_fraction(run, B) == pytest.approx(0.5, abs=0.05)
    assert rules.backlogged(run, [A, B, S]) == [A]


def test_the_lowest_window_finds_a_dip_that_the_whole_run_hides() -> None:
    # These are 5 s of 60:40 in the middle of 25 s of 50:50.
    a = [0.5] * 40 + [0.6] * 20 + [0.5] * 40
    run = samples({A: a, B: [1 - rate for rate in a]})
    assert rules.lowest_window(run, {A: 1, B: 1}) == pytest.approx(0.8)
    assert rules.weight_error(rules.served(run), {A: 1, B: 1}) == pytest.approx(0.04)


def test_a_dip_shorter_than_the_window_counts_by_its_part() -> None:
    a = [0.5] * 40 + [0.0] * 2 + [0.5] * 40
    run = samples({A: a, B: [0.5] * 82})
    assert rules.lowest_window(run, {A: 1, B: 1}) == pytest.approx(18 / 19)


def test_the_lowest_window_goes_by_weight_and_by_what_those_flows_got() -> None:
    run = samples({A: [0.2] * 40, B: [0.4] * 40, S: [0.4] * 40})
    assert rules.lowest_window(run, {A: 1, B: 2}) == pytest.approx(1.0)
    assert rules.lowest_window(run, {A: 1, B: 1}) == pytest.approx(2 / 3)


def test_a_stretch_in_which_nobody_is_served_is_nobodys_share() -> None:
    assert rules.lowest_window(samples({A: [0] * 40, B: [0] * 40}), {A: 1, B: 1}) == 0


def test_samples_too_few_for_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4\.75 s of samples, no 5 s among them"):
        rules.lowest_window(samples({A: [1] * 19}), {A: 1})
    assert rules.lowest_window(samples({A: [1] * 20}), {A: 1}) == 1


def test_weights_are_met_within_the_worst_flows_error() -> None:
    assert rules.weight_error({A: 1.0, B: 2.0, S: 4.0}, {A: 1, B: 2, S: 4}) == pytest.approx(0)
    assert rules.weight_error({A: 0.9, B: 2.1}, {A: 1, B: 2}) == pytest.approx(0.1)
    assert rules.weight_error({A: 1.0}, {A: 1, B: 1}) == pytest.approx(1)


def test_a_share_is_of_everything_served() -> None:
    assert rules.share({A: 6, B: 2, S: 2}, [S]) == pytest.approx(0.2)
    assert rules.share({A: 0}, [A]) == 0


def test_samples_outside_are_left_out_and_one_alone_is_refused() -> None:
    run = samples({A: [1] * 8})
    assert [sample.time_s for sample in rules.between(run, 100.5, 101)] == [100.5, 100.75, 101]
    with pytest.raises(ValueError, match="1 of 9 samples lie between"):
        rules.between(run, 101, 101.1)


def test_ratios_are_of_pairs_and_then_the_median() -> None:
    assert rules.median_ratio([90, 110, 50], [100, 100, 50]) == 1.0
    assert rules.median_difference([3, 9, 5], [1, 1, 4]) == 2
    with pytest.raises(ValueError, match="argument"):
        rules.median_ratio([1, 2], [1])


def test_a_document_of_flows_becomes_a_sample() -> None:
    flow = {"node": "n2", "class": "app", "cost_s": 1.5, "reads": 3, "writes": 4, "flushes": 1}
    flow |= {"read_bytes": 4096, "written_bytes": 512, "queued": 2, "in_flight": 1}
    sample = rules.sample_of({"disks": [{"name": "disk0", "flows": [flow]}]}, 9.0)
    assert sample == Sample(9.0, {A: FlowTotals(1.5, 8, 4608, 2, 1)})


def test_an_exporter_that_knows_no_flows_is_named() -> None:
    with pytest.raises(ValueError, match="unknown verb"):
        rules.sample_of({"error": "unknown verb 'flows'"}, 0)


def test_shares_over_time_are_of_each_step() -> None:
    points = rules.shares_over_time(samples({A: [1] * 4 + [3] * 4, B: [1] * 8}), [A, B], 1.0)
    assert points == [(1.0, pytest.approx([0.5, 0.5])), (2.0, pytest.approx([0.75, 0.25]))]
