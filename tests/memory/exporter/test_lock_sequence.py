"""A LOCK that is repeated after a lost channel succeeds, and is not carried out twice (MS-SMB2 3.3.5.14)."""

import pytest

from meshfs.exporter.rules.lock_sequence import ENTRIES, LockSequences
from meshfs.smb.constants import Capabilities, Command, Dialect, Flags, LockFlags, NtStatus
from meshfs.smb.messages import EchoRequest, FileId, LockElement, LockRequest
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import Reply, read_body

MULTICHANNEL = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION | Capabilities.MULTI_CHANNEL)
NOW = LockFlags.EXCLUSIVE_LOCK | LockFlags.FAIL_IMMEDIATELY
WAIT, UNLOCK = LockFlags.EXCLUSIVE_LOCK, LockFlags.UNLOCK
REPLAY = int(Flags.REPLAY_OPERATION)
ONE = 1 << 4


@pytest.fixture
def client() -> RawInitiator:
    return log_in(RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20))))


def log_in(client: RawInitiator, dialect: int = Dialect.SMB_3_1_1, capabilities: int = MULTICHANNEL) -> RawInitiator:
    client.log_in(dialects=(dialect,), capabilities=capabilities, to_be_bound=True)
    client.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return client


def channel_of(client: RawInitiator) -> RawInitiator:
    channel = RawInitiator(client.exporter)
    second_channel(client, channel, capabilities=MULTICHANNEL)
    channel.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return channel


def body(file_id: int, flags: int, sequence: int = 0, *, offset: int = 0, length: int = 100, count: int = 1) -> bytes:
    locks = tuple(LockElement(offset + length * index, length, int(flags)) for index in range(count))
    return LockRequest(FileId(file_id, file_id), locks, sequence).pack()


def lock(client: RawInitiator, file_id: int, flags: int, sequence: int = 0, **fields: int) -> int:
    return client.call(Command.LOCK, body(file_id, flags, sequence, **fields)).status


def is_locked(client: RawInitiator) -> bool:
    """Return whether a lock keeps another node from reading the first bytes."""
    other = RawInitiator(client.exporter).log_in("n3")
    status = other.call(Command.READ, read_body(other.open("disk0"), 0, 100)).status
    assert status in (0, NtStatus.FILE_LOCK_CONFLICT)
    return bool(status)


def answer(client: RawInitiator, message_id: int) -> Reply:
    client.collect()
    return client.take(message_id)


def count(client: RawInitiator, file_id: int) -> int:
    (session,) = (each for each in client.exporter.sessions.values() if file_id in each.opens)
    opened = session.opens[file_id]
    return opened.disk.locks.count(opened)


def test_a_lock_and_an_unlock_repeated_on_another_channel_are_done_once(client: RawInitiator) -> None:
    file_id, channel = client.open("disk0"), channel_of(client)
    granted = body(file_id, NOW, ONE | 1, count=3)
    assert client.call(Command.LOCK, granted).status == 0
    client.peer.lost()
    assert channel.call(Command.LOCK, granted, flags=REPLAY, sequence=1).status == 0
    assert count(channel, file_id) == 3
    released = body(file_id, UNLOCK, 2 * ONE | 1, count=3)
    assert channel.call(Command.LOCK, released, sequence=1).status == 0
    assert channel.call(Command.LOCK, released, flags=REPLAY, sequence=2).status == 0
    assert count(channel, file_id) == 0
    assert not is_locked(channel)


def test_a_waiting_lock_is_repeated_while_the_first_still_waits(client: RawInitiator) -> None:
    """The exporter may not have noticed yet that the first connection is lost."""
    other = RawInitiator(client.exporter).log_in("n3")
    theirs = other.open("disk0")
    assert lock(other, theirs, NOW) == 0
    file_id, channel = client.open("disk0"), channel_of(client)
    waiting = body(file_id, WAIT, ONE | 5)
    first = client.send(Command.LOCK, waiting)
    assert client.take(first).status == NtStatus.PENDING
    second = channel.send(Command.LOCK, waiting, flags=REPLAY, sequence=1)
    assert channel.take(second).status == NtStatus.PENDING
    assert lock(other, theirs, UNLOCK) == 0
    assert (answer(client, first).status, answer(channel, second).status) == (0, 0)
    assert count(channel, file_id) == 1
    assert not client.exporter.disks.find("disk0", "n2").lock_waiters


def test_a_repeated_lock_succeeds_if_the_first_was_granted_on_a_lost_channel(client: RawInitiator) -> None:
    other = RawInitiator(client.exporter).log_in("n3")
    theirs = other.open("disk0")
    assert lock(other, theirs, NOW) == 0
    file_id, channel = client.open("disk0"), channel_of(client)
    waiting = body(file_id, WAIT, ONE | 5)
    client.send(Command.LOCK, waiting)
    assert lock(other, theirs, UNLOCK) == 0
    client.peer.lost()
    assert channel.call(Command.LOCK, waiting, flags=REPLAY, sequence=1).status == 0
    assert count(channel, file_id) == 1


def test_a_waiting_lock_is_repeated_after_the_first_was_given_up(client: RawInitiator) -> None:
    other = RawInitiator(client.exporter).log_in("n3")
    theirs = other.open("disk0")
    assert lock(other, theirs, NOW) == 0
    file_id, channel = client.open("disk0"), channel_of(client)
    waiting = body(file_id, WAIT, ONE | 5)
    client.send(Command.LOCK, waiting)
    client.peer.lost()
    second = channel.send(Command.LOCK, waiting, flags=REPLAY, sequence=1)
    assert channel.take(second).status == NtStatus.PENDING
    assert lock(other, theirs, UNLOCK) == 0
    assert answer(channel, second).status == 0
    assert count(channel, file_id) == 1


def test_a_lock_that_failed_is_tried_again(client: RawInitiator) -> None:
    file_id = client.open("disk0")
    refused = NtStatus.LOCK_NOT_GRANTED
    assert lock(client, file_id, UNLOCK, ONE | 1) == NtStatus.RANGE_NOT_LOCKED
    assert lock(client, file_id, NOW, ONE | 1) == 0
    assert [lock(client, file_id, NOW, ONE | 2) for _ in range(2)] == [refused, refused]
    # The exporter has forgotten the number that succeeded before, because another one used the entry meanwhile.
    assert lock(client, file_id, NOW, ONE | 1) == refused


def test_entries_are_of_one_open(client: RawInitiator) -> None:
    one, two = client.open("disk0"), client.open("disk0")
    assert lock(client, one, NOW, ONE | 1) == 0
    assert lock(client, two, NOW, ONE | 1) == NtStatus.LOCK_NOT_GRANTED


@pytest.mark.parametrize(("entry", "kept"), [(0, False), (1, True), (64, True), (65, False), ((1 << 28) - 1, False)])
def test_entries_that_there_are(client: RawInitiator, entry: int, kept: bool) -> None:
    file_id = client.open("disk0")
    assert lock(client, file_id, NOW, entry << 4 | 3) == 0
    assert lock(client, file_id, NOW, entry << 4 | 3) == (0 if kept else NtStatus.LOCK_NOT_GRANTED)


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2])
def test_older_dialects_have_lock_sequences(dialect: int) -> None:
    client = log_in(RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20))), dialect)
    file_id = client.open("disk0")
    assert [lock(client, file_id, NOW, ONE | 1) for _ in range(2)] == [0, 0]
    assert count(client, file_id) == 1


def test_without_multichannel_the_field_does_not_count() -> None:
    client = RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20)))
    log_in(client, capabilities=int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION))
    file_id = client.open("disk0")
    assert lock(client, file_id, NOW, ONE | 1) == 0
    assert lock(client, file_id, NOW, ONE | 1) == NtStatus.LOCK_NOT_GRANTED


def test_an_open_remembers_at_most_its_entries() -> None:
    sequences = LockSequences()
    for sequence in range(100 * 16):
        assert not sequences.repeats(sequence)
        sequences.begin(sequence)
        sequences.succeeded(sequence)
    assert [sequences.repeats(entry << 4 | 15) for entry in (0, 1, ENTRIES, ENTRIES + 1)] == [False, True, True, False]
    assert not sequences.repeats(ENTRIES << 4 | 14)
    assert len(sequences._numbers) == ENTRIES
