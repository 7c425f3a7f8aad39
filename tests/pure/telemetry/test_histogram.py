"""The latency histogram, against the sorted list of the added values."""

import math
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.telemetry.histogram import BOUNDS_S, BUCKETS, COARSE_BOUNDS_MS, Histogram

LATENCIES = st.floats(min_value=1e-6, max_value=100.0)
#: Half a bucket, geometrically, and the rounding of a float.
ERROR_MAX = 1.13


def filled(latencies: list[float]) -> Histogram:
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    return histogram


def test_the_bounds_rise_by_at_most_28_percent_and_are_the_nearest_floats() -> None:
    assert all(1 < high / low <= 1.28 for low, high in pairwise(BOUNDS_S))
    assert len(BOUNDS_S) == 81
    assert {1e-6, 1e-3, 5e-3, 0.01, 0.1, 1.0, 10.0, 100.0} < set(BOUNDS_S)


@given(st.lists(LATENCIES, min_size=1), st.floats(min_value=0, max_value=100))
def test_percentiles_are_those_of_the_sorted_list(latencies: list[float], q: float) -> None:
    exact = sorted(latencies)[max(1, math.ceil(len(latencies) * q / 100)) - 1]
    told = filled(latencies).percentile(q)
    assert told is not None
    assert exact / ERROR_MAX <= told <= exact * ERROR_MAX


@given(st.lists(LATENCIES | st.sampled_from([bound / 1000 for bound in COARSE_BOUNDS_MS])))
def test_coarse_counts_are_exact(latencies: list[float]) -> None:
    expected = [0] * 7
    for latency in latencies:
        expected[bisect_left([bound / 1000 for bound in COARSE_BOUNDS_MS], latency)] += 1
    assert filled(latencies).coarse() == expected


def test_a_latency_on_an_edge_counts_below_it_and_the_next_float_above() -> None:
    for index, bound in enumerate(COARSE_BOUNDS_MS):
        assert filled([bound / 1000]).coarse()[index] == 1
        assert filled([math.nextafter(bound / 1000, math.inf)]).coarse()[index + 1] == 1


@given(st.lists(LATENCIES), st.lists(LATENCIES))
def test_merged_is_as_if_added_to_one(left: list[float], right: list[float]) -> None:
    merged, other = filled(left), filled(right)
    merged.merge(other)
    assert merged.counts == filled(left + right).counts
    assert other.counts == filled(right).counts
    assert merged.count == len(left) + len(right)


def test_empty_has_no_percentile() -> None:
    assert (Histogram().count, Histogram().percentile(50), Histogram().coarse()) == (0, None, [0] * 7)


@pytest.mark.parametrize(
    ("latency", "bucket"),
    [(-1e9, 0), (-math.inf, 0), (0.0, 0), (math.nan, 0), (1e9, BUCKETS - 1), (math.inf, BUCKETS - 1)],
)
def test_absurd_latencies_count_at_the_ends(latency: float, bucket: int) -> None:
    histogram = filled([latency])
    assert histogram.counts[bucket] == 1
    assert histogram.percentile(99) in (BOUNDS_S[0], BOUNDS_S[-1])
