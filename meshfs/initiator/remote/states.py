"""Defines the states of an exporter, and of one path to it, as tables of the events that are allowed in each state.

Theory. An exporter is CONNECTED exactly while there is a session, which is one login and at least one channel. A
path is CONNECTED while its own channel belongs to that session. So there are two machines. The first of several paths
logs in, and makes both itself and the exporter CONNECTED. The other paths are bound. The exporter leaves CONNECTED
when its last channel has ended, even if other paths are still being tried. If all its disks were drained before, that
was on purpose, and the exporter is DRAINED instead of DOWN.

                   LOGGED_IN                LOST, REMOVED
    exporter:  CONNECTING ------> CONNECTED ------> DOWN (FAILED: again and again)
                   |                | ^              ^ |
                   |                | +--LOGGED_IN---|-+
                   |                |                |
                   |                | LEFT           | REMOVED
                   |                +-----------> DRAINED (FAILED: again and again; LOGGED_IN leads to CONNECTED)
                   +------- FAILED, REMOVED ---------+

                 TRY                BOUND
    path:   IDLE ----> CONNECTING ----------> CONNECTED
             ^ ^         |    ^  | FAILED         | FAILED
             | |  WAITS  |    |  v                v
             | +---------+   TRY +-----> DOWN <---+
             |                  +---------|
             +---- WAITS, ENDED (from every state: ENDED)

If a table has no entry for an event in the present state, this program has a bug, and LocalProtocolError is raised.
The value of a state is its word in the status documents, which `meshctl` and the metrics read.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from meshfs.errors import LocalProtocolError


class ExporterState(enum.Enum):
    """Lists the states of an exporter."""

    #: No attempt has ended yet.
    CONNECTING = "connecting"
    #: There is a session with one channel or more, so the disks are known.
    CONNECTED = "connected"
    #: There is no channel, and the paths go on trying.
    DOWN = "down"
    #: There is no channel, because the exporter was stopped after all its disks were drained. The paths go on trying.
    DRAINED = "drained"


class ExporterEvent(enum.Enum):
    """Lists what happens to an exporter."""

    #: A login on the first channel succeeded.
    LOGGED_IN = enum.auto()
    #: An attempt failed while there was no session.
    FAILED = enum.auto()
    #: The session has lost its last channel.
    LOST = enum.auto()
    #: The session has lost its last channel after all disks of the exporter were drained.
    LEFT = enum.auto()
    #: The config no longer has the node.
    REMOVED = enum.auto()


class PathState(enum.Enum):
    """Lists the states of a path."""

    #: The path is not selected, or the exporter takes no more channels.
    IDLE = "idle"
    #: An attempt is under way.
    CONNECTING = "connecting"
    #: The path's channel belongs to the session.
    CONNECTED = "connected"
    #: The last attempt failed, or the channel was lost. The next attempt has a time.
    DOWN = "down"


class PathEvent(enum.Enum):
    """Lists what happens on a path."""

    #: An attempt begins.
    TRY = enum.auto()
    #: The channel has logged in, or was bound to the session.
    BOUND = enum.auto()
    #: The attempt failed, or the channel was lost.
    FAILED = enum.auto()
    #: The exporter takes no further channel, so the next attempt waits for the next session.
    WAITS = enum.auto()
    #: The path's task has ended, because the path is not to be used any more.
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
        _EE.LEFT: _E.DRAINED,
        _EE.REMOVED: _E.DOWN,
    },
    _E.DOWN: {
        _EE.LOGGED_IN: _E.CONNECTED,
        _EE.FAILED: _E.DOWN,
        # A removed exporter is down before its session has ended.
        _EE.LOST: _E.DOWN,
        _EE.REMOVED: _E.DOWN,
    },
    _E.DRAINED: {
        _EE.LOGGED_IN: _E.CONNECTED,
        _EE.FAILED: _E.DRAINED,
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
    """Return the state after ``event``. Raises LocalProtocolError if ``state`` does not allow the event."""
    try:
        return table[state][event]
    except KeyError:
        raise LocalProtocolError(f"{event.name} is not allowed in state {state.name}") from None
