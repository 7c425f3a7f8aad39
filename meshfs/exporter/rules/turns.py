"""Decides which flow has the next turn of the exporter's only thread: by weights, applications before the system. Pure.

The thread's time is a resource like a disk's time (`scheduler/decide/fair.py`), and is shared by the same rules: two
levels of start-time fair queueing (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996, hierarchical in section
3). Two things differ. One request is served at a time, so the order alone decides. And the cost of a turn is known only
when the turn is over, because the clock measures all that the turn did. So a wrong signature, a CREATE or a listing
pays for itself. Start-time fair queueing needs no cost before the service, only start tags, and therefore fits.

    processor -+- app      share 1 - system_floor    -+- node n1, weight
               |                                      +- node n2, weight ...
               |                                      +- logins from an address of the config, weight 1 ...
               |                                      '- strangers (not logged in, other addresses), STRANGERS_WEIGHT
               '- system   share system_floor        -+- node n1, weight ...

    a flow that begins to want turns   S = max(v, F)      v = S of its class's last turn
    after a turn that took t seconds   F = S + t / weight; a flow that wants another turn goes on with S = F
    a class                            the same with the shares, between the classes
    next                               the flow with the smallest S, of the class with the smaller S (app when equal)

A flow that needs less than its share gets S = v when it wants a turn. No flow has a smaller tag, and among equal tags a
flow that begins goes first. So the flow is next. A flow that wanted no turns for a while has saved nothing, because S
is never below v. When no flow wants a turn, v moves on to the largest F (Goyal et al., section 2). So the time that a
flow used while no other wanted it is forgotten.

A turn is as long as a quantum. The turn ends between two messages (or replies), so it may be longer by one of them. The
bounds, with q as a quantum and m as the longest step (one message or reply), are:

    fairness   two flows f, g of a class that both want turns over an interval get time W with
               |W_f / w_f - W_g / w_g| <= (q + m) (1 / w_f + 1 / w_g)            (Goyal et al., theorem 1)
    waiting    a flow of applications that needs less than its share waits for the turn that is under way, at most
               q + m, and for other such flows. If applications want all the time, it also waits for what that turn
               made due to the system: (q + m) system_floor / (1 - system_floor), and one turn of the system

If other flows had turns a moment ago, a quantum is short, because a new flow waits for the rest of a turn. If one flow
is alone, a longer quantum saves looking for new flows. The quantum of the system is the shortest, because a turn of the
system always delays an application.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic, Self, TypeVar

from meshfs import limits
from meshfs.model import NO_FLOW, FlowKey, IoClass
from meshfs.scheduler.decide.policy import DiskPolicy

#: Among equal start tags, a flow that begins to want turns goes before a flow that goes on.
_BEFORE: Final = 1 << 60
#: The key of all peers without a login that come from no address of the config. No node has an empty name.
STRANGERS: Final = NO_FLOW


def newcomers_of(address: str) -> FlowKey:
    """Return the key of the peers without a login that come from ``address``, an address of the config.

    With a flow of its own for each address, the login of a node does not wait for strangers, nor for peers at the
    addresses of other nodes. The key cannot be that of a node, because no node has a name with blanks.
    """
    return FlowKey(f"logins from {address or 'this machine'}", IoClass.APP)


_AnyFlow = TypeVar("_AnyFlow")


class TurnClass(Generic[_AnyFlow]):
    """Holds the flows of one class that want a turn, by start tag, and the tags of the class among the classes."""

    __slots__ = ("finish", "name", "per_share", "ready", "start", "top", "v")

    def __init__(self, name: IoClass) -> None:
        self.name = name
        #: 1 / share of the processor.
        self.per_share = 1.0
        #: The start tag of the turn that was served last, which is the virtual time of the class.
        self.v = 0.0
        #: The largest finish tag of its flows.
        self.top = 0.0
        #: The tags among the classes. ``start`` is valid while ``ready`` is not empty.
        self.start = 0.0
        self.finish = 0.0
        #: A heap of (start tag, running number, flow).
        self.ready: list[tuple[float, int, _AnyFlow]] = []


class TurnFlow:
    """Holds the turns of one node and class. A subclass has the work.

    unpaid   how many completions were taken from the disks that the flow was not charged for yet
    wants    tells whether the flow waits for a turn, or has one
    """

    __slots__ = ("finish", "io_class", "key", "per_weight", "start", "turns", "unpaid", "used_s", "wants")

    def __init__(self, key: FlowKey, io_class: TurnClass[Self], weight: float) -> None:
        self.key = key
        self.io_class: TurnClass[Self] = io_class
        self.per_weight = 1.0 / weight
        self.start = 0.0
        self.finish = 0.0
        self.wants = False
        self.unpaid = 0
        #: The processor's time that the flow has had so far, and the number of its turns.
        self.used_s = 0.0
        self.turns = 0


FlowT = TypeVar("FlowT", bound=TurnFlow)


class Turns(Generic[FlowT]):
    """Decides whose turn it is. ``policy`` may be changed by `configure` at any time.

    ``make`` is the class of the flows. There are few flows: two of each node, one of the logins from each address of
    the config, and one of the strangers.
    """

    def __init__(
        self, make: Callable[[FlowKey, TurnClass[FlowT], float], FlowT], policy: DiskPolicy | None = None
    ) -> None:
        self._make = make
        self._policy = policy or DiskPolicy()
        self._app: TurnClass[FlowT] = TurnClass(IoClass.APP)
        self._system: TurnClass[FlowT] = TurnClass(IoClass.SYSTEM)
        self._flows: dict[FlowKey, FlowT] = {}
        #: The virtual time between the classes.
        self._v = 0.0
        self._numbers = count()
        #: The flow of the last turn, and the time that it has used since another flow had a turn.
        self._last: FlowT | None = None
        self._alone_s = 0.0
        self.configure(self._policy)
        self.strangers = self.flow(STRANGERS)

    def configure(self, policy: DiskPolicy) -> None:
        """Use other weights and shares from now on."""
        self._policy = policy
        for each in (self._app, self._system):
            each.per_share = 1.0 / policy.share(each.name)
        for key, flow in self._flows.items():
            flow.per_weight = 1.0 / self._weight(key)

    def _weight(self, key: FlowKey) -> float:
        return limits.STRANGERS_WEIGHT if key == STRANGERS else self._policy.of(key).weight

    def flow(self, key: FlowKey) -> FlowT:
        found = self._flows.get(key)
        if found is None:
            io_class = self._system if key.io_class is IoClass.SYSTEM else self._app
            found = self._flows[key] = self._make(key, io_class, self._weight(key))
        return found

    def flows(self) -> Iterator[FlowT]:
        """Return all flows that were ever asked for."""
        return iter(self._flows.values())

    @property
    def contended(self) -> bool:
        """Return whether a flow waits for its turn."""
        return bool(self._app.ready or self._system.ready)

    @property
    def is_alone(self) -> bool:
        """Return whether all turns have been of one flow for a while."""
        return self._alone_s >= limits.TURN_ALONE_AFTER_S

    @property
    def alone(self) -> FlowT | None:
        """Return the flow that has had all turns for a while, or None if several had turns."""
        return self._last if self._alone_s >= limits.TURN_ALONE_AFTER_S else None

    def wanting(self) -> Iterator[FlowT]:
        """Yield the flows that wait for their turn, in no order."""
        for each in (self._app, self._system):
            for _, _, flow in each.ready:
                yield flow

    def add(self, flow: FlowT) -> None:
        """Note that the flow wants a turn. It must not want one already (``wants``)."""
        flow.wants = True
        io_class = flow.io_class
        flow.start = flow.finish if flow.finish > io_class.v else io_class.v
        if not io_class.ready:
            io_class.start = io_class.finish if io_class.finish > self._v else self._v
        heappush(io_class.ready, (flow.start, next(self._numbers) - _BEFORE, flow))

    def next(self) -> FlowT | None:
        """Return the flow whose turn it is, or None. The caller serves the turn, and then calls `charge`."""
        app, system = self._app, self._system
        io_class = system if system.ready and (not app.ready or system.start < app.start) else app
        ready = io_class.ready
        if not ready:
            return None
        while True:
            start, number, flow = ready[0]
            if start >= flow.start:
                break
            # The flow was charged by `charge_beside` while it waited.
            heapreplace(ready, (flow.start, number, flow))
        heappop(ready)
        io_class.v = start
        self._v = io_class.start
        return flow

    def take(self, flow: FlowT) -> None:
        """Do `add` and `next` in one call, for a flow that wants a turn when no other flow does."""
        flow.wants = True
        io_class = flow.io_class
        io_class.v = flow.start = flow.finish if flow.finish > io_class.v else io_class.v
        self._v = io_class.start = io_class.finish if io_class.finish > self._v else self._v

    def charge(self, flow: FlowT, used_s: float, *, wants: bool) -> None:
        """Charge the flow for its turn, which is over. ``wants`` says that the flow wants another turn."""
        io_class = flow.io_class
        flow.used_s += used_s
        flow.turns += 1
        flow.finish = flow.start + used_s * flow.per_weight
        if flow.finish > io_class.top:
            io_class.top = flow.finish
        io_class.start = io_class.finish = io_class.start + used_s * io_class.per_share
        if flow is self._last:
            self._alone_s += used_s
        else:
            self._last, self._alone_s = flow, 0.0
        if wants:
            flow.start = flow.finish
            heappush(io_class.ready, (flow.start, next(self._numbers), flow))
            return
        flow.wants = False
        if not io_class.ready:
            io_class.v = io_class.top
            if not self.contended:
                self._v = max(self._app.finish, self._system.finish)

    def charge_beside(self, flow: FlowT, used_s: float) -> None:
        """Charge a flow for work that was done for it outside of its turns."""
        io_class = flow.io_class
        flow.used_s += used_s
        cost = used_s * flow.per_weight
        if flow.wants:
            flow.start += cost
        else:
            flow.finish = max(flow.finish, io_class.v) + cost
            io_class.top = max(io_class.top, flow.finish)
        if io_class.ready:
            io_class.start += used_s * io_class.per_share
        else:
            io_class.finish = max(io_class.finish, self._v) + used_s * io_class.per_share

    def quantum_s(self, flow: FlowT) -> float:
        """Return how long the turn of ``flow`` that begins now may take."""
        if self._alone_s >= limits.TURN_ALONE_AFTER_S and flow is self._last:
            return limits.TURN_ALONE_S
        return limits.TURN_SYSTEM_S if flow.io_class is self._system else limits.TURN_S
