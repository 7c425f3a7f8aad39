"""Credits: which message ids a connection may use, on both ends. Pure.

A credit is the right to use one message id. The first request of a connection has id 0; every
response grants more ids, which continue where the last grant ended. A request for more than
64 KiB uses several consecutive ids (its credit charge).

    id      0 1 2 3 4 5 6 7 8 9 ...
            x x x . x . . .
                  ^low    ^high         x received   . granted, not yet received

`CreditWindow` is the exporter's side (MS-SMB2 3.3.1.1, 3.3.1.2, 3.3.5.2.3). It remembers ``low``,
``high`` and the few ids received early, so that a request in order costs two comparisons. Two
bounds hold whatever the peer does: what it holds and what it has in flight are together at most
``limit`` credits, and ``high - low`` is at most ``limit``, so a peer that never sends its lowest
id gets no more grants instead of a longer list of early ones.

`CreditAccount` is the initiator's side (3.2.4.1.6). It uses the lowest id always, so a counter is
enough; a caller that finds no credit waits for the next grant, it does not fail. With nothing in
flight no grant will come: whoever needs more credits than there are then asks for them by an ECHO.
"""

from typing import Final

from meshfs import limits
from meshfs.errors import LocalProtocolError

_FIELD_MAX: Final = 0xFFFF
#: A request that asks for more than this wants a larger window than the usual one. An initiator's, whose goal
#: is CREDITS_MAX, never does: one request's charge on top is the most.
_ASKS_FOR_MANY: Final = 2 * limits.CREDITS_MAX


def charge_for(payload_bytes: int) -> int:
    """The credits a payload costs (MS-SMB2 3.1.5.2); the larger of request and response counts."""
    return (payload_bytes - 1) // limits.CREDIT_BYTES + 1 if payload_bytes > 1 else 1


def charge_covers(charge: int, payload_bytes: int) -> bool:
    """Whether a request's charge pays for its payload, else INVALID_PARAMETER (3.3.5.2.5); 0 pays as 1."""
    return payload_bytes <= (charge or 1) * limits.CREDIT_BYTES


class CreditWindow:
    """The exporter's: which message ids may come, and how many more to grant.

    ``limit`` becomes ``limit_max``, where that is more, when the peer asks for many at once.
    """

    __slots__ = ("_early", "_high", "_in_flight", "_low", "limit", "limit_max")

    def __init__(self, limit: int = limits.CREDITS_UNAUTHENTICATED_MAX) -> None:
        self.limit = limit
        self.limit_max = 0
        self._low = 0
        self._high = 1
        self._early: set[int] = set()
        self._in_flight = 0

    @property
    def held(self) -> int:
        """Credits the peer has and has not used."""
        return self._high - self._low - len(self._early)

    @property
    def used(self) -> int:
        """Message ids the peer has used since the connection began."""
        return self._low + len(self._early)

    @property
    def in_flight(self) -> int:
        """Credits of requests received and not yet answered."""
        return self._in_flight

    def is_only(self, message_id: int, charge: int) -> bool:
        """Whether this request, which was taken, is all that is in flight, and no lower id can come after it."""
        charge = charge or 1
        return self._low == message_id + charge and self._in_flight == charge

    def take(self, message_id: int, charge: int) -> bool:
        """Use ``charge`` ids from ``message_id`` on (0 counts as 1).

        False when one of them was used before or never granted: the connection must end
        (3.3.5.2.3). Not to be asked for CANCEL, which uses no id.
        """
        charge = charge or 1
        end = message_id + charge
        if end > self._high:
            return False
        if message_id == self._low and not self._early:
            self._low = end
        elif not self._take_early(message_id, end):
            return False
        self._in_flight += charge
        return True

    def _take_early(self, message_id: int, end: int) -> bool:
        ids, early = range(message_id, end), self._early
        if message_id < self._low or not early.isdisjoint(ids):
            return False
        early.update(ids)
        while self._low in early:
            early.remove(self._low)
            self._low += 1
        return True

    def grant(self, asked: int, charge: int) -> int:
        """How many credits the response to a request of ``charge`` carries; to be asked once per
        taken request, for its final or its interim response, whichever goes first (3.3.1.2).

        The peer gets what it asked for while there is room, and never less than what keeps one
        credit in its hands.
        """
        self._in_flight -= charge or 1
        if self._in_flight < 0:
            raise LocalProtocolError("credits granted for a request that was never taken")
        if asked > _ASKS_FOR_MANY and self.limit < self.limit_max:
            self.limit = self.limit_max
        span = self._high - self._low
        held = span - len(self._early)
        room = min(self.limit - held - self._in_flight, self.limit - span)
        granted = min(asked, room)
        if granted < 1:
            granted = 0 if held else 1
        self._high += granted
        return granted


class CreditAccount:
    """The initiator's: which message id comes next, and how many more to ask for."""

    __slots__ = ("_next", "available", "goal")

    def __init__(self, goal: int = limits.CREDITS_MAX) -> None:
        self.goal = goal
        #: Credits to use; only read by others.
        self.available = 1
        self._next = 0

    @property
    def next_id(self) -> int:
        """The message id of the next request."""
        return self._next

    def take(self, charge: int) -> int | None:
        """The first of ``charge`` consecutive message ids, or None: wait for a grant."""
        if charge > self.available:
            return None
        first = self._next
        self._next = first + charge
        self.available -= charge
        return first

    def grant(self, credits: int) -> None:
        """A response, interim or final, carried ``credits``."""
        self.available += credits

    def ask(self, charge: int) -> int:
        """What a request of ``charge`` asks for: its own back, and what is missing to the goal."""
        missing = self.goal - self.available
        return min(charge + missing, _FIELD_MAX) if missing > 0 else charge
