"""The scheduler's decision: which request goes to the disk next. Pure; time is an argument.

A queue never sleeps and never does I/O. ``pop`` answers with a request to send now, with
the time at which to ask again, or with None when only ``add`` or ``done`` can change that.

It stamps what passes through it: ``added_s`` and ``cost_s`` at ``add``, ``sent_s`` at ``pop``.
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
    """Describes a flow as its queue sees it now.

    lag_s         disk time it is behind (+) or ahead (-) of the others of its class
    held          why it may not go although it waits: "", "flow limit" or "disk limit"
    entitlement   its share of the disk, 0..1, among the flows that want something now
    waits_s       for how long its oldest request that still waits does
    """

    flow: FlowKey
    queued: int
    in_flight: int
    lag_s: float = 0.0
    held: str = ""
    entitlement: float = 0.0
    waits_s: float = 0.0


class Queue(Protocol):
    """The interface of a scheduling discipline, as the runner needs it."""

    discipline: str
    costs: CostModel

    @property
    def depth(self) -> int:
        """How many requests the disk may have at once now."""

    def add(self, request: DiskRequest, now: float) -> None: ...

    def pop(self, now: float) -> DiskRequest | float | None: ...

    def done(self, request: DiskRequest, now: float) -> None:
        """Take note that a request, popped before, has its result."""

    def cancel(self, request: DiskRequest) -> bool:
        """Take out a request that was not popped yet. Return False if it is too late."""

    def flows(self, now: float) -> list[FlowState]:
        """Return every known flow, with those that became idle a short while ago."""

    def __len__(self) -> int:
        """Return how many requests wait."""


class FifoQueue:
    """First in, first out, at most ``depth`` at the disk at once.

    It knows no flows: ``flows`` counts, for who wants to see what comes of it. Of ``policy`` it keeps
    the limits of the whole disk, in order: whoever is first waits until the limit lets it go, and all behind it.
    """

    discipline = "fifo"

    def __init__(self, depth: int, costs: CostModel | None = None, policy: DiskPolicy | None = None) -> None:
        self.depth = depth
        self._tats: list[Tat] = tats(policy) if policy else []
        self.costs = costs or CostModel()
        #: Those that are cancelled are in it still, but never the first.
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
