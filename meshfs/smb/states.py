"""The states of a connection and of a session, as tables that both ends use. Pure.

The theory is that of h11. Both ends see the same messages. They also see them in the same order where the order
matters, because NEGOTIATE, SESSION_SETUP and LOGOFF are never pipelined. So one table fits both ends, each end runs a
machine of its own over it (`StateMachine`), and the events are the messages. The initiator causes requests, the
exporter causes responses, and nobody causes the loss of a transport. If the table has no entry for an event in the
present state, the event is an error of the role that caused it. An error of this end is a LocalProtocolError, and an
error of the peer is a RemoteProtocolError.

An end needs only the events that it sends or receives. An initiator of meshfs never logs off and never
re-authenticates. It closes its connections, and logs in again in a new session. The exporters of meshfs accept only
NTLM, which has no tickets. So a session expires only at other exporters.

                      NEGOTIATE                NEGOTIATED
    connection:  NEW -----------> NEGOTIATING -----------> READY (any request, any response)
                                       | REFUSED             | CLOSE
                                       +------> CLOSED <-----+

AGAIN leads from NEGOTIATING back to NEW. The initiator began in SMB 1, and the exporter asked it to continue in SMB 2.

                      SETUP                    GRANTED          LOGOFF               LOGGED_OFF
    session:     NEW -------> AUTHENTICATING ---------> VALID --------> LOGGING_OFF ------------> ENDED
                               MORE |  ^ SETUP           |  ^                                       ^
                                    v  |           SETUP v  | GRANTED                               |
                                 CHALLENGED      REAUTHENTICATING <-> RECHALLENGED      DENIED, LOST

A bind is a login on a separate connection, and runs a separate machine, from NEW to VALID. A session becomes
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
    """Names the states of a connection. The header of this module has their transitions."""

    NEW = enum.auto()
    NEGOTIATING = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


class SessionState(enum.Enum):
    """Names the states of a session on one channel. The header of this module has their transitions."""

    NEW = enum.auto()
    AUTHENTICATING = enum.auto()
    CHALLENGED = enum.auto()
    VALID = enum.auto()
    EXPIRED = enum.auto()
    REAUTHENTICATING = enum.auto()
    RECHALLENGED = enum.auto()
    LOGGING_OFF = enum.auto()
    ENDED = enum.auto()


class SmbEvent(enum.Enum):
    """Names the events. A value is (number, role that causes the event). The role is None if no end causes it."""

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

CONNECTION: Final[Mapping[ConnectionState, Mapping[SmbEvent, ConnectionState]]] = {
    _C.NEW: {
        SmbEvent.NEGOTIATE: _C.NEGOTIATING,
        SmbEvent.CLOSE: _C.CLOSED,
    },
    _C.NEGOTIATING: {
        SmbEvent.NEGOTIATED: _C.READY,
        SmbEvent.AGAIN: _C.NEW,
        SmbEvent.REFUSED: _C.CLOSED,
        SmbEvent.CLOSE: _C.CLOSED,
    },
    _C.READY: {
        SmbEvent.REQUEST: _C.READY,
        SmbEvent.RESPONSE: _C.READY,
        SmbEvent.CLOSE: _C.CLOSED,
    },
    _C.CLOSED: {
        SmbEvent.CLOSE: _C.CLOSED,
    },
}

SESSION: Final[Mapping[SessionState, Mapping[SmbEvent, SessionState]]] = {
    _S.NEW: {
        SmbEvent.SETUP: _S.AUTHENTICATING,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.AUTHENTICATING: {
        SmbEvent.MORE: _S.CHALLENGED,
        SmbEvent.GRANTED: _S.VALID,
        SmbEvent.DENIED: _S.ENDED,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.CHALLENGED: {
        SmbEvent.SETUP: _S.AUTHENTICATING,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.VALID: {
        SmbEvent.REQUEST: _S.VALID,
        SmbEvent.RESPONSE: _S.VALID,
        SmbEvent.SETUP: _S.REAUTHENTICATING,
        SmbEvent.EXPIRE: _S.EXPIRED,
        SmbEvent.LOGOFF: _S.LOGGING_OFF,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.EXPIRED: {
        SmbEvent.REQUEST: _S.EXPIRED,
        SmbEvent.RESPONSE: _S.EXPIRED,
        SmbEvent.SETUP: _S.REAUTHENTICATING,
        SmbEvent.LOGOFF: _S.LOGGING_OFF,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.REAUTHENTICATING: {
        SmbEvent.REQUEST: _S.REAUTHENTICATING,
        SmbEvent.RESPONSE: _S.REAUTHENTICATING,
        SmbEvent.MORE: _S.RECHALLENGED,
        SmbEvent.GRANTED: _S.VALID,
        SmbEvent.DENIED: _S.ENDED,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.RECHALLENGED: {
        SmbEvent.REQUEST: _S.RECHALLENGED,
        SmbEvent.RESPONSE: _S.RECHALLENGED,
        SmbEvent.SETUP: _S.REAUTHENTICATING,
        SmbEvent.LOGOFF: _S.LOGGING_OFF,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.LOGGING_OFF: {
        SmbEvent.RESPONSE: _S.LOGGING_OFF,
        SmbEvent.LOGGED_OFF: _S.ENDED,
        SmbEvent.LOST: _S.ENDED,
    },
    _S.ENDED: {
        SmbEvent.LOST: _S.ENDED,
    },
}


def next_state(table: Mapping[_State, Mapping[SmbEvent, _State]], state: _State, event: SmbEvent, role: Role) -> _State:
    """Return the state after ``event``. ``role`` is the role of this end.

    If ``state`` does not allow the event, the function raises RemoteProtocolError if the peer caused the event.
    Otherwise it raises LocalProtocolError.
    """
    try:
        return table[state][event]
    except KeyError:
        peers = event.by is not None and event.by is not role
        error = RemoteProtocolError if peers else LocalProtocolError
        raise error(f"{event.name} is not allowed in state {state.name}") from None


class StateMachine(Generic[_State]):
    """Holds the state of one connection or one session, as one end sees it. It starts in the table's first state."""

    __slots__ = ("_role", "_table", "state")

    def __init__(self, table: Mapping[_State, Mapping[SmbEvent, _State]], role: Role) -> None:
        self.state: _State = next(iter(table))
        self._table: Mapping[_State, Mapping[SmbEvent, _State]] = table
        self._role = role

    def happened(self, event: SmbEvent) -> None:
        """Go to the state that ``event`` leads to. If `next_state` raises, the state stays."""
        self.state = next_state(self._table, self.state, event, self._role)
