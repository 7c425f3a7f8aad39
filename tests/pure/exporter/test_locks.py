"""Byte-range locks and share access: pure decisions of the exporter."""

import pytest

from meshfs.exporter.rules.access import READ_RIGHTS, WRITE_RIGHTS, expand_access
from meshfs.exporter.rules.locks import ByteRange, Lock, LockTable
from meshfs.exporter.rules.share_access import ShareCounts
from meshfs.smb.constants import AccessMask, ShareAccess

READ, WRITE, DELETE = int(AccessMask.READ_DATA), int(AccessMask.WRITE_DATA), int(AccessMask.DELETE)
R, W, D = int(ShareAccess.READ), int(ShareAccess.WRITE), int(ShareAccess.DELETE)


def exclusive(owner, offset, length):
    return Lock(owner, ByteRange(offset, length), True)


def shared(owner, offset, length):
    return Lock(owner, ByteRange(offset, length), False)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ((0, 10), (5, 10), True),
        ((0, 10), (10, 10), False),
        ((10, 10), (0, 10), False),
        ((0, 10), (0, 10), True),
        ((0, 100), (10, 1), True),
        ((5, 0), (0, 10), True),
        ((0, 0), (0, 10), False),
        ((10, 0), (0, 10), False),
        ((5, 0), (5, 0), False),
        ((0, 10), (5, 0), True),
        (((1 << 64) - 1, 1), ((1 << 64) - 2, 2), True),
    ],
)
def test_only_exclusive_locks_of_others_refuse_an_overlap(one, other, overlap):
    """An exclusive lock of another owner refuses only locks whose ranges overlap its range."""
    table = LockTable()
    assert table.try_lock(exclusive("a", *one))
    assert table.try_lock(exclusive("b", *other)) is not overlap


def test_a_range_ends_within_64_bits():
    assert ByteRange((1 << 64) - 1, 1).valid
    assert ByteRange((1 << 64) - 1, 0).valid
    assert not ByteRange((1 << 64) - 1, 2).valid


def test_exclusive_locks_keep_all_others_off():
    table = LockTable()
    assert table.try_lock(exclusive("a", 0, 10))
    assert not table.try_lock(exclusive("b", 5, 1))
    assert not table.try_lock(exclusive("a", 5, 1))
    assert not table.try_lock(shared("b", 5, 1))
    assert table.try_lock(shared("a", 5, 1))
    assert table.try_lock(exclusive("b", 10, 1))


def test_shared_locks_stand_together():
    table = LockTable()
    assert table.try_lock(shared("a", 0, 10))
    assert table.try_lock(shared("b", 0, 10))
    assert not table.try_lock(exclusive("a", 9, 1))


def test_what_locks_mean_for_reading_and_writing():
    table = LockTable()
    table.try_lock(exclusive("a", 0, 10))
    table.try_lock(shared("a", 20, 10))
    assert table.can_read("a", 0, 10)
    assert table.can_write("a", 0, 10)
    assert not table.can_read("b", 9, 1)
    assert not table.can_write("b", 9, 1)
    assert table.can_read("b", 20, 10)
    assert not table.can_write("b", 20, 10)
    assert not table.can_write("a", 20, 10)
    assert table.can_write("b", 10, 10)


def test_unlock_takes_exactly_the_range():
    table = LockTable()
    table.try_lock(exclusive("a", 0, 10))
    assert not table.unlock("a", ByteRange(0, 9))
    assert not table.unlock("b", ByteRange(0, 10))
    assert table.unlock("a", ByteRange(0, 10))
    assert not table.unlock("a", ByteRange(0, 10))
    assert len(table) == 0


def test_of_stacked_locks_the_exclusive_one_goes_first():
    """MS-FSA 2.1.5.8; smb2.lock.unlock"""
    table = LockTable()
    assert table.try_lock(exclusive("me", 0, 10))
    assert table.try_lock(shared("me", 0, 10))
    assert not table.try_lock(shared("other", 5, 1))
    assert table.unlock("me", ByteRange(0, 10))
    assert table.try_lock(shared("other", 5, 1))
    assert not table.try_lock(exclusive("third", 0, 1))
    assert table.unlock("me", ByteRange(0, 10))
    assert not table.unlock("me", ByteRange(0, 10))
    assert table.try_lock(exclusive("third", 0, 1))


def test_release_drops_all_of_an_owner():
    table = LockTable()
    for offset in range(5):
        table.try_lock(exclusive("a", offset, 1))
    table.try_lock(exclusive("b", 100, 1))
    assert table.count("a") == 5
    assert table.release("a") == ByteRange(0, 5)
    assert table.release("a") is None
    assert len(table) == 1


@pytest.mark.parametrize(
    ("access", "share", "held", "conflict"),
    [
        (READ, R, [], False),
        (READ, R | W, [(READ | WRITE, R)], False),
        (READ, R, [(WRITE, R | W)], True),
        (WRITE, R | W | D, [(READ, R)], True),
        (READ, 0, [(READ, R | W | D)], True),
        (READ, R | W | D, [(READ, 0)], True),
        (DELETE, R | W | D, [(READ, R | W)], True),
        (int(AccessMask.READ_ATTRIBUTES), 0, [(READ | WRITE, 0)], False),
        (READ | WRITE, 0, [(int(AccessMask.READ_ATTRIBUTES), 0)], False),
        (int(AccessMask.EXECUTE), R, [(READ, W)], True),
        (int(AccessMask.APPEND_DATA), R | W, [(READ, R)], True),
    ],
)
def test_share_access(access, share, held, conflict):
    counts = ShareCounts()
    for other in held:
        counts.add(*other)
    assert counts.conflicts(access, share) is conflict
    for other in held:
        counts.remove(*other)
    assert not counts.conflicts(access, share)


def test_generic_rights_become_a_disks_rights():
    allowed = int(READ_RIGHTS)
    assert expand_access(AccessMask.GENERIC_READ, allowed) & AccessMask.READ_DATA
    assert not expand_access(AccessMask.GENERIC_READ, allowed) & WRITE_RIGHTS
    assert expand_access(AccessMask.GENERIC_WRITE, allowed) & AccessMask.WRITE_DATA
    assert expand_access(AccessMask.MAXIMUM_ALLOWED, allowed) == allowed
    everything = expand_access(AccessMask.GENERIC_ALL | AccessMask.GENERIC_EXECUTE, allowed)
    assert everything == READ_RIGHTS | WRITE_RIGHTS
    assert expand_access(AccessMask.DELETE, allowed) == AccessMask.DELETE
