"""Locks and share access, compared with lists that are searched, and the cost of a check beside many locks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs.exporter.rules.locks import ByteRange, Lock, Lockable, LockTable
from meshfs.exporter.rules.share_access import ShareCounts
from meshfs.smb.constants import AccessMask, ShareAccess
from support.lock_model import CountingInt, LockModel, shares_conflict

OWNERS = st.sampled_from(["a", "b", "c"])
TOP = 1 << 64
#: The numbers are small, so that ranges often overlap, and some are the last bytes that exist.
RANGES = st.builds(ByteRange, st.integers(0, 12), st.integers(0, 6)) | st.builds(
    lambda length, before: ByteRange(TOP - length - before, length), st.integers(0, 4), st.integers(1, 3)
)
LOCKS = st.builds(Lock, OWNERS, RANGES, st.booleans())
STEPS = st.lists(st.tuples(st.sampled_from(["lock", "wait", "unlock", "remove", "release"]), LOCKS), max_size=40)


class Both:
    """A `Lockable` and a list of locks that get the same calls. Each step checks that both give the same answers."""

    def __init__(self) -> None:
        self.target = Lockable()
        self.model = LockModel()
        self._waited = 0
        self._granted: list[int] = []

    def lock(self, lock: Lock) -> bool:
        got = self.target.locks.try_lock(lock)
        assert got is self.model.try_lock(lock)
        return got

    def wait(self, lock: Lock) -> None:
        if self.lock(lock):
            return
        self._waited += 1
        number = self._waited

        def retry() -> bool:
            got = self.target.locks.try_lock(lock)
            if got:
                self._granted.append(number)
            return got

        self.target.wait_for_lock(lock.range, retry)
        self.model.waiting.append((number, lock))

    def unlock(self, lock: Lock) -> None:
        done = self.target.locks.unlock(lock.owner, lock.range)
        assert done is self.model.unlock(lock.owner, lock.range)
        self._wake(lock.range if done else None)

    def remove(self, lock: Lock) -> None:
        done = self.target.locks.remove(lock)
        assert done is self.model.remove(lock)
        self._wake(lock.range if done else None)

    def release(self, lock: Lock) -> None:
        freed = self.target.locks.release(lock.owner)
        assert (freed is not None) is self.model.release(lock.owner)
        self._wake(freed)

    def _wake(self, freed: ByteRange | None) -> None:
        if freed is not None:
            self._granted.clear()
            self.target.wake_lock_waiters(freed)
            assert self._granted == self.model.wake()
            assert len(self.target.lock_waiters) == len(self.model.waiting)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.lists(st.tuples(OWNERS, RANGES), max_size=10))
def test_a_table_does_what_a_list_of_locks_does(steps, questions):
    """The same locks are granted, refused and released.

    The same of the waiting requests get their locks, in the same order.
    """
    both = Both()
    table, model = both.target.locks, both.model
    for name, lock in steps:
        getattr(both, name)(lock)
        assert len(table) == len(model.locks)
        assert all(table.count(owner) == model.count(owner) for owner in ("a", "b", "c"))
    for owner, asked in questions:
        assert table.can_read(owner, asked.offset, asked.length) is model.can_read(owner, asked.offset, asked.length)
        assert table.can_write(owner, asked.offset, asked.length) is model.can_write(owner, asked.offset, asked.length)


@given(st.lists(LOCKS, max_size=30))
def test_a_table_without_locks_keeps_nothing(locks):
    table = LockTable()
    held = [lock for lock in locks if table.try_lock(lock)]
    for lock in held:
        assert table.remove(lock)
    assert len(table) == 0
    assert not table._owned
    assert not table._exclusive
    assert not table._shared


def _compared(table: LockTable, offset: int) -> int:
    """Return how many comparisons a READ, a WRITE, and a LOCK with its UNLOCK cost, each by another owner."""
    CountingInt.compared = 0
    assert table.can_read("reader", CountingInt(offset), CountingInt(10))
    assert table.can_write("reader", CountingInt(offset), CountingInt(10))
    wanted = ByteRange(CountingInt(offset), CountingInt(10))
    assert table.try_lock(Lock("reader", wanted, True))
    assert table.unlock("reader", wanted)
    return CountingInt.compared


def test_a_question_beside_100000_locks_costs_little_more_than_beside_100():
    """The cost is the logarithm of the number of locks.

    A list is searched from end to end, with 100,000 comparisons.
    """
    costs = {}
    for count in (100, 100_000):
        table = LockTable()
        for index in range(count):
            assert table.try_lock(Lock(index % 100, ByteRange(100 * index, 50), bool(index % 2)))
        costs[count] = _compared(table, 100 * (count // 2) + 60)
    assert 0 < costs[100] < costs[100_000] < 3 * costs[100]


def test_a_lock_that_goes_wakes_only_those_that_wait_for_its_bytes():
    """Of a thousand requests that wait for other locks, none is tried."""
    target, tried = Lockable(), []
    for index in range(1000):
        assert target.locks.try_lock(Lock("holder", ByteRange(100 * index, 50), True))
        target.wait_for_lock(ByteRange(100 * index + 10, 10), lambda index=index: tried.append(index))
    freed = ByteRange(500, 50)
    assert target.locks.unlock("holder", freed)
    target.wake_lock_waiters(freed)
    assert tried == [5]


ACCESS = st.integers(0, 15).map(
    lambda bits: (
        (bits & 1 and AccessMask.READ_DATA)
        | (bits & 2 and AccessMask.WRITE_DATA)
        | (bits & 4 and AccessMask.DELETE)
        | (bits & 8 and AccessMask.READ_ATTRIBUTES)
        | (bits == 9 and AccessMask.EXECUTE)
        | (bits == 10 and AccessMask.APPEND_DATA)
    )
)
SHARE = st.integers(0, int(ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE))
OPENS = st.tuples(ACCESS.map(int), SHARE)


@settings(max_examples=400, deadline=None)
@given(st.lists(OPENS, max_size=8), st.lists(OPENS, max_size=8), OPENS)
def test_counts_of_opens_say_what_looking_at_each_of_them_says(stay, go, wanted):
    counts = ShareCounts()
    for opened in (*stay, *go):
        counts.add(*opened)
    assert counts.conflicts(*wanted) is shares_conflict(*wanted, [*stay, *go])
    for opened in go:
        counts.remove(*opened)
    assert counts.conflicts(*wanted) is shares_conflict(*wanted, stay)
