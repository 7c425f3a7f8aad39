"""The state of a disk that administrators set by verbs of meshctl, as a table of transitions. Pure.

Theory. `Health` (health.py) measures how the device of a disk is. An `AdminState` says what an administrator wants of
the disk, whatever its health is. Network equipment separates the two in the same way (ifAdminStatus and ifOperStatus,
RFC 2863). A suspended disk may lose its device and get it back, and stays suspended all the time.

                  SUSPEND      DRAIN      SETTLED     RESUME
    SERVING       SUSPENDING   DRAINING               SERVING
    SUSPENDING    SUSPENDING   DRAINING   SUSPENDED   SERVING
    SUSPENDED     SUSPENDED    DRAINING               SERVING
    DRAINING                   DRAINING   DRAINED     SERVING
    DRAINED                    DRAINED                SERVING

    SUSPEND   requests wait in the disk's queue from now on, and nothing new is sent to the device
    DRAIN     new opens are refused. The opens end when their requests are done, and the device is released
    SETTLED   no request is at the device any more, and its writes were flushed
    RESUME    the disk is served as before, because an administrator says so or the time of the suspension is over

A disk that is draining or drained cannot be suspended, because it has no opens whose requests could wait.
"""

import enum
from collections.abc import Mapping
from typing import Final

from meshfs.errors import MeshfsError
from meshfs.model import DiskState


class AdminState(enum.StrEnum):
    """Names what an administrator wants of a disk. The header of this module explains the states."""

    SERVING = "serving"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    DRAINING = "draining"
    DRAINED = "drained"


class AdminEvent(enum.Enum):
    """Names the events that change an `AdminState`. The header of this module explains each."""

    SUSPEND = enum.auto()
    DRAIN = enum.auto()
    SETTLED = enum.auto()
    RESUME = enum.auto()


class NotInThisState(MeshfsError):
    """The present state of the disk does not allow the event. The text says why, and what to do."""


_S, _E = AdminState, AdminEvent

TRANSITIONS: Final[Mapping[AdminState, Mapping[AdminEvent, AdminState]]] = {
    _S.SERVING: {_E.SUSPEND: _S.SUSPENDING, _E.DRAIN: _S.DRAINING, _E.RESUME: _S.SERVING},
    _S.SUSPENDING: {
        _E.SUSPEND: _S.SUSPENDING,
        _E.DRAIN: _S.DRAINING,
        _E.SETTLED: _S.SUSPENDED,
        _E.RESUME: _S.SERVING,
    },
    _S.SUSPENDED: {_E.SUSPEND: _S.SUSPENDED, _E.DRAIN: _S.DRAINING, _E.RESUME: _S.SERVING},
    _S.DRAINING: {_E.DRAIN: _S.DRAINING, _E.SETTLED: _S.DRAINED, _E.RESUME: _S.SERVING},
    _S.DRAINED: {_E.DRAIN: _S.DRAINED, _E.RESUME: _S.SERVING},
}

#: The state that is announced to the nodes. A disk that is served announces its health.
_ANNOUNCED: Final[Mapping[AdminState, DiskState]] = {
    _S.SUSPENDING: DiskState.SUSPENDED,
    _S.SUSPENDED: DiskState.SUSPENDED,
    _S.DRAINING: DiskState.DRAINED,
    _S.DRAINED: DiskState.DRAINED,
}
_WHY: Final[Mapping[AdminState, str]] = {
    _S.SUSPENDING: "an administrator suspends it, and some of its requests are still at the device",
    _S.SUSPENDED: "an administrator suspended it",
    _S.DRAINING: "an administrator drains it, and some of its requests are not done yet",
    _S.DRAINED: "an administrator drained it",
}


def next_state(state: AdminState, event: AdminEvent) -> AdminState:
    """Return the state after ``event``. Raises NotInThisState if the table has no such transition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise NotInThisState(f"it is {state}, so it cannot be suspended; resume it first") from None


class Administration:
    """Holds what an administrator wants of one disk.

    ``flushed`` says that everything that was acknowledged is on stable storage, and that nothing was sent to the device
    since. If the device of such a disk goes away, no write is lost. ``leaving`` says that the exporter is stopping.
    """

    def __init__(self, state: AdminState = AdminState.SERVING) -> None:
        self.state = state
        self.flushed = False
        self.leaving = False

    def happened(self, event: AdminEvent) -> None:
        """Go on to the state after ``event``. Raises NotInThisState."""
        self.state = next_state(self.state, event)

    @property
    def settled(self) -> bool:
        """Return whether no step of a verb is under way."""
        return self.state not in (AdminState.SUSPENDING, AdminState.DRAINING)

    @property
    def waits(self) -> bool:
        """Return whether requests of the disk wait until it is resumed."""
        return self.state in (AdminState.SUSPENDING, AdminState.SUSPENDED)

    @property
    def drains(self) -> bool:
        """Return whether the disk is draining or drained, so that its device must not be claimed."""
        return self.state in (AdminState.DRAINING, AdminState.DRAINED)

    def announced(self, health: DiskState, why: str) -> tuple[DiskState, str]:
        """Return the state of the disk for its announcement, and the reason. ``health`` and ``why`` are measured."""
        if self.leaving:
            return DiskState.DRAINED, "its exporter is stopping"
        state = _ANNOUNCED.get(self.state)
        if state is None:
            return health, why
        asked = _WHY[self.state]
        tells = self.waits and health is not DiskState.OK
        return state, f"{asked}; the device is {health}: {why}" if tells else asked
