"""Defines the states of a connection's link as a table. The state says whether the link receives from its transport.

                  WAIT                 LACK
       WAITING <--------- READING ---------> STARVED
          ^    --------->  |   ^                |
          |       TURN     |   |                | ROOM
          |          PAUSE |   | RESUME         |
          |                v   |                |
          +-------------- PAUSED <--------------+
               WAIT

From each of these four states, STOP leads to STOPPED and END to ENDING. CLOSE leads from every state to CLOSED.

A link that was stopped, is ending or was closed may still be in the queue of its flow. Its turn then changes nothing.
An event that the table does not have for a state is a fault of this program, and raises LocalProtocolError.
"""

import enum
from collections.abc import Mapping
from typing import Final

from meshfs.errors import LocalProtocolError


class LinkState(enum.IntEnum):
    """Lists the states of a link. They are integers, because the hash of an integer costs no call in Python."""

    #: The link receives in its turn, or the reactor calls when the transport has something.
    READING = enum.auto()
    #: The link waits in a flow for its turn.
    WAITING = enum.auto()
    #: Nothing is received until waiting replies were sent and enough requests were answered.
    PAUSED = enum.auto()
    #: Nothing is received until the node may take more memory.
    STARVED = enum.auto()
    #: Nothing more is received, and the connection stays open for replies that are still to come.
    STOPPED = enum.auto()
    #: Nothing more is received, and the connection is closed when the waiting replies were sent.
    ENDING = enum.auto()
    #: The transport is closed.
    CLOSED = enum.auto()


class LinkEvent(enum.IntEnum):
    """Lists the events of a link."""

    #: The link has its turn.
    TURN = enum.auto()
    #: The link enters the queue of a flow, because something is left to do.
    WAIT = enum.auto()
    #: Too many replies wait to be sent, or too many requests are in progress.
    PAUSE = enum.auto()
    #: The replies were sent, or enough requests were answered, and no request is held.
    RESUME = enum.auto()
    #: The node holds all the memory that it may hold.
    LACK = enum.auto()
    #: The node may take more memory.
    ROOM = enum.auto()
    #: The exporter stops.
    STOP = enum.auto()
    #: The transport broke, the peer broke the protocol or did not log in, or the connection is given up.
    END = enum.auto()
    #: The transport is closed.
    CLOSE = enum.auto()


_S, _E = LinkState, LinkEvent

LINK: Final[Mapping[LinkState, Mapping[LinkEvent, LinkState]]] = {
    _S.READING: {
        # If no other connection has anything to do, the link gets its turn without a wait.
        _E.TURN: _S.READING,
        _E.WAIT: _S.WAITING,
        _E.PAUSE: _S.PAUSED,
        _E.LACK: _S.STARVED,
        _E.STOP: _S.STOPPED,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.WAITING: {
        _E.TURN: _S.READING,
        _E.STOP: _S.STOPPED,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.PAUSED: {
        _E.WAIT: _S.WAITING,
        _E.RESUME: _S.READING,
        _E.STOP: _S.STOPPED,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.STARVED: {
        # The other reasons for a pause are checked when the memory is there.
        _E.PAUSE: _S.STARVED,
        _E.ROOM: _S.PAUSED,
        _E.STOP: _S.STOPPED,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.STOPPED: {
        _E.TURN: _S.STOPPED,
        _E.STOP: _S.STOPPED,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.ENDING: {
        _E.TURN: _S.ENDING,
        _E.STOP: _S.ENDING,
        _E.END: _S.ENDING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.CLOSED: {
        _E.TURN: _S.CLOSED,
        _E.STOP: _S.CLOSED,
        _E.END: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
}

#: The states in which a link receives, or will receive again when the reason for its pause has ended.
RECEIVING: Final = frozenset({_S.READING, _S.WAITING, _S.PAUSED, _S.STARVED})


def next_state(state: LinkState, event: LinkEvent) -> LinkState:
    """Return the state after ``event``. Raises LocalProtocolError if ``state`` does not allow the event."""
    try:
        return LINK[state][event]
    except KeyError:
        raise LocalProtocolError(f"{event.name} is not allowed in state {state.name}") from None


def after_turn(state: LinkState, *, full: bool) -> LinkEvent:
    """Return the event after a turn that has left something to do, or in which the node held too much memory.

    ``full`` says that too many replies wait to be sent, or too many requests are in progress.
    """
    return LinkEvent.PAUSE if full or state is LinkState.STARVED else LinkEvent.WAIT


def when_room(state: LinkState, *, sending: bool, held: bool, has_room: bool) -> LinkEvent | None:
    """Return the event that ends a pause, or None if the link does not pause or must go on pausing.

    ``sending`` says that replies wait to be sent. ``held`` says that requests are held, and ``has_room`` that enough
    was answered to go on with them.
    """
    if state is not LinkState.PAUSED or sending:
        return None
    if not held:
        return LinkEvent.RESUME
    return LinkEvent.WAIT if has_room else None
