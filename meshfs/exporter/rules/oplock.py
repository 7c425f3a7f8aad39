"""Oplocks of scratch files: who may cache one, and who waits for that to end (MS-FSA 2.1.4.12, 2.1.5.18).

A file has at most one, exclusive or batch, of its only open, and it is broken to none: whoever
opens the file next waits until the holder has acknowledged, closed, or taken too long. Level II
and leases are not granted, which an exporter may always do (MS-SMB2 3.3.5.9). Pure: sending the
notification and the waiting request are the caller's.
"""

from collections.abc import Callable
from typing import Final, Protocol

from meshfs import limits
from meshfs.smb.constants import AccessMask, CreateDisposition, OplockLevel

#: An open with no more than these does not see what a holder caches.
_ATTRIBUTES_ONLY: Final = int(AccessMask.READ_ATTRIBUTES | AccessMask.WRITE_ATTRIBUTES | AccessMask.SYNCHRONIZE)
GRANTED_LEVELS: Final = (OplockLevel.EXCLUSIVE, OplockLevel.BATCH)
_KEEPS_CONTENT: Final = (CreateDisposition.OPEN, CreateDisposition.OPEN_IF)


class Holder(Protocol):
    """The open that has the oplock."""

    def oplock_broken(self) -> None:
        """Told once, when the break begins."""

    def drop_oplock(self) -> None:
        """It is over, acknowledged or not."""


class Oplock:
    """One granted oplock. ``deadline`` is in force while it is being broken."""

    __slots__ = ("_waiters", "breaking", "deadline", "holder", "level")

    def __init__(self, holder: Holder, level: int) -> None:
        self.holder = holder
        self.level = level
        self.breaking = False
        self.deadline = 0.0
        #: The oldest first.
        self._waiters: dict[Callable[[], None], None] = {}

    def breaks_before_sharing(self) -> bool:
        """A batch oplock may stand for a closed file: it goes before share access is looked at."""
        return self.level == OplockLevel.BATCH

    def start_break(self, now_s: float) -> None:
        """Tell the holder, unless it was told before."""
        if not self.breaking:
            self.breaking, self.deadline = True, now_s + limits.OPLOCK_BREAK_TIMEOUT_S
            self.holder.oplock_broken()

    def is_late(self, now_s: float) -> bool:
        return self.breaking and now_s >= self.deadline

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters[waiter] = None

    def remove_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters.pop(waiter, None)

    def wake(self) -> None:
        """It is gone: let those that wait try again, the oldest first."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter()


def opens_data(access: int, disposition: int) -> bool:
    """Whether a CREATE with this access breaks an oplock."""
    return bool(access & ~_ATTRIBUTES_ONLY) or disposition not in _KEEPS_CONTENT
