"""Credits at both ends: the message ids that a connection may use. Pure.

A credit is the right to use one message id. The first request of a connection has id 0. Every
response grants more ids, which continue where the last grant ended. A request for more than
64 KiB uses several consecutive ids, whose number is its credit charge.

    id      0 1 2 3 4 5 6 7 8 9 ...
            x x x . x . . .
                  ^low    ^high         x received   . granted, not yet received

`CreditWindow` is the exporter's side (MS-SMB2 3.3.1.1, 3.3.1.2, 3.3.5.2.3). It remembers ``low``,
``high`` and the few ids that arrived early, so a request in order costs two comparisons. Two bounds
hold whatever the peer does:

    unused credits of the peer + credits in flight <= limit
    high - low <= limit      so a peer that never sends its lowest id gets no more grants, and the
                             set of early ids stays small

`CreditAccount` is the initiator's side (3.2.4.1.6). It always uses the lowest id, so a counter is
enough. A caller that finds too few credits does not fail, but waits for the next grant. While nothing
is in flight, no grant can arrive. A caller that needs more credits then asks for them with an ECHO.
"""

from typing import Final

from meshfs import limits
from meshfs.errors import LocalProtocolError

_FIELD_MAX: Final = 0xFFFF
#: A peer that asks for more than this in one request wants a larger window than usual. An initiator of meshfs never
#: does, because it asks for at most CREDITS_MAX and the charge of one request.
_ASKS_FOR_MANY: Final = 2 * limits.CREDITS_MAX


def charge_for(payload_bytes: int) -> int:
    """Return the credits that a payload costs (MS-SMB2 3.1.5.2). The larger of request and response counts."""
    return (payload_bytes - 1) // limits.CREDIT_BYTES + 1 if payload_bytes > 1 else 1


def charge_covers(charge: int, payload_bytes: int) -> bool:
    """Return whether the charge of a request pays for its payload. A charge of 0 counts as 1.

    If it does not, the request is answered INVALID_PARAMETER (MS-SMB2 3.3.5.2.5).
    """
    return payload_bytes <= (charge or 1) * limits.CREDIT_BYTES


class CreditWindow:
    """Keeps the exporter's side: which message ids are valid, and how many more to grant.

    If the peer asks for many credits at once, ``limit`` is raised to ``limit_max``.
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
        """Return the credits that the peer has and has not used."""
        return self._high - self._low - len(self._early)

    @property
    def used(self) -> int:
        """Return how many message ids the peer has used since the connection began."""
        return self._low + len(self._early)

    @property
    def in_flight(self) -> int:
        """Return the credits of requests that were received and are not yet answered."""
        return self._in_flight

    def is_only(self, message_id: int, charge: int) -> bool:
        """Return whether this request, already taken, is the only one in flight, and no lower id can arrive later."""
        charge = charge or 1
        return self._low == message_id + charge and self._in_flight == charge

    def take(self, message_id: int, charge: int) -> bool:
        """Use ``charge`` ids from ``message_id`` on. A charge of 0 counts as 1.

        Returns False if one of them was used before or never granted. The connection must then end
        (MS-SMB2 3.3.5.2.3). A CANCEL must not be passed here, because it uses no id.
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
        """Return how many credits the response to a request of ``charge`` grants.

        Called once per request, for its interim or its final response, whichever is sent first (MS-SMB2 3.3.1.2).
        While there is room, the peer gets what it asked for. It always keeps at least one credit, because without
        one it could send nothing any more. Raises LocalProtocolError for a request that was never taken.
        """
        self._in_flight -= charge or 1
        if self._in_flight < 0:
            raise LocalProtocolError("credits were granted for a request that was never taken")
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
    """Keeps the initiator's side: the next message id, and how many credits to ask for."""

    __slots__ = ("_next", "available", "goal")

    def __init__(self, goal: int = limits.CREDITS_MAX) -> None:
        self.goal = goal
        #: The unused credits. Only this class changes them.
        self.available = 1
        self._next = 0

    @property
    def next_id(self) -> int:
        """Return the message id of the next request."""
        return self._next

    def take(self, charge: int) -> int | None:
        """Use ``charge`` consecutive message ids and return the first, or None if the caller must wait for a grant."""
        if charge > self.available:
            return None
        first = self._next
        self._next = first + charge
        self.available -= charge
        return first

    def grant(self, credits: int) -> None:
        """Add the ``credits`` that a response, interim or final, granted."""
        self.available += credits

    def ask(self, charge: int) -> int:
        """Return how many credits a request of ``charge`` asks for: its own charge, and those missing to the goal."""
        missing = self.goal - self.available
        return min(charge + missing, _FIELD_MAX) if missing > 0 else charge
