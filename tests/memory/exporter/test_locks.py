"""LOCK on disks: what a lock keeps others from, how a lock waits, and which requests are refused."""

import pytest

from meshfs import limits
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    Command,
    Flags,
    LockFlags,
    NtStatus,
)
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    FileId,
    LockElement,
    LockRequest,
)
from meshlab.smb.raw_initiator import RawInitiator
from meshlab.smb.raw_messages import read_body, write_body
from support.two_disks import another, client_of_two_disks

EXCLUSIVE, SHARED = int(LockFlags.EXCLUSIVE_LOCK), int(LockFlags.SHARED_LOCK)
NOW, UNLOCK = int(LockFlags.FAIL_IMMEDIATELY), int(LockFlags.UNLOCK)


@pytest.fixture
def client():
    return client_of_two_disks()


# --- LOCK ------------------------------------------------------------------------------


def lock_body(file_id: int, *elements: tuple[int, int, int]) -> bytes:
    return LockRequest(FileId(file_id, file_id), tuple(LockElement(*element) for element in elements)).pack()


def test_locks_keep_others_off_their_range(client):
    other = another(client)
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE | NOW))).status == 0
    assert other.call(Command.READ, read_body(theirs, 99, 1)).status == NtStatus.FILE_LOCK_CONFLICT
    assert other.call(Command.WRITE, write_body(theirs, 50, b"x")).status == NtStatus.FILE_LOCK_CONFLICT
    assert other.call(Command.READ, read_body(theirs, 100, 1)).status == 0
    assert client.call(Command.WRITE, write_body(mine, 50, b"x")).status == 0
    refused = other.call(Command.LOCK, lock_body(theirs, (200, 1, SHARED | NOW), (0, 1, SHARED | NOW)))
    assert refused.status == NtStatus.LOCK_NOT_GRANTED
    assert client.call(Command.LOCK, lock_body(mine, (200, 1, EXCLUSIVE | NOW))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK))).status == NtStatus.RANGE_NOT_LOCKED
    assert other.call(Command.READ, read_body(theirs, 99, 1)).status == 0


def test_empty_reads_and_writes_ignore_locks(client):
    """Windows answers in the same way (smbtorture's smb2.lock.zerobyteread)."""
    other = another(client)
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE | NOW))).status == 0
    assert other.call(Command.READ, read_body(theirs, 50, 0)).status == 0
    assert other.call(Command.WRITE, write_body(theirs, 50, b"")).status == 0


def test_unlocks_before_a_wrong_element_take_effect(client):
    """MS-SMB2 3.3.5.14.1 has it like this, and smbtorture's smb2.lock.multiple-unlock tests it."""
    mine = client.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 1, EXCLUSIVE | NOW), (5, 1, EXCLUSIVE | NOW))).status == 0
    mixed = lock_body(mine, (0, 1, UNLOCK), (7, 1, EXCLUSIVE | NOW), (5, 1, UNLOCK))
    assert client.call(Command.LOCK, mixed).status == NtStatus.INVALID_PARAMETER
    assert client.call(Command.LOCK, lock_body(mine, (0, 1, EXCLUSIVE | NOW))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (5, 1, EXCLUSIVE | NOW))).status == NtStatus.LOCK_NOT_GRANTED


def wait_for_lock(client: RawInitiator, other: RawInitiator) -> tuple[int, int, int]:
    """Return the open that holds a lock, the open that waits for it, and the message id of the waiting request."""
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE))).status == 0
    message_id = other.send(Command.LOCK, lock_body(theirs, (50, 1, EXCLUSIVE)), credits=5)
    interim = other.take(message_id)
    assert interim.status == NtStatus.PENDING
    assert interim.flags & Flags.ASYNC_COMMAND
    assert interim.credits > 0
    # Two signatures under one message id would be two messages under one nonce of GMAC.
    assert interim.protection == Protection.NONE
    return mine, theirs, message_id


def test_a_waiting_lock_is_granted_when_the_holder_unlocks(client):
    other = another(client)
    mine, _, message_id = wait_for_lock(client, other)
    client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK)))
    other.collect()
    final = other.take(message_id)
    assert (final.status, final.credits, final.protection) == (0, 0, Protection.SIGNED)
    assert final.flags & Flags.ASYNC_COMMAND
    assert not other.peer.waiting


def test_a_waiting_lock_is_granted_when_the_connection_of_the_holder_is_lost(client):
    other = another(client)
    _, _, message_id = wait_for_lock(client, other)
    client.peer.lost()
    other.collect()
    assert other.take(message_id).status == 0


def test_a_lock_that_waits_can_be_cancelled(client):
    other = another(client)
    _, _, message_id = wait_for_lock(client, other)
    async_id = next(iter(other.peer.waiting))
    other.send(Command.CANCEL, CancelRequest().pack(), message_id=message_id, flags=2, async_id=async_id)
    assert other.take(message_id).status == NtStatus.CANCELLED
    assert not client.exporter.disks.all()[0].lock_waiters


def test_closing_ends_a_lock_that_waits(client):
    other = another(client)
    _, theirs, message_id = wait_for_lock(client, other)
    assert other.call(Command.CLOSE, CloseRequest(FileId(theirs, theirs)).pack()).status == 0
    assert other.take(message_id).status == NtStatus.RANGE_NOT_LOCKED


@pytest.mark.parametrize(
    ("elements", "status"),
    [
        ((), NtStatus.INVALID_PARAMETER),
        (((0, 1, 0),), NtStatus.INVALID_PARAMETER),
        (((0, 1, EXCLUSIVE | SHARED),), NtStatus.INVALID_PARAMETER),
        (((0, 1, EXCLUSIVE), (5, 1, EXCLUSIVE)), NtStatus.INVALID_PARAMETER),
        (((0, 1, UNLOCK), (5, 1, EXCLUSIVE | NOW)), NtStatus.RANGE_NOT_LOCKED),
        (((0, 1, UNLOCK | NOW),), NtStatus.INVALID_PARAMETER),
        ((((1 << 64) - 1, 2, EXCLUSIVE | NOW),), NtStatus.INVALID_LOCK_RANGE),
        (((0, 1, 0xFFFFFFFF),), NtStatus.INVALID_PARAMETER),
    ],
)
def test_locks_that_make_no_sense_are_refused_and_none_is_left(client, elements, status):
    assert client.call(Command.LOCK, lock_body(client.open("disk0"), *elements)).status == status
    assert not client.exporter.disks.all()[0].locks


def test_locks_of_an_open_and_requests_that_wait_are_limited(client, monkeypatch):
    monkeypatch.setattr(limits, "LOCKS_PER_OPEN_MAX", 2)
    monkeypatch.setattr(limits, "ASYNC_PER_CONNECTION_MAX", 1)
    mine = client.open("disk0")
    two = [(index, 1, EXCLUSIVE | NOW) for index in range(2)]
    assert client.call(Command.LOCK, lock_body(mine, *two)).status == 0
    reply = client.call(Command.LOCK, lock_body(mine, (9, 1, EXCLUSIVE | NOW)))
    assert reply.status == NtStatus.INSUFFICIENT_RESOURCES
    theirs = client.open("disk0")
    waiting = lock_body(theirs, (0, 1, EXCLUSIVE))
    assert client.call(Command.LOCK, waiting).status == NtStatus.PENDING
    assert client.call(Command.LOCK, waiting).status == NtStatus.INSUFFICIENT_RESOURCES
