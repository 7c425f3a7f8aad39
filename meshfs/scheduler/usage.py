"""The usage of one disk by its flows: totals, rates of the last second and minute, and latencies. Pure.

Time is an argument of both methods:

    done(request, now)       is called once per completion. It only counts, because it is on the hot path
    snapshot(now, waiting)   returns the usage of all flows at that time, for status and metrics

Windows. The meter counts seconds. At the first completion or snapshot of a new second, the meter notes the totals of
each flow, with the number of the second that has just ended. The usage in a window is the difference of two notes. A
window consists of whole seconds that are over. "1 s" is the last second, and "60 s" are the last sixty, or all since
the start. A second without completions needs no note, so gaps cost nothing. If the clock jumps ahead, there is a gap.
If the clock jumps back, the current second begins again.

Latencies are noted every ten seconds, so percentiles cover the last 50 to 60 s.

Backlogged flows. Shares are only comparable between flows that wanted more all the time. Only these flows are counted
in Jain's index (`jain`). A flow waits from a request's `added_s` to its `sent_s`. The union of these intervals is the
time in which the flow had at least one request waiting. The meter sums this time as requests complete. The sum is exact
if a flow's requests are sent in the order in which they were added. A flow may also wait without getting any
completion, so the queue reports how long its oldest request has waited. A flow is backlogged in a window if it waited
for at least BACKLOGGED_SHARE of the window. The meter does not know whether the flow's own limit made it wait. The
caller knows the limits.

Zeroings and discards are counted in the completions and the cost, and their bytes have counts of their own. A rate in
bytes per second only contains reads and writes, as most disks zero and discard without moving data.

Bounds. If there are more than FLOWS_PER_DISK_MAX flows, those that were served longest ago are dropped. Their totals
are added to `others`, so that the disk's sums stay right. A flow that was dropped and returns starts from zero.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import add, sub
from typing import Final, Generic, Self, TypeAlias, TypeVar

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey
from meshfs.telemetry.histogram import BOUNDS_S, Histogram

WINDOWS_S: Final = (1, 60)
#: A flow that waited for a smaller part of a window than this wanted less than it could have had.
BACKLOGGED_SHARE: Final = 0.9
_MINUTE_S: Final = WINDOWS_S[-1]
_LATENCY_STEP_S: Final = 10

# The totals of a flow at the end of a second: cost_s, completions, bytes, waited_s.
_Totals: TypeAlias = tuple[float, float, float, float]
_ZERO: Final[_Totals] = (0.0, 0, 0, 0.0)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UsageRates:
    """Holds the service that a flow or a disk got per second of one window.

    ``share`` is its part of the cost that the disk served.
    """

    cost: float = 0.0
    iops: float = 0.0
    bytes_per_s: float = 0.0
    share: float = 0.0
    backlogged: bool = False


@dataclass(frozen=True, slots=True)
class Counted:
    """Holds totals since the start. The first three are indexed by Op. Failed requests are among the completions.

    ``times_s`` are summed latencies of queue and disk together. The histograms count the same latencies in coarse
    buckets.
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
    """Holds the usage of one flow. ``usage`` is by the window's length in seconds.

    The latencies are those of the last minute, in seconds, or None if no request completed in it.
    """

    counted: Counted
    usage: Mapping[int, UsageRates]
    latency_p50_s: float | None
    latency_p99_s: float | None
    disk_latency_p50_s: float | None
    disk_latency_p99_s: float | None


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Holds the usage of one disk. The cost in ``usage`` is the disk's utilisation, by the cost model.

    ``others`` has the totals of the dropped flows, and ``flows_let_go`` their number.
    """

    flows: Mapping[FlowKey, FlowUsage]
    usage: Mapping[int, UsageRates]
    others: Counted
    flows_let_go: int


def jain(values: Iterable[float]) -> float | None:
    """Return Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 if all are equal, 1/n if one has everything.

    Return None if there is nothing to compare, because there are fewer than two values or all are zero.
    Source: Jain, Chiu, Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984.
    """
    found = list(values)
    largest = max(found, default=0.0)
    if len(found) < 2 or largest <= 0:
        return None
    scaled = [value / largest for value in found]
    return sum(scaled) ** 2 / (len(scaled) * sum(value * value for value in scaled))


class _Notes(Generic[T]):
    """Keeps notes of a value at the ends of seconds, at most the last ``most`` notes."""

    __slots__ = ("_kept", "_most", "_seconds")

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: list[int] = []
        self._kept: list[T] = []

    def add(self, second: int, value: T) -> None:
        """Note ``value`` at the end of ``second``. A note of the same second is replaced."""
        if self._seconds and self._seconds[-1] == second:
            self._kept[-1] = value
            return
        self._seconds.append(second)
        self._kept.append(value)
        if len(self._kept) > self._most:
            del self._seconds[0], self._kept[0]

    def before(self, second: int, first: T) -> T:
        """Return the value at the beginning of ``second``, or ``first`` if no note is that old."""
        index = bisect_left(self._seconds, second)
        return self._kept[index - 1] if index else first


class _Flow:
    """Holds the counters of one flow since it was first served. The lists are indexed by Op."""

    __slots__ = (
        "_latencies_noted",
        "_latency_notes",
        "bytes",
        "completions",
        "cost_s",
        "disk_latency",
        "errors",
        "latency",
        "notes",
        "served_s",
        "times_s",
        "waited_s",
        "waited_until",
    )

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
        # The time of the last completion.
        self.served_s = -math.inf
        # A window needs one note more than its seconds, for its beginning.
        self.notes: _Notes[_Totals] = _Notes(_MINUTE_S + 1)
        self._latency_notes: _Notes[tuple[array[int], array[int]]] = _Notes(_MINUTE_S // _LATENCY_STEP_S + 1)
        self._latencies_noted = 0

    def totals(self) -> _Totals:
        return self.cost_s, sum(self.completions), sum(self.bytes[: Op.ZERO]), self.waited_s

    def note(self, second: int) -> None:
        """Note the totals at the end of ``second``, if they have changed since the last note."""
        totals = self.totals()
        if totals == self.notes.before(second + 1, _ZERO):
            return
        self.notes.add(second, totals)

    def note_latencies(self, second: int) -> None:
        """Note the distribution of the latencies up to the end of ``second``."""
        if self._latencies_noted != sum(self.completions):
            self._latencies_noted = sum(self.completions)
            self._latency_notes.add(second, (array("Q", self._all_latencies()), array("Q", self.disk_latency)))

    def _all_latencies(self) -> list[int]:
        return [sum(counts) for counts in zip(*self.latency, strict=True)]

    def last_minute(self, second: int) -> tuple[Histogram, Histogram]:
        """Return the latencies of the last 50 to 60 s before ``second``, which is the current second.

        The first histogram counts the time in the queue and at the disk, the second only the time at the disk.
        """
        start = second - second % _LATENCY_STEP_S - _MINUTE_S + _LATENCY_STEP_S
        latency, disk_latency = self._latency_notes.before(start, (_NO_LATENCIES, _NO_LATENCIES))
        return (
            Histogram(map(sub, self._all_latencies(), latency)),
            Histogram(map(sub, self.disk_latency, disk_latency)),
        )

    def take_over(self, other: Self) -> None:
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
    """Counts the requests that one disk serves. ``now`` is the queue's clock in seconds."""

    def __init__(self, now: float) -> None:
        self._flows: dict[FlowKey, _Flow] = {}
        self._others = _Flow()
        self._flows_let_go = 0
        self._notes: _Notes[_Totals] = _Notes(_MINUTE_S + 1)
        # The number of the current second, and the times at which it begins and ends.
        self._second = 0
        self._begin = now
        self._end = now + 1.0

    def done(self, request: DiskRequest, now: float) -> None:
        """Count a request that has its result. The queue must have set its times."""
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
        """Drop the quarter of the flows that was served longest ago. Dropping single flows would happen too often."""
        oldest_first = sorted(self._flows, key=lambda key: self._flows[key].served_s)
        for key in oldest_first[: math.ceil(len(oldest_first) / 4)]:
            self._others.take_over(self._flows.pop(key))
            self._flows_let_go += 1

    def _turn(self, now: float) -> None:
        """End the current second, which ``now`` is not in: note its totals, and go to the second of ``now``."""
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
        """Begin a second at ``now``, which is earlier than the last notes, because the clock jumped back."""
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
        """Return the usage at ``now``, also of flows that wait and were never served.

        ``waiting`` has for each flow how many seconds its oldest queued request has waited.
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

    def _flow_usage(self, flow: _Flow, disk: Mapping[int, UsageRates], waits_since: float) -> FlowUsage:
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
    ) -> UsageRates:
        """Return the usage over the ``window`` seconds before the current one.

        ``disk_cost`` is the cost of all flows, per second. ``waits_since`` is the time at which the flow began to wait.
        """
        seconds = min(window, self._second)
        if not seconds:
            return UsageRates()
        start = notes.before(self._second - seconds, _ZERO)
        end = notes.before(self._second, _ZERO)
        cost, completions, size, waited = ((after - before) / seconds for after, before in zip(end, start, strict=True))
        waited += max(0.0, min(1.0, (self._begin - waits_since) / seconds))
        cost = max(0.0, cost)
        share = min(1.0, cost / disk_cost) if disk_cost > 0 else 0.0
        return UsageRates(cost, completions, size, share, waited >= BACKLOGGED_SHARE)


#: The usage of a flow that was never served and does not wait.
NO_USAGE: Final = FlowUsage(_Flow().counted(), {window: UsageRates() for window in WINDOWS_S}, None, None, None, None)
