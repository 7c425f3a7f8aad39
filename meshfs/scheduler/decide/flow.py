"""The state of one flow and of one class in the fair queue; what `fair.py` and `gates.py` share."""

import enum
from collections import OrderedDict, deque
from math import inf
from typing import Final

from meshfs import limits
from meshfs.disk.base import NEVER_S, DiskRequest
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy

_BURST_S: Final = limits.LIMIT_BURST_S


class Stage(enum.Enum):
    """Where a flow's oldest request is; the others wait behind it."""

    IDLE = enum.auto()  # there is none
    HELD = enum.auto()  # at a gate: a limit says not yet
    READY = enum.auto()  # it may go when its turn comes


def is_queued(request: DiskRequest) -> bool:
    """Return whether a queue holds the request: it was added, and has been neither sent nor cancelled since."""
    return request.sent_s == NEVER_S and request.added_s != NEVER_S


def cancel_behind_head(queue: deque[DiskRequest], cancelled: set[DiskRequest], request: DiskRequest) -> None:
    """Cancel a request that is not the oldest of ``queue``, without searching for it.

    It stays there as one of ``cancelled`` until it would be the oldest, as whoever ends may have thousands waiting, and
    to search for each of them takes the square of their number. When most of a queue is cancelled it is made anew, so
    that it never keeps more than it has.
    """
    cancelled.add(request)
    if len(cancelled) > len(queue) // 2:
        live = [each for each in queue if each not in cancelled]
        queue.clear()
        queue.extend(live)
        cancelled.clear()


def drop_cancelled(queue: deque[DiskRequest], cancelled: set[DiskRequest]) -> None:
    """Drop cancelled requests from the front. Call this whenever another request became the first of the queue."""
    while queue and queue[0] in cancelled:
        cancelled.remove(queue.popleft())


class Tat:
    """A limit as a theoretical arrival time. Each request moves it on by ``request_s``, and by ``byte_s`` per byte."""

    __slots__ = ("_byte_s", "_charged_s", "_request_s", "_tat_s")

    def __init__(self, request_s: float, byte_s: float) -> None:
        self._request_s = request_s
        self._byte_s = byte_s
        self._tat_s = 0.0
        self._charged_s = 0.0

    def eligible(self, now: float) -> float:
        """Return the time from which on the next request may go."""
        # A clock that jumped back must not hold anybody for the length of the jump.
        self._tat_s = min(self._tat_s, now + self._charged_s + _BURST_S)
        return self._tat_s - _BURST_S

    def charge(self, length: int, now: float) -> None:
        self._charged_s = self._request_s + length * self._byte_s
        self._tat_s = max(self._tat_s, now) + self._charged_s

    @property
    def settled_s(self) -> float:
        """From this time on the limit owes nothing any more, so that a new one would do the same."""
        return self._tat_s


def tats(policy: FlowPolicy | DiskPolicy) -> list[Tat]:
    """Return one arrival time for each limit that is set for a flow or for a whole disk."""
    found = []
    if policy.limit_iops is not None:
        found.append(Tat(1.0 / policy.limit_iops, 0.0))
    if policy.limit_bytes_per_s is not None:
        found.append(Tat(0.0, 1.0 / policy.limit_bytes_per_s))
    return found


class Server:
    """A class of I/O: its flows that are ready, ordered by start tag, and its own tags between the classes."""

    __slots__ = ("finish", "in_flight", "last_s", "name", "per_share", "ready", "start", "v")

    def __init__(self, name: IoClass) -> None:
        self.name = name
        #: 1 / share of the disk.
        self.per_share = 1.0
        #: Start tag of the request that left last: the class's virtual time.
        self.v = 0.0
        #: Tags between the classes, in the disk's virtual time; ``start`` is valid while ``ready`` is not empty.
        self.start = 0.0
        self.finish = 0.0
        self.in_flight = 0
        #: When the latest request of the class came.
        self.last_s = -inf
        #: (start tag, running number, flow), sorted. A plain list: it has one entry for each flow that waits, and
        #: up to some hundred entries `bisect.insort` and ``pop(0)`` cost a third of what a sorted container does.
        self.ready: list[tuple[float, int, Flow]] = []


class Flow:
    """One flow of requests; ``entry`` is its place in the list of the stage that it is in."""

    __slots__ = (
        "barriers", "cancelled", "entry", "finish", "gate", "in_flight", "key", "last_s", "last_write", "lifted",
        "limited", "per_weight", "policy", "queue", "reserve", "reserves", "server", "stage", "tats", "writes",
    )  # fmt: skip

    def __init__(self, key: FlowKey, server: Server, policy: FlowPolicy) -> None:
        self.key = key
        self.server = server
        self.policy = policy
        self.tats: list[Tat] = []
        self.set_policy(policy)
        #: What waits, the oldest first; those that are ``cancelled`` are in it still, but never the first.
        self.queue: deque[DiskRequest] = deque()
        self.cancelled: set[DiskRequest] = set()
        self.stage = Stage.IDLE
        self.entry: tuple[float, int, Flow] = (0.0, 0, self)
        #: The gate it is held at.
        self.gate = 0
        #: Finish tag of the request that left last.
        self.finish = 0.0
        #: The disk's work at which its reservation lets it go next.
        self.reserve = -inf
        self.in_flight = 0
        #: Writes at the disk, numbered as they were sent, and the last such number.
        self.writes: dict[DiskRequest, int] = {}
        self.last_write = 0
        #: Flushes aside, the oldest first, each with the number of the last write that has to be done before it goes.
        self.barriers: OrderedDict[DiskRequest, int] = OrderedDict()
        #: Flushes back in ``queue`` that wait for nothing any more.
        self.lifted: set[DiskRequest] = set()
        #: When its latest request came.
        self.last_s = 0.0

    def set_policy(self, policy: FlowPolicy) -> None:
        self.policy = policy
        self.per_weight = 1.0 / policy.weight
        self.tats = tats(policy)
        self.limited = bool(self.tats)
        self.reserves = policy.reservation > 0.0

    def move_reservation(self, work_s: float, cost_s: float) -> None:
        """When the disk's work reaches ``reserve``, the flow is due again.

        What it is late by while it waits counts for it; what it got beyond does not count against it.
        """
        self.reserve = min(self.reserve, work_s - cost_s) + cost_s / self.policy.reservation

    @property
    def idle(self) -> bool:
        return self.stage is Stage.IDLE and not self.in_flight and not self.barriers

    @property
    def queued(self) -> int:
        return len(self.queue) - len(self.cancelled) + len(self.barriers)

    @property
    def oldest_s(self) -> float:
        """Return when the oldest waiting request was added. Requires that one waits."""
        oldest = [next(iter(waiting)) for waiting in (self.barriers, self.queue) if waiting]
        return min(request.added_s for request in oldest)
