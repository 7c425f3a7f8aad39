"""Decide which request may use a channel's credits next: a share for every disk and class. Pure.

One connection carries the requests of all disks of an exporter, in both classes, on one pool of credits (512 of
64 KiB). First come, first served would let one hung disk, or a flood of system I/O, hold all credits. So every disk
has a `Lane` in each class. A lane may start a request only while

    held + charge <= share * (free - charge - kept)      or it holds nothing, and charge <= free

    held   credits of the lane's requests in flight
    free   credits that no request uses
    kept   WINDOW_FIRST_CREDITS of the free ones, for lanes that hold nothing

The threshold is dynamic (A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", IEEE/ACM Transactions on Networking 6(2), 1998): it falls as the pool empties. With n lanes that take what
they can, each settles at held = share * f, where free = f + kept and f = (C - kept) / (1 + n * share). For C = 511 (one
credit is kept for probes) and the shares of limits.py this gives:

    lanes          1        2        4        8        25
    app (4)     357|153  198|113  105|90    54|77     17|68     held by each | left free
    system (1/2) 149|362  111|287   74|213   44|153    16|97

So one busy disk has 22 requests of 1 MiB in flight (9 in class system), and a flood of system I/O leaves 15 of them to
an application's lane. Hung disks return no credits. If disks hang one after the other, each holds its share of what the
one before left. After six hung disks with 32 requests of 1 MiB each, there is still room for one such request of the
seventh disk, and for several small ones.

If requests queue on the way to the exporter or back, a class gets less room than this (`ChannelCredits.room`; delay.py
says when). Then ``kept`` grows for this class alone, and the thresholds of its lanes fall.

Credits come back with the reply and never earlier, even if the caller gave up. If the exporter grants few credits in
all (no more than ``kept``), each lane gets one request at a time.

Requests that wait go in this order:

    1. requests of no disk (`ChannelCredits.control`): opens, closes, lists of disks
    2. lanes of class app before lanes of class system. If both classes wait, system gets one fifth of the granted
       credits: after app was granted some, it is system's turn, and then app is granted four times as much
    3. among the lanes of a class, the lane that was granted the fewest credits, as in start-time fair queueing
       (P. Goyal, H. M. Vin, H. Cheng, SIGCOMM 1996). So lanes are equal in credits and not in requests
    4. within a lane, in the order of their arrival

A lane that has reached its own threshold does not block other lanes. A request for which there are too few credits
(the first one of a lane, or one of no disk, with free < charge) does block requests of lower rank. Small requests would
otherwise take every credit that comes back. The window is ``short`` then. If requests that never end hold too many
credits for this request, it is passed over until there are more (`ChannelCredits.tick`), and waits until its deadline.

Not decided here. The limits of FUSE belong to the mount, and apply before any window. meshfs takes at most
limits.FUSE_BACKGROUND_MAX asynchronous requests (readahead, libaio, io_uring) of all disks and classes. The kernel
queues the rest, first come, first served, without regard to their class. So a deeper flood of asynchronous system I/O
delays the asynchronous application I/O of the same mount in the kernel. A second mount for system I/O
(`-o class=system`) has its own limits. Synchronous requests are not counted there, and find at least
FUSE_WORKERS_MAX - FUSE_BACKGROUND_MAX workers. More threads of system I/O than that, each in a read of its own, occupy
all workers. And requests that were started are sent in their order: a read of an application follows the writes that
are already in the socket. The share and the room of their class bound those writes.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

from meshfs import limits
from meshfs.model import IoClass
from meshfs.smb.credits import CreditAccount

_SHARES: Final = {
    IoClass.APP: limits.WINDOW_APP_SHARE,
    IoClass.SYSTEM: limits.WINDOW_SYSTEM_SHARE,
}
# A share so large that only the number of credits limits a lane.
_ALL: Final = 1e9
# Kept for probes of the exporter while slow I/O uses every other credit.
_PROBE_CREDITS: Final = 1
_KEPT: Final = _PROBE_CREDITS + limits.WINDOW_FIRST_CREDITS


class CreditWaiter(Protocol):
    """Describes a request that may have to wait for credits."""

    charge: int

    @property
    def wanted(self) -> bool:
        """Return whether the caller still waits for the result."""


W = TypeVar("W", bound=CreditWaiter)


class ClassRoom:
    """Holds what the lanes of one class on one channel have in common."""

    __slots__ = ("kept", "used")

    def __init__(self) -> None:
        #: Credits that a lane of the class does not use while it has something in flight.
        self.kept: float = _KEPT
        #: Is set by each new request, and reset by `ChannelCredits.app_used`.
        self.used = False


class Lane:
    """Counts the credits of one disk in one class on one channel, and queues the requests that wait for some."""

    __slots__ = ("held", "io_class", "of_class", "share", "tag", "waiting")

    def __init__(self, io_class: IoClass, of_class: ClassRoom | None = None) -> None:
        self.io_class = io_class
        self.of_class = of_class or ClassRoom()
        self.share = _SHARES[io_class]
        #: Credits of the lane's requests in flight.
        self.held = 0
        #: Credits granted to the lane while it waited, in the virtual time of its class.
        self.tag = 0
        self.waiting: deque[Any] = deque()


class _Class:
    """Holds the lanes of one class that have requests waiting, and the virtual time that orders their turns."""

    __slots__ = ("lanes", "now", "room")

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.now = 0
        self.room = ClassRoom()

    def add(self, lane: Lane) -> None:
        """Add a lane that has its first waiting request."""
        lane.tag = max(lane.tag, self.now)
        self.lanes.append(lane)

    def next_lane(self, free: int, reachable: float) -> Lane | None:
        """Return the lane whose turn it is among those under their threshold, or None if all are over it."""
        found = None
        for lane in self.lanes:
            charge = lane.waiting[0].charge
            if charge > reachable:
                continue
            if lane.held and lane.held + charge > lane.share * (free + _PROBE_CREDITS - charge - self.room.kept):
                # A lane over its threshold collects no claim to later turns.
                lane.tag = max(lane.tag, self.now)
            elif found is None or lane.tag < found.tag:
                found = lane
        return found

    def granted(self, lane: Lane, charge: int) -> None:
        """Count the ``charge`` that a waiting lane was granted."""
        self.now = lane.tag
        lane.tag += charge


class ChannelCredits(Generic[W]):
    """Shares the credits of one channel, and keeps the requests that wait for some.

    The charge of a request is counted in its lane's ``held`` from its start. The channel subtracts it at its end.
    """

    __slots__ = (
        "_app",
        "_balance",
        "_credits",
        "_left",
        "_reachable",
        "_seen",
        "_system",
        "control",
        "short",
        "waiting",
    )

    def __init__(self, credits: CreditAccount, left: Callable[[W], None] = lambda waiter: None) -> None:
        """``left`` is called with every request that is forgotten because its caller gave up."""
        self._credits = credits
        self._left = left
        #: The lane of requests that belong to no disk.
        self.control = Lane(IoClass.APP)
        self.control.share = _ALL
        #: The number of requests that wait.
        self.waiting = 0
        #: Is set while a request has its turn and too few credits are free. Then no new request starts before its turn.
        self.short = False
        self._app = _Class()
        self._system = _Class()
        # If it is above 0, the turn is system's.
        self._balance = 0
        # The most credits that can become free together as things are, and those that were free at the last tick.
        self._reachable = inf
        self._seen = -1

    def lane(self, io_class: IoClass) -> Lane:
        """Return a new lane, for one disk in this class."""
        return Lane(io_class, self._of(io_class).room)

    def room(self, io_class: IoClass, credits: float, in_flight: int) -> None:
        """Let the lanes of the class use at most ``credits`` together from now on, of which ``in_flight`` are used now.

        The exporter may grant fewer credits in all than CREDITS_MAX, so ``kept`` is derived from what there is. Call
        `next` afterwards, because a waiting request may now have its turn.
        """
        self._of(io_class).room.kept = max(self._credits.available + in_flight - credits, _KEPT)

    def app_used(self) -> bool:
        """Return whether a request of class app came since the last call."""
        room = self._app.room
        used, room.used = room.used, False
        return used

    def start(self, lane: Lane, charge: int) -> int | None:
        """Return the message id for a request that may start at once, or None if the request has to `wait`."""
        credits = self._credits
        held = lane.held + charge
        of_class = lane.of_class
        of_class.used = True
        if held > lane.share * (credits.available - of_class.kept - charge) or self.short or lane.waiting:
            return None
        lane.held = held
        return credits.take(charge)

    def wait(self, lane: Lane, waiter: W) -> None:
        """Queue a request. Call `next` afterwards, because this request may have its turn at once."""
        lane.of_class.used = True
        if not lane.waiting and lane is not self.control:
            self._of(lane.io_class).add(lane)
        lane.waiting.append(waiter)
        self.waiting += 1

    def next(self, *, idle: bool) -> tuple[W, int] | None:
        """Return the request that starts now and its message id, or None if no waiting request may start.

        If the channel is ``idle`` (nothing is in flight), no reply would bring credits. Then the credit for probes may
        be used as well.
        """
        free = self._credits.available - (0 if idle else _PROBE_CREDITS)
        if free > self._reachable:
            self._reachable = inf
        self.short = False
        while self.waiting:
            lane = self._next_lane(free)
            if lane is None:
                return None
            waiter: W = lane.waiting[0]
            charge = waiter.charge
            if not waiter.wanted:
                self._pop(lane)
                self._left(waiter)
            elif charge > free:
                self.short = True
                return None
            else:
                message_id = self._credits.take(charge)
                assert message_id is not None, "there are as many as it needs"
                self._count(lane, charge)
                self._pop(lane)
                return waiter, message_id
        return None

    def tick(self) -> None:
        """Forget the requests whose caller gave up, and find out whether credits still come back.

        If none came back between two calls, the free credits will not become more. The time between two calls has to be
        so long that a disk that works ends a request meanwhile. Call `next` afterwards.
        """
        available = self._credits.available
        if self.short and available == self._seen:
            self._reachable = available - _PROBE_CREDITS
        self._seen = available if self.short else -1
        for lane in self._lanes():
            gone = [waiter for waiter in lane.waiting if not waiter.wanted]
            if gone:
                lane.waiting = deque(waiter for waiter in lane.waiting if waiter.wanted)
                self.waiting -= len(gone)
                self._leave_if_empty(lane)
                for waiter in gone:
                    self._left(waiter)

    def waiters(self) -> list[W]:
        """Return all requests that wait, in no order."""
        return [waiter for lane in self._lanes() for waiter in lane.waiting]

    def clear(self) -> None:
        """Forget all requests that wait."""
        for lane in self._lanes():
            lane.waiting.clear()
            self._leave_if_empty(lane)
        self.waiting = 0
        self.short = False

    # --- inside ------------------------------------------------------------------------

    def _of(self, io_class: IoClass) -> _Class:
        return self._app if io_class is IoClass.APP else self._system

    def _lanes(self) -> list[Lane]:
        return [self.control, *self._app.lanes, *self._system.lanes]

    def _next_lane(self, free: int) -> Lane | None:
        control, reachable = self.control.waiting, self._reachable
        if control and control[0].charge <= reachable:
            return self.control
        first, second = (self._system, self._app) if self._balance > 0 else (self._app, self._system)
        return first.next_lane(free, reachable) or second.next_lane(free, reachable)

    def _count(self, lane: Lane, charge: int) -> None:
        """Count the ``charge`` that a waiting lane was granted, and settle which class has the next turn."""
        lane.held += charge
        if lane is self.control:
            return
        self._of(lane.io_class).granted(lane, charge)
        # The balance is bounded both ways, so that a class that wants nothing collects no claim to later turns.
        if lane.io_class is IoClass.SYSTEM:
            if self._app.lanes:
                self._balance = max(self._balance, 0) - limits.WINDOW_APP_TURNS * charge
        elif self._system.lanes:
            self._balance = min(self._balance + charge, charge)

    def _pop(self, lane: Lane) -> None:
        lane.waiting.popleft()
        self.waiting -= 1
        self._leave_if_empty(lane)

    def _leave_if_empty(self, lane: Lane) -> None:
        if not lane.waiting and lane is not self.control:
            self._of(lane.io_class).lanes.remove(lane)
