"""What samples of flows say about fairness. Pure: samples in, figures out.

A sample is what an exporter told of one disk at one moment; totals grow from its start. Times are in seconds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

Flow = tuple[str, str]
"""Node and class."""
Unit = Literal["cost_s", "operations", "bytes"]
"""By what flows are compared: of a disk by the time it takes, of a limit by what it limits."""

WINDOW_S: Final = 5.0
# A flow that keeps fewer requests than the disk takes at once is often found with none waiting, and then had
# all it asked for. Between two requests of a depth-1 flow lies a round trip: never would be too much to ask.
BACKLOGGED_FRACTION: Final = 0.8


@dataclass(frozen=True)
class FlowTotals:
    cost_s: float
    operations: int
    bytes: int
    queued: int
    in_flight: int


@dataclass(frozen=True)
class Sample:
    time_s: float
    flows: Mapping[Flow, FlowTotals]


def sample_of(document: Mapping[str, Any], time_s: float) -> Sample:
    """The first disk of a "flows" document. Raises ValueError with what it said when it is none."""
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
    """Raises ValueError when fewer than two are left: nothing can be said of those."""
    kept = [sample for sample in samples if start_s <= sample.time_s <= end_s]
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {len(samples)} samples lie between {start_s:.2f} and {end_s:.2f} s")
    return kept


def jain(values: Collection[float]) -> float:
    """Jain's index (Jain, Chiu, Hawe 1984): 1 when all are equal, 1/n when one has everything.

    With weights give each value divided by its weight. None at all, or all zero, is nobody's unfairness: 1.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def served(samples: Sequence[Sample], unit: Unit = "cost_s") -> dict[Flow, float]:
    """Served to each flow between the first and the last sample; a flow that came between began at 0."""
    first, last = samples[0].flows, samples[-1].flows
    before = {flow: getattr(totals, unit) for flow, totals in first.items()}
    return {flow: getattr(totals, unit) - before.get(flow, 0) for flow, totals in last.items()}


def queued_fraction(samples: Sequence[Sample], flow: Flow) -> float:
    """In how many of the samples the flow had requests waiting."""
    found = sum(1 for sample in samples if flow in sample.flows and sample.flows[flow].queued)
    return found / len(samples)


def backlogged(samples: Sequence[Sample], flows: Collection[Flow]) -> list[Flow]:
    """Those of `flows` that had requests waiting nearly always: what they got was not for want of asking."""
    return [flow for flow in flows if queued_fraction(samples, flow) >= BACKLOGGED_FRACTION]


def lowest_window(
    samples: Sequence[Sample], weights: Mapping[Flow, float], unit: Unit = "cost_s", window_s: float = WINDOW_S
) -> float:
    """The least of (served / entitled to) of any flow of `weights` over any stretch of `window_s`.

    Entitled is its weight's share of what all of `weights` were served in the stretch: what others take, because
    they are not backlogged or of another class, is nobody's loss here. A stretch begins at a sample
    and ends at the first one at least `window_s` later. Raises ValueError when no stretch fits.
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
    """How far the share of the flow that is furthest off lies from its weight's: 0.05 is 5 % of its share."""
    return max(abs(ratio - 1) for ratio in _ratios(got, weights))


def _ratios(got: Mapping[Flow, float], weights: Mapping[Flow, float]) -> list[float]:
    """Served by entitled of each flow of `weights`; 0 when nobody was served anything."""
    total, total_weight = sum(got.get(flow, 0.0) for flow in weights), sum(weights.values())
    if not total:
        return [0.0 for _ in weights]
    return [got.get(flow, 0.0) / (total * weight / total_weight) for flow, weight in weights.items()]


def share(got: Mapping[Flow, float], flows: Collection[Flow]) -> float:
    """Part of everything served that went to `flows`."""
    total = sum(got.values())
    return sum(got.get(flow, 0.0) for flow in flows) / total if total else 0.0


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of each round's ratio. Raises ValueError when the rounds are not pairs."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def median_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(one - other for one, other in zip(ours, theirs, strict=True))


def shares_over_time(
    samples: Sequence[Sample], flows: Sequence[Flow], step_s: float, unit: Unit = "cost_s"
) -> list[tuple[float, list[float]]]:
    """For a plot: (seconds since the first sample, each flow's part of what was served) every `step_s`."""
    points, start = [], 0
    for end, last in enumerate(samples):
        if last.time_s - samples[start].time_s < step_s:
            continue
        got = served([samples[start], last], unit)
        points.append((last.time_s - samples[0].time_s, [share(got, [flow]) for flow in flows]))
        start = end
    return points
