"""The state of a disk at its exporter: a table of transitions, and the rules for when each event happens. Pure.

Theory. A disk does not report its own state. The exporter knows only the results of the disk's I/O, the kernel's facts
of the device (its size, and its entry in sysfs), and the result of opening the disk. From these, `Health` derives the
events of one table. An event that the table does not have for a state is a bug of the exporter.

                CLAIMED   REFUSED   FAILED    STEADY   VANISHED   RELEASED
    MISSING     OK        MISSING
    OK                              FAILING   OK       GONE       MISSING
    FAILING                         FAILING   OK       GONE       MISSING
    GONE        OK        GONE      GONE               GONE

    CLAIMED     the disk was opened and claimed, for the first time or again
    REFUSED     the disk could not be opened
    FAILED      an I/O ended with an error of the disk, or a look at the disk found a lasting fault
    STEADY      in the last DISK_STEADY_S, I/O succeeded and none failed, and there is no lasting fault
    VANISHED    the device, or the file system that holds the image, went away
    RELEASED    the exporter closed the device or image on purpose, because the disk was drained

One error makes a disk FAILING at once. The disk is OK again only after DISK_STEADY_S without another error, and after
at least one I/O that succeeded. A disk with a bad block answers most requests well, and without the wait its state
would change with every request.

A lasting fault is found by looking at the disk (discovery/look.py), not by I/O. Examples are a disk that shrank, and
an image whose last name was removed. While there is a lasting fault, the disk does not become OK.
"""

import enum
import os
from collections.abc import Mapping
from typing import Final

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import LocalProtocolError
from meshfs.model import DiskState

#: The reason of a disk's state before the first attempt to open it.
NOT_YET: Final = "it was not opened yet"


class DiskEvent(enum.Enum):
    """Names the events that change the state of a disk. The header of this module explains each."""

    CLAIMED = enum.auto()
    REFUSED = enum.auto()
    FAILED = enum.auto()
    STEADY = enum.auto()
    VANISHED = enum.auto()
    RELEASED = enum.auto()


_S = DiskState

TRANSITIONS: Final[Mapping[DiskState, Mapping[DiskEvent, DiskState]]] = {
    _S.MISSING: {
        DiskEvent.CLAIMED: _S.OK,
        DiskEvent.REFUSED: _S.MISSING,
    },
    _S.OK: {
        DiskEvent.FAILED: _S.FAILING,
        DiskEvent.STEADY: _S.OK,
        DiskEvent.VANISHED: _S.GONE,
        DiskEvent.RELEASED: _S.MISSING,
    },
    _S.FAILING: {
        DiskEvent.FAILED: _S.FAILING,
        DiskEvent.STEADY: _S.OK,
        DiskEvent.VANISHED: _S.GONE,
        DiskEvent.RELEASED: _S.MISSING,
    },
    # Requests that were at the device when it vanished end with errors later, so FAILED can follow VANISHED.
    _S.GONE: {
        DiskEvent.CLAIMED: _S.OK,
        DiskEvent.REFUSED: _S.GONE,
        DiskEvent.FAILED: _S.GONE,
        DiskEvent.VANISHED: _S.GONE,
    },
}


def next_state(state: DiskState, event: DiskEvent) -> DiskState:
    """Return the state after ``event``. Raises LocalProtocolError if the table has no such transition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LocalProtocolError(f"disk state {state}: {event.name} cannot happen") from None


class Health:
    """Holds the state of one disk, and the reason if the state is not OK.

    All times are in seconds, by the same monotonic clock.
    """

    def __init__(self, now_s: float) -> None:
        self.state = DiskState.MISSING
        self.why = NOT_YET
        self.since_s = now_s
        self._vanished_why = ""
        self._fault = ""
        # The first error since the disk was last OK, and the time of the latest error.
        self._error_why = ""
        self._error_s = -limits.DISK_STEADY_S
        # The count of successful I/O at the first look after the last error, or None before that look.
        self._successes: int | None = None

    @property
    def served(self) -> bool:
        """Return whether the disk is open."""
        return self.state in (DiskState.OK, DiskState.FAILING)

    def claimed(self, now_s: float) -> None:
        self._fault, self._vanished_why, self._error_why = "", "", ""
        self._error_s = now_s - limits.DISK_STEADY_S
        self._enter(DiskEvent.CLAIMED, "", now_s)

    def refused(self, why: str, now_s: float) -> None:
        self._enter(DiskEvent.REFUSED, f"{self._vanished_why}; {why}" if self._vanished_why else why, now_s)

    def vanished(self, why: str, now_s: float) -> None:
        self._vanished_why = self._vanished_why or why
        self._enter(DiskEvent.VANISHED, self._vanished_why, now_s)

    def released(self, now_s: float) -> None:
        """Note that the exporter has closed the disk, which is in a state as before its first claim."""
        self._enter(DiskEvent.RELEASED, NOT_YET, now_s)

    def failed(self, why: str, now_s: float) -> None:
        """Note that an I/O ended with an error. Keep the first reason, because later errors mostly follow from it."""
        self._error_s, self._successes = now_s, None
        self._error_why = self._error_why or why
        self._enter(DiskEvent.FAILED, self.why or why, now_s)

    def looked(self, fault: str, successes: int, now_s: float) -> None:
        """Note the result of a look at a served disk.

        ``fault`` is the lasting fault, or "" if there is none. ``successes`` counts all I/O that has succeeded so far.
        """
        was_faulty, self._fault = bool(self._fault), fault
        if fault:
            self._enter(DiskEvent.FAILED, fault, now_s)
        elif self.state is DiskState.FAILING and self._is_steady(successes, now_s, was_faulty=was_faulty):
            self._error_why = ""
            self._enter(DiskEvent.STEADY, "", now_s)
        elif was_faulty and self.state is DiskState.FAILING:
            # The lasting fault is mended, but an I/O error is too recent for the state OK.
            self._enter(DiskEvent.FAILED, self._error_why, now_s)

    def _is_steady(self, successes: int, now_s: float, *, was_faulty: bool) -> bool:
        quiet = now_s - self._error_s >= limits.DISK_STEADY_S
        if was_faulty and quiet:
            # The lasting fault, now mended, was the only reason for FAILING.
            return True
        if self._successes is None:
            self._successes = successes
        return quiet and successes > self._successes

    def _enter(self, event: DiskEvent, why: str, now_s: float) -> None:
        state = next_state(self.state, event)
        if state is not self.state:
            self.since_s = now_s
        self.state, self.why = state, why


def error_text(op: Op, number: int) -> str:
    """Return the reason of a state after a failed I/O, for example "read: Input/output error"."""
    return f"{op.name.lower()}: {os.strerror(number)}"
