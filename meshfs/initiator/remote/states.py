"""The states of an exporter, and of one path to it, as tables: what happens in which state, and where it leads.

Theory. An exporter is CONNECTED exactly while there is a session, which is one login and at least one channel. A
path is CONNECTED while its own channel belongs to that session. So the two machines run beside each other: of
several paths the first one logs in and takes the exporter along, the others are bound, and the exporter leaves
CONNECTED when its last channel has ended, however many paths are still being tried.

                   LOGGED_IN                LOST, REMOVED
    exporter:  CONNECTING ------> CONNECTED ------> DOWN (FAILED: again and again)
                   |                  ^              ^ |
                   |                  +--LOGGED_IN---|-+
                   +------- FAILED, REMOVED ---------+

                 TRY                BOUND
    path:   IDLE ----> CONNECTING ----------> CONNECTED
             ^ ^         |    ^  | FAILED         | FAILED
             | |  WAITS  |    |  v                v
             | +---------+   TRY +-----> DOWN <---+
             |                  +---------|
             +---- WAITS, ENDED (from every state: ENDED)

An event that the table does not have for a state is a fault of this program, and raises LocalProtocolError. The
value of a state is the word for it in the status documents, which `meshctl` and the metrics read.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from meshfs.errors import LocalProtocolError


class ExporterState(enum.Enum):
    """What a mount has of an exporter."""

    #: No attempt has ended yet.
    CONNECTING = "connecting"
    #: There is a session, so its disks are known; one channel or more.
    CONNECTED = "connected"
    #: There is no channel, and the paths go on trying.
    DOWN = "down"


class ExporterEvent(enum.Enum):
    """What happens to an exporter."""

    #: A login on the first channel succeeded.
    LOGGED_IN = enum.auto()
    #: An attempt failed while there was no session.
    FAILED = enum.auto()
    #: The session has lost its last channel.
    LOST = enum.auto()
    #: The config does not have the node any more.
    REMOVED = enum.auto()


class PathState(enum.Enum):
    """What a path does."""

    #: It is not selected, or the exporter takes no more channels.
    IDLE = "idle"
    #: An attempt is under way.
    CONNECTING = "connecting"
    #: Its channel belongs to the session.
    CONNECTED = "connected"
    #: The last attempt failed, or the channel was lost; the next attempt has a time.
    DOWN = "down"


class PathEvent(enum.Enum):
    """What happens on a path."""

    #: An attempt begins.
    TRY = enum.auto()
    #: The channel has logged in, or was bound to the session.
    BOUND = enum.auto()
    #: The attempt failed, or the channel was lost.
    FAILED = enum.auto()
    #: The exporter takes no further channel, so the next attempt waits for the next session.
    WAITS = enum.auto()
    #: The path is not to be used any more.
    ENDED = enum.auto()


_E, _EE = ExporterState, ExporterEvent
_P, _PE = PathState, PathEvent

EXPORTER: Final[Mapping[ExporterState, Mapping[ExporterEvent, ExporterState]]] = {
    _E.CONNECTING: {
        _EE.LOGGED_IN: _E.CONNECTED,
        _EE.FAILED: _E.DOWN,
        _EE.REMOVED: _E.DOWN,
    },
    _E.CONNECTED: {
        _EE.LOST: _E.DOWN,
        _EE.REMOVED: _E.DOWN,
    },
    _E.DOWN: {
        _EE.LOGGED_IN: _E.CONNECTED,
        _EE.FAILED: _E.DOWN,
        # A removed exporter is down before its session has ended.
        _EE.LOST: _E.DOWN,
        _EE.REMOVED: _E.DOWN,
    },
}

PATH: Final[Mapping[PathState, Mapping[PathEvent, PathState]]] = {
    _P.IDLE: {
        _PE.TRY: _P.CONNECTING,
        _PE.WAITS: _P.IDLE,
        _PE.ENDED: _P.IDLE,
    },
    _P.CONNECTING: {
        _PE.BOUND: _P.CONNECTED,
        _PE.FAILED: _P.DOWN,
        _PE.WAITS: _P.IDLE,
        _PE.TRY: _P.CONNECTING,
        _PE.ENDED: _P.IDLE,
    },
    _P.CONNECTED: {
        _PE.FAILED: _P.DOWN,
        _PE.ENDED: _P.IDLE,
    },
    _P.DOWN: {
        _PE.TRY: _P.CONNECTING,
        _PE.WAITS: _P.IDLE,
        _PE.ENDED: _P.IDLE,
    },
}

_State = TypeVar("_State", ExporterState, PathState)
_Event = TypeVar("_Event", ExporterEvent, PathEvent)


def next_state(table: Mapping[_State, Mapping[_Event, _State]], state: _State, event: _Event) -> _State:
    """The state after ``event``. Raises LocalProtocolError when ``state`` does not allow the event."""
    try:
        return table[state][event]
    except KeyError:
        raise LocalProtocolError(f"{event.name} is not allowed in state {state.name}") from None
