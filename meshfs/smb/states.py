"""The states of a connection and of a session, as tables, the same for both ends.

Theory (after h11's): initiator and exporter see the same messages go by, in the same order
where it matters, since NEGOTIATE, SESSION_SETUP and LOGOFF are never pipelined. So there is one
machine for both ends, driven by messages and not by who runs it: a request is an event of the
initiator, a response one of the exporter, and a lost transport nobody's. An event that the table
does not have for a state is an error, and whose error follows from who caused the event: ours is
LocalProtocolError, the peer's RemoteProtocolError.

                      NEGOTIATE                NEGOTIATED
    connection:  NEW -----------> NEGOTIATING -----------> READY (any request, any response)
                                       | REFUSED             | CLOSE
                                       +------> CLOSED <-----+

AGAIN leads from NEGOTIATING back to NEW: the initiator began in SMB 1 and was told to go on in SMB 2.

                      SETUP                    GRANTED          LOGOFF               LOGGED_OFF
    session:     NEW -------> AUTHENTICATING ---------> VALID --------> LOGGING_OFF ------------> ENDED
                               MORE |  ^ SETUP           |  ^                                       ^
                                    v  |           SETUP v  | GRANTED                               |
                                 CHALLENGED      REAUTHENTICATING <-> RECHALLENGED      DENIED, LOST

A channel that is bound to a session has the same machine from its own SESSION_SETUP on. EXPIRED
is VALID whose ticket ran out: requests are still taken, to be answered NETWORK_SESSION_EXPIRED,
until a new SESSION_SETUP (MS-SMB2 3.3.5.2.9). During re-authentication the session stays usable,
and a failed one ends it (3.3.5.5.3).

Sources: MS-SMB2 3.2.1.2, 3.2.1.3, 3.3.1.7, 3.3.1.8, 3.3.5.2.9, 3.3.5.3.1, 3.3.5.4, 3.3.5.5, 3.3.5.6.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from meshfs.errors import LocalProtocolError, RemoteProtocolError
from meshfs.smb.connection import Role


class ConnectionState(enum.Enum):
    NEW = enum.auto()
    NEGOTIATING = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


class SessionState(enum.Enum):
    NEW = enum.auto()
    AUTHENTICATING = enum.auto()
    CHALLENGED = enum.auto()
    VALID = enum.auto()
    EXPIRED = enum.auto()
    REAUTHENTICATING = enum.auto()
    RECHALLENGED = enum.auto()
    LOGGING_OFF = enum.auto()
    ENDED = enum.auto()


class Event(enum.Enum):
    """What happens, by whom; the value is (number, the role whose doing it is, or None)."""

    # any request or response that has no event of its own
    REQUEST = (1, Role.INITIATOR)
    RESPONSE = (2, Role.EXPORTER)
    # connection
    NEGOTIATE = (3, Role.INITIATOR)
    NEGOTIATED = (4, Role.EXPORTER)
    REFUSED = (5, Role.EXPORTER)
    AGAIN = (15, Role.EXPORTER)
    CLOSE = (6, None)
    # session
    SETUP = (7, Role.INITIATOR)
    MORE = (8, Role.EXPORTER)
    GRANTED = (9, Role.EXPORTER)
    DENIED = (10, Role.EXPORTER)
    EXPIRE = (11, Role.EXPORTER)
    LOGOFF = (12, Role.INITIATOR)
    LOGGED_OFF = (13, Role.EXPORTER)
    LOST = (14, None)

    @property
    def by(self) -> Role | None:
        role: Role | None = self.value[1]
        return role


_C = ConnectionState
_S = SessionState
_State = TypeVar("_State", ConnectionState, SessionState)

CONNECTION: Final[Mapping[ConnectionState, Mapping[Event, ConnectionState]]] = {
    _C.NEW: {
        Event.NEGOTIATE: _C.NEGOTIATING,
        Event.CLOSE: _C.CLOSED,
    },
    _C.NEGOTIATING: {
        Event.NEGOTIATED: _C.READY,
        Event.AGAIN: _C.NEW,
        Event.REFUSED: _C.CLOSED,
        Event.CLOSE: _C.CLOSED,
    },
    _C.READY: {
        Event.REQUEST: _C.READY,
        Event.RESPONSE: _C.READY,
        Event.CLOSE: _C.CLOSED,
    },
    _C.CLOSED: {
        Event.CLOSE: _C.CLOSED,
    },
}

SESSION: Final[Mapping[SessionState, Mapping[Event, SessionState]]] = {
    _S.NEW: {
        Event.SETUP: _S.AUTHENTICATING,
        Event.LOST: _S.ENDED,
    },
    _S.AUTHENTICATING: {
        Event.MORE: _S.CHALLENGED,
        Event.GRANTED: _S.VALID,
        Event.DENIED: _S.ENDED,
        Event.LOST: _S.ENDED,
    },
    _S.CHALLENGED: {
        Event.SETUP: _S.AUTHENTICATING,
        Event.LOST: _S.ENDED,
    },
    _S.VALID: {
        Event.REQUEST: _S.VALID,
        Event.RESPONSE: _S.VALID,
        Event.SETUP: _S.REAUTHENTICATING,
        Event.EXPIRE: _S.EXPIRED,
        Event.LOGOFF: _S.LOGGING_OFF,
        Event.LOST: _S.ENDED,
    },
    _S.EXPIRED: {
        Event.REQUEST: _S.EXPIRED,
        Event.RESPONSE: _S.EXPIRED,
        Event.SETUP: _S.REAUTHENTICATING,
        Event.LOGOFF: _S.LOGGING_OFF,
        Event.LOST: _S.ENDED,
    },
    _S.REAUTHENTICATING: {
        Event.REQUEST: _S.REAUTHENTICATING,
        Event.RESPONSE: _S.REAUTHENTICATING,
        Event.MORE: _S.RECHALLENGED,
        Event.GRANTED: _S.VALID,
        Event.DENIED: _S.ENDED,
        Event.LOST: _S.ENDED,
    },
    _S.RECHALLENGED: {
        Event.REQUEST: _S.RECHALLENGED,
        Event.RESPONSE: _S.RECHALLENGED,
        Event.SETUP: _S.REAUTHENTICATING,
        Event.LOGOFF: _S.LOGGING_OFF,
        Event.LOST: _S.ENDED,
    },
    _S.LOGGING_OFF: {
        Event.RESPONSE: _S.LOGGING_OFF,
        Event.LOGGED_OFF: _S.ENDED,
        Event.LOST: _S.ENDED,
    },
    _S.ENDED: {
        Event.LOST: _S.ENDED,
    },
}


def next_state(table: Mapping[_State, Mapping[Event, _State]], state: _State, event: Event, role: Role) -> _State:
    """The state after ``event``, seen by ``role``.

    Raises RemoteProtocolError when the peer caused an event that ``state`` does not allow, and
    LocalProtocolError when we did, or nobody.
    """
    try:
        return table[state][event]
    except KeyError:
        peers = event.by is not None and event.by is not role
        error = RemoteProtocolError if peers else LocalProtocolError
        raise error(f"{event.name} is not allowed in state {state.name}") from None
