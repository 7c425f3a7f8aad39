"""Decides which connections without a login may stay, and which one is ended for a new connection. Pure.

A connection costs a stranger nothing, so the number of connections without a login is bounded. A bound alone would
let the first peer that opens them all lock out everybody else. Therefore no new connection is refused. If a bound is
passed, another connection is ended for the new one. Connections are counted in groups by the address of the peer:

    group        address                                    bound, for each stage
    local        the node's Unix socket (mode 0600)         CONNECTIONS_LOCAL_MAX
    of a node    an address of the config, exactly          CONNECTIONS_NODE_MAX, fewer with many addresses
    stranger     any other IPv4 address, or IPv6 /64        CONNECTIONS_STRANGER_MAX, and
                                                            CONNECTIONS_STRANGERS_MAX of all strangers together

An IPv6 address of the config is a group of its own, without the rest of its /64. The neighbours in a node's network
are strangers. Groups do not compete with each other, except that all strangers share one bound. An attack from another
address therefore takes nothing from a node's address. An attacker may also share the address of a node, on the same
machine or behind the same NAT. Against such an attacker the stages help.

The bound holds for each stage of a login (`AdmissionStage`) by itself. Past the bound, the connection that has been in
the stage for the longest time is ended. One bound for all stages would not work. An attacker could hold connections of
a late stage open and lock out new connections, or push out logins that are under way by connections that send nothing.

A peer gets in if it passes each stage faster than the attacker can fill that stage. A later stage costs more work:

    stage        an attacker's work for one            at the most, in a second
    SILENT       connect(2)                            some 10,000
    NEGOTIATED   and a NEGOTIATE                       some 1,000
    LOGGING_IN   and a SESSION_SETUP with a token      some 100

A connection with a login is not counted here and is never ended for another one. Connections with a login are bounded
by node_usage.py. All operations take constant time, except `know`, which sorts all connections without a login into
groups again.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from itertools import islice
from typing import Final

from meshfs import limits

#: Stands in place of an address for a connection that came in at the Unix socket.
LOCAL: Final = ""


class AdmissionStage(enum.IntEnum):
    """Says how far a connection has come in its login."""

    SILENT = 0
    NEGOTIATED = 1
    LOGGING_IN = 2
    LOGGED_IN = 3


_WAITING: Final = (AdmissionStage.SILENT, AdmissionStage.NEGOTIATED, AdmissionStage.LOGGING_IN)


class Arrival:
    """Represents one connection until it is closed.

    key        names the group that the connection is counted in
    is_known   tells whether the connection comes from an address of the config, or from this machine's own socket
    end        closes the connection. The listener sets this callable
    gone       tells that the connection is no longer counted
    """

    __slots__ = ("address", "end", "gone", "is_known", "key", "stage")

    def __init__(self, address: str, key: bytes, is_known: bool) -> None:
        self.address = address
        self.stage = AdmissionStage.SILENT
        self.gone = False
        self.end: Callable[[], None] = _nothing
        self.key = key
        self.is_known = is_known


class _Queues:
    """Holds connections by stage. Within a stage, the connection that reached the stage first comes first."""

    __slots__ = ("by_stage", "count")

    def __init__(self) -> None:
        self.by_stage: tuple[OrderedDict[Arrival, None], ...] = tuple(OrderedDict() for _ in _WAITING)
        self.count = 0

    def add(self, arrival: Arrival, *, first: bool = False) -> None:
        queue = self.by_stage[arrival.stage]
        queue[arrival] = None
        if first:
            queue.move_to_end(arrival, last=False)
        self.count += 1

    def remove(self, arrival: Arrival) -> None:
        del self.by_stage[arrival.stage][arrival]
        self.count -= 1

    def emptiest(self) -> Arrival | None:
        for queue in self.by_stage:
            if queue:
                return next(iter(queue))
        return None

    def past(self, most: int, stage: AdmissionStage) -> Arrival | None:
        """Return the first connection of a stage if the stage has more than ``most``, or None."""
        queue = self.by_stage[stage]
        return next(iter(queue)) if len(queue) > most else None

    def surplus(self, most: int) -> Iterator[Arrival]:
        """Yield from each stage the first connections, so that without them the stage has at most ``most``."""
        for queue in self.by_stage:
            yield from islice(queue, max(0, len(queue) - most))


class Admission:
    """Counts all connections of one exporter. `arrive` and `advance` return the connection to be ended, or None."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        #: The connections of each group that wait for a login, by the key of the group.
        self._groups: dict[bytes, _Queues] = {}
        self._strangers = _Queues()
        self._logged_in: set[Arrival] = set()
        self._known: frozenset[bytes] = frozenset()
        self._node_max = limits.CONNECTIONS_NODE_MAX
        self.know(known)

    def know(self, addresses: Iterable[str]) -> list[Arrival]:
        """Replace the addresses of the config by ``addresses``. Return the connections that are now too many."""
        self._known = frozenset(ip_address(address).packed for address in addresses)
        share = limits.CONNECTIONS_NODES_MAX // max(len(self._known), 1)
        self._node_max = max(limits.CONNECTIONS_NODE_MIN, min(limits.CONNECTIONS_NODE_MAX, share))
        waiting = [arrival for group in self._groups.values() for queue in group.by_stage for arrival in queue]
        self._groups.clear()
        self._strangers = _Queues()
        for arrival in (*waiting, *self._logged_in):
            arrival.key, arrival.is_known = self._group_of(arrival.address)
        for arrival in waiting:
            self._enter(arrival)
        return self._surplus()

    def arrive(self, address: str) -> tuple[Arrival, Arrival | None]:
        """Return a new connection from the address, or from `LOCAL`, and the connection to be ended for it, or None."""
        arrival = Arrival(address, *self._group_of(address))
        self._enter(arrival)
        return arrival, self._too_many(arrival)

    def advance(self, arrival: Arrival, stage: AdmissionStage) -> Arrival | None:
        """Move the connection to ``stage``, which may be an earlier one. Return the connection to be ended for it.

        After a failed login, the connection is the first of its stage to be ended. After a logoff, it is the last.
        """
        before = arrival.stage
        if stage == before or arrival.gone:
            return None
        self._leave(arrival)
        arrival.stage = stage
        if stage is AdmissionStage.LOGGED_IN:
            self._logged_in.add(arrival)
            return None
        self._enter(arrival, first=stage < before < AdmissionStage.LOGGED_IN)
        return self._too_many(arrival)

    def leave(self, arrival: Arrival) -> None:
        """Count the connection no longer, because it is closed or is about to be closed."""
        if not arrival.gone:
            self._leave(arrival)
            arrival.gone = True

    def emptiest(self) -> Arrival | None:
        """Return the connection to be ended for its descriptor. A stranger's comes first, then any without a login."""
        found = self._strangers.emptiest()
        if found is None:
            largest = max(self._groups.values(), key=lambda group: group.count, default=None)
            found = largest.emptiest() if largest is not None else None
        return found

    @property
    def waiting(self) -> int:
        """Return the number of connections on which nobody has logged in."""
        return sum(group.count for group in self._groups.values())

    # --- inside ------------------------------------------------------------------------

    def _group_of(self, address: str) -> tuple[bytes, bool]:
        """Return the key of the group that the address is counted in, and whether the address is known."""
        key = ip_address(address).packed if address else b""
        known = not key or key in self._known
        if not known and len(key) == 16:
            # A host chooses the rest of its IPv6 address itself, so 2^64 addresses cost an attacker nothing.
            key = key[:8]
        return key, known

    def _enter(self, arrival: Arrival, *, first: bool = False) -> None:
        group = self._groups.get(arrival.key)
        if group is None:
            group = self._groups[arrival.key] = _Queues()
        group.add(arrival, first=first)
        if not arrival.is_known:
            self._strangers.add(arrival, first=first)

    def _leave(self, arrival: Arrival) -> None:
        if arrival.stage is AdmissionStage.LOGGED_IN:
            self._logged_in.discard(arrival)
            return
        group = self._groups[arrival.key]
        group.remove(arrival)
        if not arrival.is_known:
            self._strangers.remove(arrival)
        if not group.count:
            del self._groups[arrival.key]

    def _too_many(self, arrival: Arrival) -> Arrival | None:
        found = self._groups[arrival.key].past(self._max_of(arrival.key), arrival.stage)
        if found is None and not arrival.is_known:
            found = self._strangers.past(limits.CONNECTIONS_STRANGERS_MAX, arrival.stage)
        return found

    def _max_of(self, key: bytes) -> int:
        """Return how many connections of a group may be in one stage."""
        if not key:
            return limits.CONNECTIONS_LOCAL_MAX
        return self._node_max if key in self._known else limits.CONNECTIONS_STRANGER_MAX

    def _surplus(self) -> list[Arrival]:
        found = {arrival for key, group in self._groups.items() for arrival in group.surplus(self._max_of(key))}
        return [*found, *set(self._strangers.surplus(limits.CONNECTIONS_STRANGERS_MAX)) - found]


def _nothing() -> None:
    """Do nothing, in place of ``end``, until the listener has set ``end``."""
