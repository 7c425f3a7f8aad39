"""What each flow of one disk got: totals, rates of the last second and minute, latencies. Pure; time is an argument.

    done(request, now)       once per completion, hot: counts up, nothing else
    snapshot(now, waiting)   what is known by then, for who wants to see it

Windows. Once a second (at the first completion or snapshot in it) each flow's totals are noted
down with the number of the second that they were true at the end of; what happened in a window is
the difference of two notes. Windows are of whole seconds that are over: "1 s" is the last second
of the meter's own count, "60 s" the last sixty, or all there were yet. A second without
completions needs no note, so gaps cost nothing. A clock that jumps ahead is a gap. One that
jumps back goes on in the same second from there.

Latencies are noted every ten seconds, so percentiles are of the last 50 to 60 s.

Backlogged. Shares are comparable between flows that wanted more all the time, and only those go
into Jain's index (`jain`). A flow waits from a request's `added_s` to its `sent_s`; the union of
these stretches is the time in which it had at least one request waiting, and is summed as
requests complete: exact when a flow's requests are sent in the order they were added. What
waits now, and may have been starved of any completion, is given by the queue. A flow is backlogged
in a window if it waited for at least BACKLOGGED_SHARE of it. That it was its own limit which
held it is not seen here: the caller knows limits.

Zeroings are counted among the completions and the cost, and have a count of bytes of their own; a rate in
bytes per second is of what was read and written only, as most disks zero without moving any data.

Bounded: of more than FLOWS_PER_DISK_MAX flows those go that were served longest ago. Their
totals go on in `others`, so that the disk's sums stay right; come back, a flow starts from zero.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import add, sub
from typing import Final, Generic, TypeAlias, TypeVar

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey
from meshfs.telemetry.histogram import BOUNDS_S, Histogram

WINDOWS_S: Final = (1, 60)
#: A flow that waited for less of a window wanted less than it could have had.
BACKLOGGED_SHARE: Final = 0.9
_MINUTE_S: Final = WINDOWS_S[-1]
_LATENCY_STEP_S: Final = 10

# Totals at the end of a second: cost_s, completions, bytes, waited_s.
_Totals: TypeAlias = tuple[float, float, float, float]
_ZERO: Final[_Totals] = (0.0, 0, 0, 0.0)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a flow or a disk got per second of one window. ``share`` is its part of the cost that the disk served."""

    cost: float = 0.0
    iops: float = 0.0
    bytes_per_s: float = 0.0
    share: float = 0.0
    backlogged: bool = False


@dataclass(frozen=True, slots=True)
class Counted:
    """Totals since the start, the first three lists by Op; what failed is among the completions.

    ``times_s`` are summed latencies, queue and disk; so are the histograms', in coarse buckets.
    """

    completions: tuple[int, ...]
    bytes: tuple[int, ...]
    times_s: tuple[float, ...]
    errors: int
    cost_s: float
    read_histogram: list[int]
    write_histogram: list[int]


@dataclass(frozen=True, slots=True)
class FlowUsage:
    """``usage`` by the window's length in seconds; latencies in seconds of the last minute, None without any."""

    counted: Counted
    usage: Mapping[int, Usage]
    latency_p50_s: float | None
    latency_p99_s: float | None
    disk_latency_p50_s: float | None
    disk_latency_p99_s: float | None


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """``usage``'s cost is the disk's utilisation, by the cost model. ``others``: the flows that were let go."""

    flows: Mapping[FlowKey, FlowUsage]
    usage: Mapping[int, Usage]
    others: Counted
    flows_let_go: int


def jain(values: Iterable[float]) -> float | None:
    """Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything.

    None when there is nothing to compare: fewer than two values, or all are zero.
    (Jain, Chiu, Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984.)
    """
    found = list(values)
    largest = max(found, default=0.0)
    if len(found) < 2 or largest <= 0:
        return None
    scaled = [value / largest for value in found]
    return sum(scaled) ** 2 / (len(scaled) * sum(value * value for value in scaled))


class _Notes(Generic[T]):
    """Values at the ends of seconds, the last ``most`` of them."""

    __slots__ = ("_kept", "_most", "_seconds")

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: list[int] = []
        self._kept: list[T] = []

    def add(self, second: int, value: T) -> None:
        """``value`` at the end of ``second``; a note of the same second is replaced."""
        if self._seconds and self._seconds[-1] == second:
            self._kept[-1] = value
            return
        self._seconds.append(second)
        self._kept.append(value)
        if len(self._kept) > self._most:
            del self._seconds[0], self._kept[0]

    def before(self, second: int, first: T) -> T:
        """The value when ``second`` began; ``first`` when no note is that old."""
        index = bisect_left(self._seconds, second)
        return self._kept[index - 1] if index else first


class _Flow:
    """Counters of one flow since it was first served; the lists are indexed by Op."""

    __slots__ = (
        "_latencies_noted", "_latency_notes", "bytes", "completions", "cost_s", "disk_latency", "errors",
        "latency", "notes", "served_s", "times_s", "waited_s", "waited_until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.completions = [0] * len(Op)
        self.bytes = [0] * len(Op)
        self.errors = 0
        self.cost_s = 0.0
        self.times_s = [0.0] * len(Op)
        self.waited_s = 0.0
        self.waited_until = -math.inf
        self.latency = [Histogram().counts for _ in Op]
        self.disk_latency = Histogram().counts
        # When the last completion was.
        self.served_s = -math.inf
        # One note more than a window has: what was before it.
        self.notes: _Notes[_Totals] = _Notes(_MINUTE_S + 1)
        self._latency_notes: _Notes[tuple[array[int], array[int]]] = _Notes(_MINUTE_S // _LATENCY_STEP_S + 1)
        self._latencies_noted = 0

    def totals(self) -> _Totals:
        return self.cost_s, sum(self.completions), sum(self.bytes[: Op.ZERO]), self.waited_s

    def note(self, second: int) -> None:
        """Note down what changed up to the end of ``second``."""
        totals = self.totals()
        if totals == self.notes.before(second + 1, _ZERO):
            return
        self.notes.add(second, totals)

    def note_latencies(self, second: int) -> None:
        """Note down how the latencies are distributed up to the end of ``second``."""
        if self._latencies_noted != sum(self.completions):
            self._latencies_noted = sum(self.completions)
            self._latency_notes.add(second, (array("Q", self._all_latencies()), array("Q", self.disk_latency)))

    def _all_latencies(self) -> list[int]:
        return [sum(counts) for counts in zip(*self.latency, strict=True)]

    def last_minute(self, second: int) -> tuple[Histogram, Histogram]:
        """Latencies from the queue on and at the disk, of the last 50 to 60 s before now, in ``second``."""
        start = second - second % _LATENCY_STEP_S - _MINUTE_S + _LATENCY_STEP_S
        latency, disk_latency = self._latency_notes.before(start, (_NO_LATENCIES, _NO_LATENCIES))
        return (
            Histogram(map(sub, self._all_latencies(), latency)),
            Histogram(map(sub, self.disk_latency, disk_latency)),
        )

    def take_over(self, other: "_Flow") -> None:
        """Add everything that ``other`` has counted since it began."""
        self.completions = list(map(add, self.completions, other.completions))
        self.bytes = list(map(add, self.bytes, other.bytes))
        self.latency = [list(map(add, mine, theirs)) for mine, theirs in zip(self.latency, other.latency, strict=True)]
        self.times_s = list(map(add, self.times_s, other.times_s))
        self.errors += other.errors
        self.cost_s += other.cost_s

    def counted(self) -> Counted:
        return Counted(
            tuple(self.completions),
            tuple(self.bytes),
            tuple(self.times_s),
            self.errors,
            self.cost_s,
            Histogram(self.latency[Op.READ]).coarse(),
            Histogram(self.latency[Op.WRITE]).coarse(),
        )


_NO_LATENCIES: Final = array("Q", Histogram().counts)


class DiskMeter:
    """Counts what one disk serves; ``now`` is the queue's clock in seconds."""

    def __init__(self, now: float) -> None:
        self._flows: dict[FlowKey, _Flow] = {}
        self._others = _Flow()
        self._flows_let_go = 0
        self._notes: _Notes[_Totals] = _Notes(_MINUTE_S + 1)
        # The current second and when it begins and ends.
        self._second = 0
        self._begin = now
        self._end = now + 1.0

    def done(self, request: DiskRequest, now: float) -> None:
        """Count a request that has its result; the queue has stamped it."""
        if not self._begin <= now < self._end:
            self._turn(now)
        flow = self._flows.get(request.flow)
        if flow is None:
            flow = self._new_flow(request.flow)
        op, result, added, sent = request.op, request.result, request.added_s, request.sent_s
        flow.served_s = now
        flow.completions[op] += 1
        if result >= 0:
            flow.bytes[op] += result
        else:
            flow.errors += 1
        flow.cost_s += request.cost_s
        latency = now - added
        if latency > 0:
            flow.times_s[op] += latency
        flow.latency[op][bisect_left(BOUNDS_S, latency)] += 1
        flow.disk_latency[bisect_left(BOUNDS_S, now - sent)] += 1
        since = flow.waited_until
        if added > since:
            since = added
        if sent > since:
            flow.waited_s += sent - since
            flow.waited_until = sent

    def _new_flow(self, key: FlowKey) -> _Flow:
        if len(self._flows) >= limits.FLOWS_PER_DISK_MAX:
            self._let_go()
        flow = self._flows[key] = _Flow()
        return flow

    def _let_go(self) -> None:
        """The quarter of the flows that was served longest ago goes; a quarter, so that it is seldom."""
        oldest_first = sorted(self._flows, key=lambda key: self._flows[key].served_s)
        for key in oldest_first[: math.ceil(len(oldest_first) / 4)]:
            self._others.take_over(self._flows.pop(key))
            self._flows_let_go += 1

    def _turn(self, now: float) -> None:
        """``now`` is not in the current second: note that one down and go to the one it is in."""
        self._note()
        if now < self._begin:
            self._go_on_at(now)
            return
        passed = math.floor(now - self._begin)
        if (self._second + passed) // _LATENCY_STEP_S != self._second // _LATENCY_STEP_S:
            for flow in self._flows.values():
                flow.note_latencies(self._second)
        self._second += passed
        self._begin += passed
        self._end = self._begin + 1.0

    def _go_on_at(self, now: float) -> None:
        """Begin a second at ``now``, which is earlier than what was noted, because the clock jumped back."""
        self._begin, self._end = now, now + 1.0
        for flow in self._flows.values():
            flow.waited_until = min(flow.waited_until, now)
            flow.served_s = min(flow.served_s, now)

    def _note(self) -> None:
        cost_s, completions, size, _ = self._others.totals()
        for flow in self._flows.values():
            flow.note(self._second)
            totals = flow.totals()
            cost_s += totals[0]
            completions += totals[1]
            size += totals[2]
        self._notes.add(self._second, (cost_s, completions, size, 0.0))

    def disk_counts(self) -> tuple[list[int], list[int], int]:
        """Return completions and bytes by Op, and errors, of all flows since the start."""
        flows = [*self._flows.values(), self._others]
        completions = [sum(flow.completions[op] for flow in flows) for op in Op]
        sizes = [sum(flow.bytes[op] for flow in flows) for op in Op]
        return completions, sizes, sum(flow.errors for flow in flows)

    def snapshot(self, now: float, waiting: Mapping[FlowKey, float]) -> DiskUsage:
        """What is known by ``now``; ``waiting``: for how long each flow's oldest queued request waits.

        A flow that waits and was never served is among the result's flows as well.
        """
        if not self._begin <= now < self._end:
            self._turn(now)
        disk = {window: self._usage(self._notes, window) for window in WINDOWS_S}
        flows: dict[FlowKey, FlowUsage] = {}
        for key in [*self._flows, *(key for key in waiting if key not in self._flows)]:
            flow = self._flows.get(key) or _Flow()
            waits_since = now - waiting[key] if key in waiting else math.inf
            flows[key] = self._flow_usage(flow, disk, max(waits_since, flow.waited_until))
        return DiskUsage(flows, disk, self._others.counted(), self._flows_let_go)

    def _flow_usage(self, flow: _Flow, disk: Mapping[int, Usage], waits_since: float) -> FlowUsage:
        latency, disk_latency = flow.last_minute(self._second)
        return FlowUsage(
            flow.counted(),
            {window: self._usage(flow.notes, window, disk[window].cost, waits_since) for window in WINDOWS_S},
            latency.percentile(50),
            latency.percentile(99),
            disk_latency.percentile(50),
            disk_latency.percentile(99),
        )

    def _usage(
        self, notes: _Notes[_Totals], window: int, disk_cost: float = 0.0, waits_since: float = math.inf
    ) -> Usage:
        """Over the ``window`` seconds before the current one; ``disk_cost`` per second, all flows'."""
        seconds = min(window, self._second)
        if not seconds:
            return Usage()
        start = notes.before(self._second - seconds, _ZERO)
        end = notes.before(self._second, _ZERO)
        cost, completions, size, waited = ((after - before) / seconds for after, before in zip(end, start, strict=True))
        waited += max(0.0, min(1.0, (self._begin - waits_since) / seconds))
        cost = max(0.0, cost)
        share = min(1.0, cost / disk_cost) if disk_cost > 0 else 0.0
        return Usage(cost, completions, size, share, waited >= BACKLOGGED_SHARE)


#: Of a flow that wants nothing and never did.
NO_USAGE: Final = FlowUsage(_Flow().counted(), {window: Usage() for window in WINDOWS_S}, None, None, None, None)
