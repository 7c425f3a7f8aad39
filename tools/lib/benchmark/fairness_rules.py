"""Compute fairness from samples of flows. Pure: it takes samples and returns figures.

A sample is an exporter's "flows" document of one disk at one moment. Its totals count from the exporter's start. Times
are in seconds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

Flow = tuple[str, str]
"""Node and class."""
Unit = Literal["cost_s", "operations", "bytes"]
"""The unit by which flows are compared: the disk's time, or what a limit limits."""

WINDOW_S: Final = 5.0
# A flow counts as backlogged if requests of it wait in this part of the samples. A flow with fewer requests than the
# disk serves at once often has none waiting, and then got all that it wanted. The part cannot be 1, because a flow with
# depth 1 has a round trip between two requests.
BACKLOGGED_FRACTION: Final = 0.8


@dataclass(frozen=True)
class FlowTotals:
    """Holds the totals of one flow since the exporter's start."""

    cost_s: float
    operations: int
    bytes: int
    queued: int
    in_flight: int


@dataclass(frozen=True)
class Sample:
    """Holds the totals of all flows at one time."""

    time_s: float
    flows: Mapping[Flow, FlowTotals]


def sample_of(document: Mapping[str, Any], time_s: float) -> Sample:
    """Return a sample of the first disk in a "flows" document. Raises ValueError if it is another document."""
    if "disks" not in document:
        raise ValueError(f"expected a document of flows, got {document}")
    flows = {}
    for flow in document["disks"][0]["flows"]:
        flows[flow["node"], flow["class"]] = FlowTotals(
            cost_s=flow["cost_s"],
            operations=flow["reads"] + flow["writes"] + flow["flushes"],
            bytes=flow["read_bytes"] + flow["written_bytes"],
            queued=flow["queued"],
            in_flight=flow["in_flight"],
        )
    return Sample(time_s, flows)


def between(samples: Sequence[Sample], start_s: float, end_s: float) -> list[Sample]:
    """Return the samples in the interval. Raises ValueError for fewer than two, which give no figure."""
    kept = [sample for sample in samples if start_s <= sample.time_s <= end_s]
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {len(samples)} samples lie between {start_s:.2f} and {end_s:.2f} s")
    return kept


def jain(values: Collection[float]) -> float:
    """Return Jain's index (Jain, Chiu, Hawe 1984): 1 when all values are equal, 1/n when one of n has everything.

    For weighted flows, pass each value divided by its weight. Without values, or if all are zero, the index is 1.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def served(samples: Sequence[Sample], unit: Unit = "cost_s") -> dict[Flow, float]:
    """Return the amount served to each flow between the first and the last sample. A new flow counts from 0."""
    first, last = samples[0].flows, samples[-1].flows
    before = {flow: getattr(totals, unit) for flow, totals in first.items()}
    return {flow: getattr(totals, unit) - before.get(flow, 0) for flow, totals in last.items()}


def queued_fraction(samples: Sequence[Sample], flow: Flow) -> float:
    """Return the part of the samples in which requests of the flow waited."""
    found = sum(1 for sample in samples if flow in sample.flows and sample.flows[flow].queued)
    return found / len(samples)


def backlogged(samples: Sequence[Sample], flows: Collection[Flow]) -> list[Flow]:
    """Return those of `flows` whose requests waited nearly always, so that the scheduler determined their share."""
    return [flow for flow in flows if queued_fraction(samples, flow) >= BACKLOGGED_FRACTION]


def lowest_window(
    samples: Sequence[Sample], weights: Mapping[Flow, float], unit: Unit = "cost_s", window_s: float = WINDOW_S
) -> float:
    """Return the lowest ratio of served to entitled amount, of any flow in `weights`, over any window of `window_s`.

    A flow is entitled to its weight's share of the amount served to all flows in `weights` within the window. Flows
    that are not backlogged, or of another class, do not count. A window begins at a sample and ends at the first sample
    that is at least `window_s` later. Raises ValueError if the samples are too short for a window.
    """
    lowest, end = None, 0
    for start, first in enumerate(samples):
        while end < len(samples) and samples[end].time_s - first.time_s < window_s - 1e-9:
            end += 1
        if end == len(samples):
            break
        got = {flow: cost for flow, cost in served(samples[start : end + 1], unit).items() if flow in weights}
        ratio = min(_ratios(got, weights))
        lowest = ratio if lowest is None else min(lowest, ratio)
    if lowest is None:
        raise ValueError(f"{samples[-1].time_s - samples[0].time_s:.2f} s of samples, no {window_s:g} s among them")
    return lowest


def weight_error(got: Mapping[Flow, float], weights: Mapping[Flow, float]) -> float:
    """Return the largest relative deviation of a flow's share from its weight's share: 0.05 is 5 % of that share."""
    return max(abs(ratio - 1) for ratio in _ratios(got, weights))


def _ratios(got: Mapping[Flow, float], weights: Mapping[Flow, float]) -> list[float]:
    """Return the ratio of served to entitled amount for each flow in `weights`, or 0 if no flow was served."""
    total, total_weight = sum(got.get(flow, 0.0) for flow in weights), sum(weights.values())
    if not total:
        return [0.0 for _ in weights]
    return [got.get(flow, 0.0) / (total * weight / total_weight) for flow, weight in weights.items()]


def share(got: Mapping[Flow, float], flows: Collection[Flow]) -> float:
    """Return the part of the whole served amount that went to `flows`."""
    total = sum(got.values())
    return sum(got.get(flow, 0.0) for flow in flows) / total if total else 0.0


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios. Raises ValueError if the numbers of rounds differ."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def median_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(one - other for one, other in zip(ours, theirs, strict=True))


def shares_over_time(
    samples: Sequence[Sample], flows: Sequence[Flow], step_s: float, unit: Unit = "cost_s"
) -> list[tuple[float, list[float]]]:
    """Return, for a plot, (seconds since the first sample, each flow's part of the served amount) every `step_s`."""
    points, start = [], 0
    for end, last in enumerate(samples):
        if last.time_s - samples[start].time_s < step_s:
            continue
        got = served([samples[start], last], unit)
        points.append((last.time_s - samples[0].time_s, [share(got, [flow]) for flow in flows]))
        start = end
    return points
