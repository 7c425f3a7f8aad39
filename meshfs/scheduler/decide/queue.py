"""The interface of a queue, which chooses the request that goes to the disk next, and the simplest queue. Pure.

A queue never sleeps and never does I/O. Time is an argument. ``pop`` returns a request to send now, or the time at
which to call ``pop`` again. It returns None if only ``add`` or ``done`` can change the situation.

A queue sets ``added_s`` and ``cost_s`` of a request at ``add``, and ``sent_s`` at ``pop``.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

from meshfs.disk.base import NEVER_S, DiskRequest
from meshfs.model import FlowKey
from meshfs.scheduler.decide.flow import Tat, cancel_behind_head, drop_cancelled, is_queued, tats
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.learn.cost import CostModel


@dataclass(frozen=True, slots=True)
class FlowState:
    """Holds the present state of a flow in its queue.

    queued        the number of requests that wait
    in_flight     the number of requests at the disk
    lag_s         the disk's time by which the flow is behind (+) or ahead (-) of the others of its class
    held          the limit that holds the flow's requests back: "", "flow limit" or "disk limit"
    entitlement   its share of the disk, 0..1, among the flows that want service now
    waits_s       how long its oldest waiting request has waited, in seconds
    """

    flow: FlowKey
    queued: int
    in_flight: int
    lag_s: float = 0.0
    held: str = ""
    entitlement: float = 0.0
    waits_s: float = 0.0


class Queue(Protocol):
    """Defines the interface of a scheduling discipline, as the runner needs it."""

    discipline: str
    costs: CostModel

    @property
    def depth(self) -> int:
        """Return how many requests the disk may have at once now."""

    def add(self, request: DiskRequest, now: float) -> None: ...

    def pop(self, now: float) -> DiskRequest | float | None: ...

    def done(self, request: DiskRequest, now: float) -> None:
        """Note that a request, which was popped before, has its result."""

    def cancel(self, request: DiskRequest) -> bool:
        """Take out a request that was not popped yet. Return False if the request is not in the queue."""

    def paused(self) -> None:
        """Stop measuring the disk, because ``pop`` is not called from now on. ``add``, ``done`` and ``cancel`` are."""

    def resumed(self, now: float) -> None:
        """Measure the disk again, because ``pop`` is called again. The pause must not count as the disk's time."""

    def flows(self, now: float) -> list[FlowState]:
        """Return every known flow, also the flows that became idle a short while ago."""

    def __len__(self) -> int:
        """Return how many requests wait."""


class FifoQueue:
    """Serves requests in order of arrival, with at most ``depth`` requests at the disk at once.

    Its decisions ignore flows. Requests are counted by flow only for `flows`. From ``policy`` the queue uses the limits
    of the whole disk. If a limit holds the oldest request back, all others wait behind it.
    """

    discipline = "fifo"

    def __init__(self, depth: int, costs: CostModel | None = None, policy: DiskPolicy | None = None) -> None:
        self.depth = depth
        self._tats: list[Tat] = tats(policy) if policy else []
        self.costs = costs or CostModel()
        #: The waiting requests. Cancelled requests stay in the queue, but never at its head.
        self._waiting: deque[DiskRequest] = deque()
        self._cancelled: set[DiskRequest] = set()
        self._free = depth
        self._in_flight: Counter[FlowKey] = Counter()

    def add(self, request: DiskRequest, now: float) -> None:
        request.added_s = now
        request.cost_s = self.costs.cost(request.op, request.length)
        self._waiting.append(request)

    def pop(self, now: float) -> DiskRequest | float | None:
        if not self._free or not self._waiting:
            return None
        if self._tats:
            at = max(tat.eligible(now) for tat in self._tats)
            if at > now:
                return at
            for tat in self._tats:
                tat.charge(self._waiting[0].length, now)
        self._free -= 1
        request = self._waiting.popleft()
        if self._cancelled:
            drop_cancelled(self._waiting, self._cancelled)
        request.sent_s = now
        self._in_flight[request.flow] += 1
        return request

    def done(self, request: DiskRequest, now: float) -> None:
        self._free += 1
        self._in_flight[request.flow] -= 1

    def cancel(self, request: DiskRequest) -> bool:
        if not is_queued(request):
            return False
        request.added_s = NEVER_S
        if self._waiting[0] is not request:
            cancel_behind_head(self._waiting, self._cancelled, request)
            return True
        self._waiting.popleft()
        drop_cancelled(self._waiting, self._cancelled)
        return True

    def paused(self) -> None:
        """Do nothing. This queue measures nothing."""

    def resumed(self, now: float) -> None:
        """Do nothing. This queue measures nothing."""

    def flows(self, now: float) -> list[FlowState]:
        waiting = [request for request in self._waiting if request not in self._cancelled]
        queued = Counter(request.flow for request in waiting)
        oldest_s = {request.flow: request.added_s for request in reversed(waiting)}
        known = set(queued) | {flow for flow, count in self._in_flight.items() if count}
        return [
            FlowState(flow, queued[flow], self._in_flight[flow], waits_s=now - oldest_s.get(flow, now))
            for flow in known
        ]

    def __len__(self) -> int:
        return len(self._waiting) - len(self._cancelled)
