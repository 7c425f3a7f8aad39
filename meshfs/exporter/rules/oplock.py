"""Oplocks of scratch files: which open may cache a file, and which CREATEs wait (MS-FSA 2.1.4.12, 2.1.5.18). Pure.

A file has at most one oplock, exclusive or batch. Its holder is the only open of the file. If another CREATE opens the
file, the oplock is broken to none. The CREATE waits until the holder has acknowledged the break, has closed the file,
or has timed out. The exporter never grants oplocks of level II or leases, which is its choice (MS-SMB2 3.3.5.9).

The caller sends the notification of the break, and holds the requests that wait.
"""

from collections.abc import Callable
from typing import Final, Protocol

from meshfs import limits
from meshfs.smb.constants import AccessMask, CreateDisposition, OplockLevel

#: An open that has only these rights does not see the data that a holder caches.
_ATTRIBUTES_ONLY: Final = int(AccessMask.READ_ATTRIBUTES | AccessMask.WRITE_ATTRIBUTES | AccessMask.SYNCHRONIZE)
GRANTED_LEVELS: Final = (OplockLevel.EXCLUSIVE, OplockLevel.BATCH)
_KEEPS_CONTENT: Final = (CreateDisposition.OPEN, CreateDisposition.OPEN_IF)


class Holder(Protocol):
    """Stands for the open that has the oplock."""

    def oplock_broken(self) -> None:
        """Notify the holder that the break has begun. This is called once per oplock."""

    def drop_oplock(self) -> None:
        """Give up the oplock, even if the break was not acknowledged."""


class Oplock:
    """Represents one granted oplock. During a break of the oplock, the holder has until ``deadline`` to acknowledge."""

    __slots__ = ("_waiters", "breaking", "deadline", "holder", "level")

    def __init__(self, holder: Holder, level: int) -> None:
        self.holder = holder
        self.level = level
        self.breaking = False
        self.deadline = 0.0
        #: The calls to make when the oplock has ended, the oldest first.
        self._waiters: dict[Callable[[], None], None] = {}

    def breaks_before_sharing(self) -> bool:
        """Return whether the oplock is broken before share access is checked.

        The holder of a batch oplock may be done with the file, and close it when it is notified.
        """
        return self.level == OplockLevel.BATCH

    def start_break(self, now_s: float) -> None:
        """Begin the break, unless the break has begun already."""
        if not self.breaking:
            self.breaking, self.deadline = True, now_s + limits.OPLOCK_BREAK_TIMEOUT_S
            self.holder.oplock_broken()

    def is_late(self, now_s: float) -> bool:
        """Return whether the holder has taken too long to acknowledge the break."""
        return self.breaking and now_s >= self.deadline

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters[waiter] = None

    def remove_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters.pop(waiter, None)

    def wake(self) -> None:
        """Let the CREATEs that wait try again, the oldest first, because the oplock has ended."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter()


def opens_data(access: int, disposition: int) -> bool:
    """Return whether a CREATE with this access breaks an oplock."""
    return bool(access & ~_ATTRIBUTES_ONLY) or disposition not in _KEEPS_CONTENT
