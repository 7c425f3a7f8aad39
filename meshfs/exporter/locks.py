"""Byte-range locks of one disk or file (MS-FSA 2.1.4.10, 2.1.5.7, 2.1.5.8). Pure.

Locks are mandatory: a READ or WRITE of another open inside an exclusive lock fails, a WRITE
inside a shared lock fails whoever holds it. The owner is the open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

OFFSET_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` may be 0: such a lock stands between two bytes."""

    offset: int
    length: int

    @property
    def valid(self) -> bool:
        """The last byte has an offset of 64 bits."""
        return self.length == 0 or self.offset + self.length - 1 <= OFFSET_MAX

    def overlaps(self, offset: int, length: int) -> bool:
        if not self.length and not length:
            return False
        if not self.length:
            return offset < self.offset < offset + length
        if not length:
            return self.offset < offset < self.offset + self.length
        return offset < self.offset + self.length and self.offset < offset + length


@dataclass(frozen=True, slots=True)
class Lock:
    owner: object
    range: ByteRange
    exclusive: bool


class LockTable:
    """The granted locks of one disk or file."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: list[Lock] = []

    def __len__(self) -> int:
        return len(self._locks)

    def count(self, owner: object) -> int:
        return sum(lock.owner is owner for lock in self._locks)

    def can_read(self, owner: object, offset: int, length: int) -> bool:
        return not any(
            lock.exclusive and lock.owner is not owner and lock.range.overlaps(offset, length) for lock in self._locks
        )

    def can_write(self, owner: object, offset: int, length: int) -> bool:
        return not any(
            not (lock.exclusive and lock.owner is owner) and lock.range.overlaps(offset, length) for lock in self._locks
        )

    def try_lock(self, lock: Lock) -> bool:
        """Grant it, or False when another one is in its way.

        A shared lock may stand on shared ones and on its owner's exclusive ones; an exclusive
        one on none, not even its owner's.
        """
        for held in self._locks:
            if not held.range.overlaps(lock.range.offset, lock.range.length):
                continue
            if lock.exclusive or (held.exclusive and held.owner is not lock.owner):
                return False
        self._locks.append(lock)
        return True

    def unlock(self, owner: object, wanted: ByteRange) -> bool:
        """Release the owner's newest lock of exactly that range, an exclusive one first; False when there is none."""
        mine = [index for index, lock in enumerate(self._locks) if lock.owner is owner and lock.range == wanted]
        if not mine:
            return False
        del self._locks[max(mine, key=lambda index: (self._locks[index].exclusive, index))]
        return True

    def release(self, owner: object) -> bool:
        """Drop all locks of an open that ends; whether it had any."""
        before = len(self._locks)
        self._locks = [lock for lock in self._locks if lock.owner is not owner]
        return len(self._locks) != before


class Lockable:
    """What has byte-range locks: a disk, or a scratch file."""

    __slots__ = ("lock_waiters", "locks")

    def __init__(self) -> None:
        self.locks = LockTable()
        #: Called one after the other when a lock went; those that got theirs return True.
        self.lock_waiters: list[Callable[[], bool]] = []

    def wake_lock_waiters(self) -> None:
        """Locks went: try the waiting ones, the oldest first."""
        self.lock_waiters = [waiter for waiter in self.lock_waiters if not waiter()]
