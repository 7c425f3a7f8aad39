"""The states of a connection and of a session, as tables that both ends use.

The theory is that of h11. Both ends see the same messages. They also see them in the same order where the order
matters, because NEGOTIATE, SESSION_SETUP and LOGOFF are never pipelined. So one table fits both ends, each end runs a
machine of its own over it (`StateMachine`), and the events are the messages. The initiator causes requests, the
exporter causes responses, and nobody causes the loss of a transport. If the table has no entry for an event in the
present state, the event is an error of the role that caused it. An error of this end is a LocalProtocolError, and an
error of the peer is a RemoteProtocolError.

An end needs only those events that it sends or is sent. An initiator of meshfs never logs off and never
re-authenticates: it closes its connections, and logs in again in a new session. The exporters of meshfs log in with
NTLM, which has no tickets, so that only other exporters let a session expire.

                      NEGOTIATE                NEGOTIATED
    connection:  NEW -----------> NEGOTIATING -----------> READY (any request, any response)
                                       | REFUSED             | CLOSE
                                       +------> CLOSED <-----+

AGAIN leads from NEGOTIATING back to NEW: the initiator began in SMB 1, and the exporter told it to continue in SMB 2.

                      SETUP                    GRANTED          LOGOFF               LOGGED_OFF
    session:     NEW -------> AUTHENTICATING ---------> VALID --------> LOGGING_OFF ------------> ENDED
                               MORE |  ^ SETUP           |  ^                                       ^
                                    v  |           SETUP v  | GRANTED                               |
                                 CHALLENGED      REAUTHENTICATING <-> RECHALLENGED      DENIED, LOST

A bind is a login on a connection of its own: it runs a machine of its own, from NEW to VALID. A session becomes
EXPIRED when its ticket runs out. Its requests are then still received, but are answered NETWORK_SESSION_EXPIRED until
a new SESSION_SETUP (MS-SMB2 3.3.5.2.9). During a re-authentication the session stays usable. If the re-authentication
fails, the session ends (3.3.5.5.3).

Sources: MS-SMB2 3.2.1.2, 3.2.1.3, 3.3.1.7, 3.3.1.8, 3.3.5.2.9, 3.3.5.3.1, 3.3.5.4, 3.3.5.5, 3.3.5.6.
"""

import enum
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

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
    """Lists the events. A value is (number, role that causes the event); the role is None if nobody causes it."""

    # Any request or response that has no event of its own.
    REQUEST = (1, Role.INITIATOR)
    RESPONSE = (2, Role.EXPORTER)
    # Events of a connection.
    NEGOTIATE = (3, Role.INITIATOR)
    NEGOTIATED = (4, Role.EXPORTER)
    REFUSED = (5, Role.EXPORTER)
    AGAIN = (15, Role.EXPORTER)
    CLOSE = (6, None)
    # Events of a session.
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
    """Return the state after ``event``. ``role`` is the role of this end.

    If ``state`` does not allow the event, raises RemoteProtocolError if the peer caused it, and LocalProtocolError if
    this end or nobody caused it.
    """
    try:
        return table[state][event]
    except KeyError:
        peers = event.by is not None and event.by is not role
        error = RemoteProtocolError if peers else LocalProtocolError
        raise error(f"{event.name} is not allowed in state {state.name}") from None


class StateMachine(Generic[_State]):
    """The state of one connection or one session, as one end sees it. It starts in the first state of its table."""

    __slots__ = ("_role", "_table", "state")

    def __init__(self, table: Mapping[_State, Mapping[Event, _State]], role: Role) -> None:
        self.state: _State = next(iter(table))
        self._table: Mapping[_State, Mapping[Event, _State]] = table
        self._role = role

    def happened(self, event: Event) -> None:
        """Go on to the state that ``event`` leads to. Raises as `next_state` does, and keeps the state then."""
        self.state = next_state(self._table, self.state, event, self._role)
