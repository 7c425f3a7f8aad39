"""Record the events of a simulated queue, and measure how far they are from the ideal.

A ``Trace`` keeps every event of a simulation, and the functions below measure it. ``Order`` and ``WorkConserving``
check while the simulation runs, so that a failure shows at its event.

Work is the cost in seconds of the disk. A flow is backlogged while one of its requests waits that may be sent. A
waiting flush does not count, because it may have to wait for writes.
"""

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.model import FlowKey, IoClass
from meshlab.models.queue_simulation import SilentRecorder
from meshlab.models.queue_workloads import SimulatedRequest

Key = Callable[[SimulatedRequest], Hashable]


class Event(enum.Enum):
    """Names the events of a request in a queue."""

    ADDED = "added"
    SENT = "sent"
    DONE = "done"
    CANCELLED = "cancelled"


class TraceEntry(NamedTuple):
    """Records one event of a request, with the time of the event."""

    event: Event
    time: float
    request: SimulatedRequest


class Trace(SilentRecorder):
    """Keeps every event, in order."""

    def __init__(self) -> None:
        self.entries: list[TraceEntry] = []

    def added(self, request: SimulatedRequest, now: float) -> None:
        self.entries.append(TraceEntry(Event.ADDED, now, request))

    def sent(self, request: SimulatedRequest, now: float) -> None:
        self.entries.append(TraceEntry(Event.SENT, now, request))

    def done(self, request: SimulatedRequest, now: float) -> None:
        self.entries.append(TraceEntry(Event.DONE, now, request))

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        self.entries.append(TraceEntry(Event.CANCELLED, now, request))

    def of(self, event: Event) -> Iterable[TraceEntry]:
        return (entry for entry in self.entries if entry.event is event)

    def decisions(self) -> list[tuple[str, float, int]]:
        """Return the trace as plain values, to compare two runs."""
        return [(event.value, time, request.number) for event, time, request in self.entries]

    def tail(self, count: int = 40) -> str:
        """Return the last events as text for people."""
        return "\n".join(
            f"{time:.6f} {event.value:9} #{request.number} {request.flow} {request.op.name} "
            f"{request.length} B, {request.work:.6f} s"
            for event, time, request in self.entries[-count:]
        )


@dataclass
class Totals(SilentRecorder):
    """Keeps only sums per flow, for simulations that are too long for a trace.

    These are the work done, the number of requests done, and the longest wait.
    """

    work: dict[FlowKey, float] = field(default_factory=lambda: defaultdict(float))
    count: dict[FlowKey, int] = field(default_factory=lambda: defaultdict(int))
    wait_max_s: dict[FlowKey, float] = field(default_factory=lambda: defaultdict(float))
    _added_at: dict[int, float] = field(default_factory=dict)

    def added(self, request: SimulatedRequest, now: float) -> None:
        self._added_at[request.number] = now

    def sent(self, request: SimulatedRequest, now: float) -> None:
        waited_s = now - self._added_at.pop(request.number)
        if waited_s > self.wait_max_s[request.flow]:
            self.wait_max_s[request.flow] = waited_s

    def done(self, request: SimulatedRequest, now: float) -> None:
        self.work[request.flow] += request.work
        self.count[request.flow] += 1

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        del self._added_at[request.number]


class Order(SilentRecorder):
    """Checks that each flow is first in, first out, except for flushes.

    A flush must wait until the writes before it are done. No request waits for a flush.
    """

    def __init__(self) -> None:
        # The numbers of requests, in order of arrival.
        self._waiting: dict[FlowKey, dict[int, None]] = defaultdict(dict)
        self._unfinished_writes: dict[FlowKey, dict[int, None]] = defaultdict(dict)
        self.flushes = 0

    def added(self, request: SimulatedRequest, now: float) -> None:
        if request.op != Op.FLUSH:
            self._waiting[request.flow][request.number] = None
        if request.op not in (Op.READ, Op.FLUSH):
            self._unfinished_writes[request.flow][request.number] = None

    def sent(self, request: SimulatedRequest, now: float) -> None:
        flow, number = request.flow, request.number
        if request.op == Op.FLUSH:
            first = next(iter(self._unfinished_writes[flow]), math.inf)
            assert first > number, f"at {now}: flush {number} of {flow} was sent before its write {first} was done"
            self.flushes += 1
            return
        first = next(iter(self._waiting[flow]))
        assert number == first, f"at {now}: {number} of {flow} was sent before {first}"
        del self._waiting[flow][number]

    def done(self, request: SimulatedRequest, now: float) -> None:
        self._unfinished_writes[request.flow].pop(request.number, None)

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        self._waiting[request.flow].pop(request.number, None)
        self._unfinished_writes[request.flow].pop(request.number, None)


class WorkConserving(SilentRecorder):
    """Checks that a request that may be sent never waits while fewer than ``depth`` are at the device.

    Requests of a flow do not count while ``held`` returns true for it, because a limit may hold them. Requests of the
    system class may wait while that class has its part of the depth at the device and applications are active.
    """

    def __init__(self, depth: int, held: Callable[[FlowKey], bool] = lambda flow: False) -> None:
        self._depth = depth
        self._held = held
        self._sendable: dict[FlowKey, int] = defaultdict(int)
        self._flushes: dict[FlowKey, dict[int, None]] = defaultdict(dict)
        self._writes: dict[FlowKey, dict[int, None]] = defaultdict(dict)
        self._system_most = max(1, int(depth * limits.SYSTEM_DEPTH_SHARE))
        self._system_in_flight = 0
        self._app_s = -math.inf

    def added(self, request: SimulatedRequest, now: float) -> None:
        if request.flow.io_class is IoClass.APP:
            self._app_s = now
        if request.op == Op.FLUSH:
            self._flushes[request.flow][request.number] = None
            return
        self._sendable[request.flow] += 1
        if request.op not in (Op.READ, Op.FLUSH):
            self._writes[request.flow][request.number] = None

    def sent(self, request: SimulatedRequest, now: float) -> None:
        self._system_in_flight += request.flow.io_class is IoClass.SYSTEM
        self._leaves(request)

    def _leaves(self, request: SimulatedRequest) -> None:
        if request.op == Op.FLUSH:
            del self._flushes[request.flow][request.number]
        else:
            self._sendable[request.flow] -= 1

    def done(self, request: SimulatedRequest, now: float) -> None:
        self._system_in_flight -= request.flow.io_class is IoClass.SYSTEM
        self._writes[request.flow].pop(request.number, None)

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        self._leaves(request)
        self._writes[request.flow].pop(request.number, None)

    def asked(self, now: float, in_flight: int) -> None:
        if in_flight >= self._depth:
            return
        active = now - self._app_s < limits.APP_ACTIVE_S
        gives_way = active and self._system_in_flight >= self._system_most
        for flow, count in self._sendable.items():
            assert not count or self._held(flow) or (gives_way and flow.io_class is IoClass.SYSTEM), (
                f"at {now}: {count} requests of {flow} wait, but only {in_flight} are at the device"
            )
        for flow, flushes in self._flushes.items():
            first = next(iter(flushes), math.inf)
            held = (
                self._held(flow)
                or (gives_way and flow.io_class is IoClass.SYSTEM)
                or next(iter(self._writes[flow]), math.inf) < first
            )
            assert held or not flushes, f"at {now}: flush {first} of {flow} waits, only {in_flight} are at the device"


# --- fairness ---------------------------------------------------------------------------


class Unfairness(NamedTuple):
    """Holds the largest ``|W1 / share1 - W2 / share2|`` of two flows, in any interval where both were backlogged."""

    of_sent: float
    of_done: float
    #: The work of both flows in all their common intervals. It shows how much work the result is based on.
    work: float


class _Span:
    """Adds up the difference within one interval. ``worst`` is the largest max - min of the sums in all intervals."""

    __slots__ = ("high", "low", "value", "worst")

    def __init__(self) -> None:
        self.worst = 0.0
        self.restart()

    def restart(self) -> None:
        self.value = self.low = self.high = 0.0

    def move(self, by: float) -> None:
        self.value += by
        self.low = min(self.low, self.value)
        self.high = max(self.high, self.value)
        self.worst = max(self.worst, self.high - self.low)


class _Pair:
    __slots__ = ("done", "sent", "work")

    def __init__(self) -> None:
        self.sent, self.done, self.work = _Span(), _Span(), 0.0


def unfairness(
    trace: Trace, key: Key, shares: Mapping[Hashable, float], since_s: float = 0.0
) -> dict[tuple[Hashable, Hashable], Unfairness]:
    """Return the unfairness of every pair of keys in ``shares``. Requests whose key has no share are ignored.

    An interval of a pair ends when one of the two has no request left to send; the request that ends it still counts.
    Intervals begin at ``since_s`` or later.
    """
    keys = list(shares)
    pairs = {pair: _Pair() for pair in itertools.combinations(keys, 2)}
    # For each key: the pairs that contain it, the other key of the pair, and the sign of its work there.
    of_key = {
        key: [
            (pair, b if key == a else a, 1.0 if key == a else -1.0) for (a, b), pair in pairs.items() if key in (a, b)
        ]
        for key in keys
    }
    waiting = dict.fromkeys(keys, 0)
    for event, time, request in trace.entries:
        whose = key(request)
        if whose not in waiting:
            continue
        if event is Event.ADDED:
            waiting[whose] += request.op != Op.FLUSH
            continue
        if event is not Event.CANCELLED and time >= since_s:
            by = request.work / shares[whose]
            for pair, other, sign in of_key[whose]:
                if waiting[whose] and waiting[other]:
                    pair.work += request.work if event is Event.SENT else 0.0
                    (pair.sent if event is Event.SENT else pair.done).move(sign * by)
        if event is not Event.DONE:
            waiting[whose] -= request.op != Op.FLUSH
            if not waiting[whose]:
                for pair, _, _ in of_key[whose]:
                    pair.sent.restart()
                    pair.done.restart()
    return {names: Unfairness(pair.sent.worst, pair.done.worst, pair.work) for names, pair in pairs.items()}


def shortfall(trace: Trace, key: Key, whose: Hashable, share: float) -> float:
    """Return the most by which the work of ``whose`` fell short of ``share`` of all work sent.

    It is the maximum over all intervals in which ``whose`` was backlogged.
    """
    waiting, ahead, best, worst = 0, 0.0, 0.0, 0.0
    for event, _, request in trace.entries:
        mine = key(request) == whose
        if event is Event.SENT and waiting:
            ahead += (request.work if mine else 0.0) - share * request.work
            best = max(best, ahead)
            worst = max(worst, best - ahead)
        if mine and event is not Event.DONE and request.op != Op.FLUSH:
            waiting += 1 if event is Event.ADDED else -1
            if not waiting:
                ahead = best = 0.0
    return worst


def largest_work(trace: Trace, key: Key) -> dict[Hashable, float]:
    """Return the work of the most expensive request of each key."""
    largest: dict[Hashable, float] = defaultdict(float)
    for entry in trace.of(Event.SENT):
        whose = key(entry.request)
        largest[whose] = max(largest[whose], entry.request.work)
    return largest


def work_done(trace: Trace, key: Key, since_s: float = 0.0, until_s: float = math.inf) -> dict[Hashable, float]:
    """Return, for each key, the work of the requests that completed from ``since_s`` to before ``until_s``."""
    work: dict[Hashable, float] = defaultdict(float)
    for entry in trace.of(Event.DONE):
        if since_s <= entry.time < until_s:
            work[key(entry.request)] += entry.request.work
    return work


def jain(values: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 when all values are equal, 1/n when one of n has everything."""
    values = list(values)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


# --- limits and waits -------------------------------------------------------------------


def excess(
    trace: Trace, rate_per_s: float, amount: Callable[[SimulatedRequest], float], whose: Hashable | None = None
) -> float:
    """Return the most by which the amount sent in any interval of T seconds exceeds ``rate_per_s * T``.

    With the prefix sums P, it is the largest P[j] - P[i - 1] - rate * (t[j] - t[i]) for i <= j.
    """
    before, lowest, worst = 0.0, math.inf, 0.0
    for _, time, request in trace.of(Event.SENT):
        if whose is not None and request.flow != whose:
            continue
        lowest = min(lowest, before - rate_per_s * time)
        before += amount(request)
        worst = max(worst, before - rate_per_s * time - lowest)
    return worst


def sent_between(
    trace: Trace,
    amount: Callable[[SimulatedRequest], float],
    since_s: float,
    until_s: float,
    whose: Hashable | None = None,
) -> float:
    """Return the amount sent from ``since_s`` to before ``until_s``."""
    return sum(
        amount(request)
        for _, time, request in trace.of(Event.SENT)
        if since_s <= time < until_s and (whose is None or request.flow == whose)
    )


class Wait(NamedTuple):
    """Describes the wait of a request between its arrival and its sending to the device.

    work      the work of all requests that were sent meanwhile
    own       the part of it that its own flow sent, behind which the request had queued
    """

    request: SimulatedRequest
    waited_s: float
    work: float
    own: float


def waits(trace: Trace) -> list[Wait]:
    """Return one Wait for each request that was sent, in the order of sending."""
    total, by_flow = 0.0, defaultdict[Hashable, float](float)
    came: dict[int, tuple[float, float, float]] = {}
    result = []
    for event, time, request in trace.entries:
        if event is Event.ADDED:
            came[request.number] = (time, total, by_flow[request.flow])
        elif event is Event.SENT:
            added_s, total_then, own_then = came.pop(request.number)
            result.append(Wait(request, time - added_s, total - total_then, by_flow[request.flow] - own_then))
            total += request.work
            by_flow[request.flow] += request.work
    return result
