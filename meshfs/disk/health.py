"""The state of a disk at its exporter, measured: a table of transitions, and when each event is due. Pure.

Theory: nobody asks a disk how it is. What is known of it are the results of its I/O, what the kernel says of its
device (its size, and whether it is there), and whether it could be opened. `Health` turns these into the events of
one table. An event that the table does not have for a state is a bug of the exporter.

                CLAIMED   REFUSED   FAILED    STEADY   VANISHED
    MISSING     OK        MISSING
    OK                              FAILING   OK       GONE
    FAILING                         FAILING   OK       GONE
    GONE        OK        GONE      GONE               GONE

    CLAIMED     the disk was opened and claimed, at first or again
    REFUSED     the disk could not be opened
    FAILED      an I/O ended with an error of the disk, or a look at it found a fault that lasts
    STEADY      the last DISK_STEADY_S brought I/O without an error, and no fault lasts
    VANISHED    the device went away, or what holds the image did

One error makes a disk FAILING at once. It is OK again only after DISK_STEADY_S without another error and at least one
I/O that succeeded: a disk with a bad block answers most requests well, and must not change its state with every one.
A fault that lasts is found by looking, not by I/O: a disk that shrank, an image whose last name was removed. While
there is one the disk does not become OK.
"""

import enum
import os
from collections.abc import Mapping
from typing import Final

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import LocalProtocolError
from meshfs.model import DiskState

#: The reason of a disk's state before anything was tried.
NOT_YET: Final = "it was not opened yet"


class Event(enum.Enum):
    """What happens to a disk."""

    CLAIMED = enum.auto()
    REFUSED = enum.auto()
    FAILED = enum.auto()
    STEADY = enum.auto()
    VANISHED = enum.auto()


_S = DiskState

TRANSITIONS: Final[Mapping[DiskState, Mapping[Event, DiskState]]] = {
    _S.MISSING: {
        Event.CLAIMED: _S.OK,
        Event.REFUSED: _S.MISSING,
    },
    _S.OK: {
        Event.FAILED: _S.FAILING,
        Event.STEADY: _S.OK,
        Event.VANISHED: _S.GONE,
    },
    _S.FAILING: {
        Event.FAILED: _S.FAILING,
        Event.STEADY: _S.OK,
        Event.VANISHED: _S.GONE,
    },
    # What was at the device when it vanished ends with errors later.
    _S.GONE: {
        Event.CLAIMED: _S.OK,
        Event.REFUSED: _S.GONE,
        Event.FAILED: _S.GONE,
        Event.VANISHED: _S.GONE,
    },
}


def next_state(state: DiskState, event: Event) -> DiskState:
    """The state after ``event``. Raises LocalProtocolError where the table has none."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LocalProtocolError(f"disk state {state}: {event.name} cannot happen") from None


class Health:
    """One disk's state and the reason of a state that is not OK. Times are of one monotonic clock, in seconds."""

    def __init__(self, now_s: float) -> None:
        self.state = DiskState.MISSING
        self.why = NOT_YET
        self.since_s = now_s
        self._vanished_why = ""
        self._fault = ""
        # The first error of the episode that is not over yet.
        self._error_why = ""
        self._error_s = -limits.DISK_STEADY_S
        # Successful I/O at the first look behind the last error; None before that look.
        self._successes: int | None = None

    @property
    def served(self) -> bool:
        """Whether the disk is open."""
        return self.state in (DiskState.OK, DiskState.FAILING)

    def claimed(self, now_s: float) -> None:
        self._fault, self._vanished_why, self._error_why = "", "", ""
        self._error_s = now_s - limits.DISK_STEADY_S
        self._enter(Event.CLAIMED, "", now_s)

    def refused(self, why: str, now_s: float) -> None:
        self._enter(Event.REFUSED, f"{self._vanished_why}; {why}" if self._vanished_why else why, now_s)

    def vanished(self, why: str, now_s: float) -> None:
        self._vanished_why = self._vanished_why or why
        self._enter(Event.VANISHED, self._vanished_why, now_s)

    def failed(self, why: str, now_s: float) -> None:
        """An I/O ended with an error. The first reason stays, as later errors mostly are its consequences."""
        self._error_s, self._successes = now_s, None
        self._error_why = self._error_why or why
        self._enter(Event.FAILED, self.why or why, now_s)

    def looked(self, fault: str, successes: int, now_s: float) -> None:
        """A served disk was looked at: ``fault`` is what is wrong and lasts, ``successes`` all I/O that ended well."""
        was_faulty, self._fault = bool(self._fault), fault
        if fault:
            self._enter(Event.FAILED, fault, now_s)
        elif self.state is DiskState.FAILING and self._is_steady(successes, now_s, was_faulty=was_faulty):
            self._error_why = ""
            self._enter(Event.STEADY, "", now_s)
        elif was_faulty and self.state is DiskState.FAILING:
            # The fault is mended, and errors were not long ago.
            self._enter(Event.FAILED, self._error_why, now_s)

    def _is_steady(self, successes: int, now_s: float, *, was_faulty: bool) -> bool:
        quiet = now_s - self._error_s >= limits.DISK_STEADY_S
        if was_faulty and quiet:
            # The fault was all there was.
            return True
        if self._successes is None:
            self._successes = successes
        return quiet and successes > self._successes

    def _enter(self, event: Event, why: str, now_s: float) -> None:
        state = next_state(self.state, event)
        if state is not self.state:
            self.since_s = now_s
        self.state, self.why = state, why


def error_text(op: Op, number: int) -> str:
    """The reason of a state, after an I/O that failed: "read: Input/output error"."""
    return f"{op.name.lower()}: {os.strerror(number)}"
