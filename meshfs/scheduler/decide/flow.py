"""Keep the state of one flow and of one class in the fair queue, which `fair.py` and `gates.py` share."""

import enum
from collections import OrderedDict, deque
from math import inf
from typing import Final

from meshfs import limits
from meshfs.disk.base import NEVER_S, DiskRequest
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy

_BURST_S: Final = limits.LIMIT_BURST_S


class FlowStage(enum.Enum):
    """Names the stage of a flow's oldest request. The flow's other requests wait behind it.

    IDLE    the flow has no request that could go
    HELD    the request is at a gate, because a limit does not allow it yet
    READY   the request may go when its turn comes
    """

    IDLE = enum.auto()
    HELD = enum.auto()
    READY = enum.auto()


def is_queued(request: DiskRequest) -> bool:
    """Return whether a queue holds the request: it was added, and has been neither sent nor cancelled since."""
    return request.sent_s == NEVER_S and request.added_s != NEVER_S


def cancel_behind_head(queue: deque[DiskRequest], cancelled: set[DiskRequest], request: DiskRequest) -> None:
    """Cancel a request that is not the oldest of ``queue``, without searching for it.

    The request stays in ``queue``, marked by ``cancelled``, until it would become the oldest. A client that disconnects
    may have thousands of requests waiting. A search for each would take time in the square of their number. If more
    than half of the queue is cancelled, the queue is rebuilt, so that its length stays bounded by its live requests.
    """
    cancelled.add(request)
    if len(cancelled) > len(queue) // 2:
        live = [each for each in queue if each not in cancelled]
        queue.clear()
        queue.extend(live)
        cancelled.clear()


def drop_cancelled(queue: deque[DiskRequest], cancelled: set[DiskRequest]) -> None:
    """Drop cancelled requests from the front. Must be called whenever another request became the first of the queue."""
    while queue and queue[0] in cancelled:
        cancelled.remove(queue.popleft())


class Tat:
    """Keeps one limit as a theoretical arrival time (gates.py).

    Each request advances that time by ``request_s``, and by ``byte_s`` for each of its bytes.
    """

    __slots__ = ("_byte_s", "_charged_s", "_request_s", "_tat_s")

    def __init__(self, request_s: float, byte_s: float) -> None:
        self._request_s = request_s
        self._byte_s = byte_s
        self._tat_s = 0.0
        self._charged_s = 0.0

    def eligible(self, now: float) -> float:
        """Return the time from which on the next request may go."""
        # If the clock jumped back, requests must not wait for the length of the jump.
        self._tat_s = min(self._tat_s, now + self._charged_s + _BURST_S)
        return self._tat_s - _BURST_S

    def charge(self, length: int, now: float) -> None:
        self._charged_s = self._request_s + length * self._byte_s
        self._tat_s = max(self._tat_s, now) + self._charged_s

    @property
    def settled_s(self) -> float:
        """Return the time from which on the limit behaves like a new one. Then no earlier request counts any more."""
        return self._tat_s


def tats(policy: FlowPolicy | DiskPolicy) -> list[Tat]:
    """Return one arrival time for each limit that is set for a flow or for a whole disk."""
    found = []
    if policy.limit_iops is not None:
        found.append(Tat(1.0 / policy.limit_iops, 0.0))
    if policy.limit_bytes_per_s is not None:
        found.append(Tat(0.0, 1.0 / policy.limit_bytes_per_s))
    return found


class ClassServer:
    """Holds a class of I/O: its flows that are ready, ordered by start tag, and its own tags between the classes."""

    __slots__ = ("finish", "in_flight", "last_s", "name", "per_share", "ready", "start", "v")

    def __init__(self, name: IoClass) -> None:
        self.name = name
        #: 1 / share of the disk.
        self.per_share = 1.0
        #: The class's virtual time: the start tag of its request that left last.
        self.v = 0.0
        #: The class's own tags, in the disk's virtual time. ``start`` is valid only while ``ready`` is not empty.
        self.start = 0.0
        self.finish = 0.0
        self.in_flight = 0
        #: The time at which the latest request of the class came.
        self.last_s = -inf
        #: The entries (start tag, running number, flow), sorted, one for each ready flow. Up to some hundred entries,
        #: a plain list with `bisect.insort` and ``pop(0)`` takes a third of the time of a sorted container.
        self.ready: list[tuple[float, int, Flow]] = []


class Flow:
    """Holds one flow of requests. ``entry`` is its entry in the list of its present stage."""

    __slots__ = (
        "barriers",
        "cancelled",
        "entry",
        "finish",
        "gate",
        "in_flight",
        "key",
        "last_s",
        "last_write",
        "lifted",
        "limited",
        "per_weight",
        "policy",
        "queue",
        "reserve",
        "reserves",
        "server",
        "stage",
        "tats",
        "writes",
    )

    def __init__(self, key: FlowKey, server: ClassServer, policy: FlowPolicy) -> None:
        self.key = key
        self.server = server
        self.policy = policy
        self.tats: list[Tat] = []
        self.set_policy(policy)
        #: The waiting requests, the oldest first. ``cancelled`` requests stay in the queue, but never at its head.
        self.queue: deque[DiskRequest] = deque()
        self.cancelled: set[DiskRequest] = set()
        self.stage = FlowStage.IDLE
        self.entry: tuple[float, int, Flow] = (0.0, 0, self)
        #: The gate that holds the flow, as numbered in gates.py.
        self.gate = 0
        #: The finish tag of the flow's request that left last.
        self.finish = 0.0
        #: The total work of the disk, in seconds, from which on the reservation lets this flow go first.
        self.reserve = -inf
        self.in_flight = 0
        #: The writes at the disk, with their numbers in order of sending, and the last such number.
        self.writes: dict[DiskRequest, int] = {}
        self.last_write = 0
        #: The flushes that are put aside, the oldest first, each with the number of the last write that it waits for.
        self.barriers: OrderedDict[DiskRequest, int] = OrderedDict()
        #: The flushes that are back in ``queue``, because all earlier writes are done.
        self.lifted: set[DiskRequest] = set()
        #: The time at which the flow's latest request came.
        self.last_s = 0.0

    def set_policy(self, policy: FlowPolicy) -> None:
        self.policy = policy
        self.per_weight = 1.0 / policy.weight
        self.tats = tats(policy)
        self.limited = bool(self.tats)
        self.reserves = policy.reservation > 0.0

    def move_reservation(self, work_s: float, cost_s: float) -> None:
        """Set ``reserve`` for the next request. The flow goes first again when the disk's work reaches ``reserve``.

        If the flow is behind its reservation, it stays behind. Work beyond the reservation does not count against it.
        """
        self.reserve = min(self.reserve, work_s - cost_s) + cost_s / self.policy.reservation

    @property
    def idle(self) -> bool:
        return self.stage is FlowStage.IDLE and not self.in_flight and not self.barriers

    @property
    def queued(self) -> int:
        return len(self.queue) - len(self.cancelled) + len(self.barriers)

    @property
    def oldest_s(self) -> float:
        """Return when the oldest waiting request was added. At least one request must wait."""
        oldest = [next(iter(waiting)) for waiting in (self.barriers, self.queue) if waiting]
        return min(request.added_s for request in oldest)
