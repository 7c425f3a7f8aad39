"""Keeps the byte-range locks of one disk or file (MS-FSA 2.1.4.10, 2.1.5.7, 2.1.5.8). Pure.

Locks are mandatory. Inside an exclusive lock every READ and WRITE of another open fails. Inside a shared lock every
WRITE fails, even a WRITE of the open that holds the lock. The owner of a lock is an open.

A node may hold thousands of locks, and every READ and WRITE of every node checks them. So a check must not walk through
all locks. A range [a, b) overlaps a lock [s, e) if s < b and e > a. Of the locks that begin before b, those that end at
or before a do not overlap. Each of these also begins before b. So the number of locks that overlap is the difference
of two counts. Two sorted lists give each count by bisection, even if the locks overlap each other:

    overlapping [a, b)  =  (locks with s < b)  -  (locks with e <= a)

    locks [0, 10) and [5, 20), range [12, 15):   2 begin before 15, 1 ends at or before 12:   1 overlaps

A lock of length 0 stands between two bytes, at x, and overlaps if a < x < b. A third list counts these locks.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

from sortedcontainers import SortedList

OFFSET_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Represents a range of bytes. A range of length 0 stands between two bytes."""

    offset: int
    length: int

    @property
    def valid(self) -> bool:
        """Return whether the offset of the last byte fits into 64 bits."""
        return self.length == 0 or self.offset + self.length - 1 <= OFFSET_MAX

    def touches(self, other: Self) -> bool:
        """Return whether the two ranges overlap or lie side by side. Ranges that do neither cannot conflict."""
        return self.offset <= other.offset + other.length and other.offset <= self.offset + self.length

    def joined(self, other: Self | None) -> Self:
        """Return the smallest range that contains both ranges."""
        if other is None:
            return self
        offset = min(self.offset, other.offset)
        return type(self)(offset, max(self.offset + self.length, other.offset + other.length) - offset)


@dataclass(frozen=True, slots=True)
class Lock:
    """Represents one byte-range lock that is held."""

    owner: object
    range: ByteRange
    exclusive: bool


class _Sorted(Protocol):
    """Declares what `_Ranges` needs of its three lists."""

    def add(self, value: int) -> None: ...
    def remove(self, value: int) -> None: ...
    def bisect_left(self, value: int) -> int: ...
    def bisect_right(self, value: int) -> int: ...
    def __len__(self) -> int: ...


class _ShortSortedList(list[int]):
    """Takes a tenth of the memory of a SortedList. An insertion moves values, so the list has at most a thousand."""

    __slots__ = ()

    def add(self, value: int) -> None:
        insort(self, value)

    def remove(self, value: int) -> None:
        del self[bisect_left(self, value)]

    def bisect_left(self, value: int) -> int:
        return bisect_left(self, value)

    def bisect_right(self, value: int) -> int:
        return bisect_right(self, value)


class _Ranges:
    """Holds ranges that may overlap each other, and counts the ranges that overlap a given one."""

    __slots__ = ("_ends", "_points", "_starts")

    def __init__(self, make: Callable[[], _Sorted]) -> None:
        self._starts = make()
        self._ends = make()
        self._points = make()

    def __len__(self) -> int:
        return len(self._starts) + len(self._points)

    def add(self, wanted: ByteRange) -> None:
        if wanted.length:
            self._starts.add(wanted.offset)
            self._ends.add(wanted.offset + wanted.length)
        else:
            self._points.add(wanted.offset)

    def remove(self, held: ByteRange) -> None:
        if held.length:
            self._starts.remove(held.offset)
            self._ends.remove(held.offset + held.length)
        else:
            self._points.remove(held.offset)

    def overlapping(self, offset: int, length: int) -> int:
        """Return how many ranges overlap the given one. A given range of length 0 is overlapped by ranges around it."""
        if not length:
            return self._starts.bisect_left(offset) - self._ends.bisect_right(offset)
        end = offset + length
        count = self._starts.bisect_left(end) - self._ends.bisect_right(offset)
        if self._points:
            count += self._points.bisect_left(end) - self._points.bisect_right(offset)
        return count


class _Owned:
    """Holds the locks of one owner.

    exclusive   the ranges of the owner's exclusive locks
    counts      the number of the owner's locks of each range and kind (exclusive or not)
    """

    __slots__ = ("counts", "exclusive", "total")

    def __init__(self) -> None:
        self.exclusive = _Ranges(_ShortSortedList)
        self.counts: Counter[tuple[ByteRange, bool]] = Counter()
        self.total = 0


class LockTable:
    """Holds the granted locks of one disk or file."""

    __slots__ = ("_exclusive", "_owned", "_shared", "_total")

    def __init__(self) -> None:
        self._exclusive = _Ranges(SortedList)
        self._shared = _Ranges(SortedList)
        self._owned: dict[object, _Owned] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def count(self, owner: object) -> int:
        owned = self._owned.get(owner)
        return owned.total if owned is not None else 0

    def can_read(self, owner: object, offset: int, length: int) -> bool:
        """Return whether no other owner's exclusive lock overlaps the range."""
        overlapping = self._exclusive.overlapping(offset, length)
        if not overlapping:
            return True
        owned = self._owned.get(owner)
        return owned is not None and owned.exclusive.overlapping(offset, length) == overlapping

    def can_write(self, owner: object, offset: int, length: int) -> bool:
        """Return whether the only locks that overlap the range are exclusive locks of the owner."""
        return not self._shared.overlapping(offset, length) and self.can_read(owner, offset, length)

    def try_lock(self, lock: Lock) -> bool:
        """Grant a lock. Return False if another lock conflicts.

        A shared lock may overlap shared locks, and exclusive locks of its owner. An exclusive lock may overlap no other
        lock, not even one of its owner.
        """
        offset, length = lock.range.offset, lock.range.length
        if lock.exclusive:
            if self._exclusive.overlapping(offset, length) or self._shared.overlapping(offset, length):
                return False
        elif not self.can_read(lock.owner, offset, length):
            return False
        self._add(lock)
        return True

    def _add(self, lock: Lock) -> None:
        owned = self._owned.get(lock.owner)
        if owned is None:
            owned = self._owned[lock.owner] = _Owned()
        owned.counts[lock.range, lock.exclusive] += 1
        owned.total += 1
        self._total += 1
        if lock.exclusive:
            owned.exclusive.add(lock.range)
            self._exclusive.add(lock.range)
        else:
            self._shared.add(lock.range)

    def remove(self, lock: Lock) -> bool:
        """Release one lock of exactly this owner, range and kind. Return False if there is none."""
        owned = self._owned.get(lock.owner)
        key = lock.range, lock.exclusive
        if owned is None or not owned.counts[key]:
            return False
        owned.counts[key] -= 1
        if not owned.counts[key]:
            del owned.counts[key]
        owned.total -= 1
        self._total -= 1
        if lock.exclusive:
            owned.exclusive.remove(lock.range)
            self._exclusive.remove(lock.range)
        else:
            self._shared.remove(lock.range)
        if not owned.total:
            del self._owned[lock.owner]
        return True

    def unlock(self, owner: object, wanted: ByteRange) -> bool:
        """Release a lock of the owner with exactly that range, an exclusive one first. Return False if it has none."""
        return self.remove(Lock(owner, wanted, True)) or self.remove(Lock(owner, wanted, False))

    def release(self, owner: object) -> ByteRange | None:
        """Release all locks of an owner. Return the smallest range that contains them, or None if it had none."""
        owned = self._owned.pop(owner, None)
        if owned is None:
            return None
        freed: ByteRange | None = None
        for (held, exclusive), count in owned.counts.items():
            ranges = self._exclusive if exclusive else self._shared
            for _ in range(count):
                ranges.remove(held)
            freed = held.joined(freed)
        self._total -= owned.total
        return freed


class LockWaiter:
    """Represents a LOCK that waits for locks to be released. ``retry`` returns whether the wait is over."""

    __slots__ = ("range", "retry")

    def __init__(self, wanted: ByteRange, retry: Callable[[], bool]) -> None:
        self.range = wanted
        self.retry = retry


class Lockable:
    """Is the base of a disk and of a scratch file, which both have byte-range locks."""

    __slots__ = ("lock_waiters", "locks")

    def __init__(self) -> None:
        self.locks = LockTable()
        #: The LOCKs that wait, the oldest first.
        self.lock_waiters: dict[LockWaiter, None] = {}

    def wait_for_lock(self, wanted: ByteRange, retry: Callable[[], bool]) -> LockWaiter:
        """Call ``retry`` whenever a lock that may conflict with the wanted range is released."""
        waiter = LockWaiter(wanted, retry)
        self.lock_waiters[waiter] = None
        return waiter

    def wake_lock_waiters(self, freed: ByteRange) -> None:
        """Have the LOCKs that wait for a range in ``freed`` try again, the oldest first, because locks were released.

        Nothing has changed for other LOCKs, because a lock conflicts only with ranges that it overlaps.
        """
        for waiter in [waiter for waiter in self.lock_waiters if waiter.range.touches(freed)]:
            # The answer to one LOCK may have ended the wait of another.
            if waiter in self.lock_waiters and waiter.retry():
                self.lock_waiters.pop(waiter, None)
