"""Byte-range locks and share access as lists that are searched. Tests compare the exporter's locks with this model."""

from dataclasses import dataclass, field
from typing import Any

from meshfs.exporter.rules.locks import ByteRange, Lock
from meshfs.smb.constants import AccessMask, ShareAccess

_READS = int(AccessMask.READ_DATA | AccessMask.EXECUTE)
_WRITES = int(AccessMask.WRITE_DATA | AccessMask.APPEND_DATA)
_DELETES = int(AccessMask.DELETE)


def overlaps(held: ByteRange, offset: int, length: int) -> bool:
    if not held.length and not length:
        return False
    if not held.length:
        return offset < held.offset < offset + length
    if not length:
        return held.offset < offset < held.offset + held.length
    return offset < held.offset + held.length and held.offset < offset + length


@dataclass
class LockModel:
    """Holds the granted locks, the oldest first, and those that wait."""

    locks: list[Lock] = field(default_factory=list)
    waiting: list[tuple[int, Lock]] = field(default_factory=list)

    def count(self, owner: object) -> int:
        return sum(lock.owner == owner for lock in self.locks)

    def can_read(self, owner: object, offset: int, length: int) -> bool:
        return not any(
            lock.exclusive and lock.owner != owner and overlaps(lock.range, offset, length) for lock in self.locks
        )

    def can_write(self, owner: object, offset: int, length: int) -> bool:
        return not any(
            not (lock.exclusive and lock.owner == owner) and overlaps(lock.range, offset, length) for lock in self.locks
        )

    def try_lock(self, lock: Lock) -> bool:
        for held in self.locks:
            if not overlaps(held.range, lock.range.offset, lock.range.length):
                continue
            if lock.exclusive or (held.exclusive and held.owner != lock.owner):
                return False
        self.locks.append(lock)
        return True

    def unlock(self, owner: object, wanted: ByteRange) -> bool:
        mine = [index for index, lock in enumerate(self.locks) if lock.owner == owner and lock.range == wanted]
        if not mine:
            return False
        del self.locks[max(mine, key=lambda index: (self.locks[index].exclusive, index))]
        return True

    def remove(self, lock: Lock) -> bool:
        if lock not in self.locks:
            return False
        self.locks.remove(lock)
        return True

    def release(self, owner: object) -> bool:
        before = len(self.locks)
        self.locks = [lock for lock in self.locks if lock.owner != owner]
        return len(self.locks) != before

    def wake(self) -> list[int]:
        """Try all that wait, the oldest first, and return those that got their locks."""
        granted = [number for number, lock in self.waiting if self.try_lock(lock)]
        self.waiting = [each for each in self.waiting if each[0] not in granted]
        return granted


def _permits(share: int, access: int) -> bool:
    return not (
        (access & _READS and not share & ShareAccess.READ)
        or (access & _WRITES and not share & ShareAccess.WRITE)
        or (access & _DELETES and not share & ShareAccess.DELETE)
    )


def shares_conflict(access: int, share: int, held: list[tuple[int, int]]) -> bool:
    """Return whether an open (access, share) conflicts with those held."""
    if not access & (_READS | _WRITES | _DELETES):
        return False
    for held_access, held_share in held:
        if not held_access & (_READS | _WRITES | _DELETES):
            continue
        if not _permits(held_share, access) or not _permits(share, held_access):
            return True
    return False


class CountingInt(int):
    """A number that counts how often it is compared, which measures a search in the same way on any machine."""

    compared = 0

    def __lt__(self, other: Any) -> bool:
        CountingInt.compared += 1
        return int(self) < int(other)

    def __gt__(self, other: Any) -> bool:
        CountingInt.compared += 1
        return int(self) > int(other)

    def __le__(self, other: Any) -> bool:
        CountingInt.compared += 1
        return int(self) <= int(other)

    def __ge__(self, other: Any) -> bool:
        CountingInt.compared += 1
        return int(self) >= int(other)

    def __add__(self, other: Any) -> "CountingInt":
        return CountingInt(int(self) + int(other))

    __radd__ = __add__
