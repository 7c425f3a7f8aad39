"""The exporter compares the channel sequences of an open as the specification says, also when the numbers wrap."""

import random

import pytest

from meshfs.exporter.kinds.disk.open import DiskOpen
from meshfs.exporter.rules.channel_sequence import is_newer_or_equal
from meshfs.smb.constants import Command
from meshfs.smb.messages import (
    EchoRequest,
    FileId,
    SetInfoRequest,
)
from meshlab.smb.raw_messages import read_body, write_body
from support.channel_sequence import (
    BLOCK,
    NEW,
    NEWER,
    OLD,
    REPLAY,
    SET_INFO_CLASS,
    SET_INFO_DATA,
    STALE,
    changing,
    sequence_of,
    write,
)

# --- numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "than", "newer"),
    [
        (0, 0, True),
        (1, 0, True),
        (0x7FFF, 0, True),
        (0x8000, 0, False),
        (0xFFFF, 0, False),
        (0, 0xFFFF, True),
        (0x7FFE, 0xFFFF, True),
        (0x7FFF, 0xFFFF, False),
        (0xFFFE, 0xFFFF, False),
    ],
)
def test_a_sequence_is_newer_by_serial_arithmetic_of_16_bits(sequence, than, newer):
    assert is_newer_or_equal(sequence, than) is newer


#: The sequences of successive requests. True means that Windows serves the request (smbtorture's
#: smb2.replay.channel-sequence).
WINDOWS = (
    (0, True),
    (0x8000, False),
    (0x8001, False),
    (0xABCD, False),
    (0xFFFF, False),
    (0x7FFF, True),
    (0x7FFE, False),
    (0, False),
    (0x1234, False),
    (0x8000, True),
    (0xFFFF, True),
    (0, True),
    (1, True),
    (0, False),
    (1, True),
    (0xFFFF, False),
)


@pytest.mark.parametrize("flags", [0, REPLAY])
@pytest.mark.parametrize("kind", range(3))
def test_a_series_of_sequences_is_judged_as_by_windows(client, file_id, kind, flags):
    command, body = changing(file_id)[kind]
    for sequence, served in WINDOWS:
        status = client.call(command, body, sequence=sequence, flags=flags).status
        assert status == (0 if served else STALE), hex(sequence)


def test_the_sequence_begins_with_creates_and_wraps(disk, client):
    client.sequence = 0xFFFE
    file_id = client.open("disk0")
    assert sequence_of(client, file_id) == 0xFFFE
    for sequence, data in ((0xFFFF, OLD), (0, NEW), (1, NEWER)):
        assert write(client, file_id, data, sequence) == 0
    for sequence in (0, 0xFFFF, 0xFFFE):
        assert write(client, file_id, OLD, sequence) == STALE
    assert disk.data[: len(NEWER)] == NEWER


def test_a_replay_is_refused_across_the_wrap_while_an_old_request_is_at_the_disk(disk, client):
    client.sequence = 0xFFFF
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, OLD))
    assert write(client, file_id, NEW, 0, REPLAY) == STALE
    disk.release()
    assert write(client, file_id, NEW, 0, REPLAY) == 0


def test_the_reserved_half_of_the_sequence_field_is_ignored(client, file_id):
    """The field has 32 bits. Only the lower 16 are the channel sequence."""
    for sequence in (0xABCD0000, 0x00010001, 0xFFFF0001):
        assert write(client, file_id, NEW, sequence) == 0
    assert sequence_of(client, file_id) == 1
    assert write(client, file_id, OLD, 0xFFFF0000) == STALE


# --- against a model -------------------------------------------------------------------


class Counted:
    """Models Open.ChannelSequence and its two counts of outstanding requests (MS-SMB2 3.3.5.2.10 and 3.3.4.1)."""

    def __init__(self) -> None:
        self.sequence = self.requests = self.pre_requests = 0

    def arrives(self, sequence: int, replay: bool) -> bool:
        """Count a WRITE that arrives, and return whether it is served."""
        ahead = (sequence - self.sequence) & 0xFFFF
        if ahead > 0x7FFF:
            return False
        if ahead:
            self.pre_requests += self.requests
            self.requests, self.sequence = 0, sequence
        if replay and self.pre_requests:
            return False
        self.requests += 1
        return True

    def answered(self, sequence: int) -> None:
        if sequence == self.sequence:
            self.requests -= 1
        else:
            self.pre_requests -= 1


@pytest.mark.parametrize("seed", range(20))
def test_writes_are_served_or_refused_as_the_counts_of_the_specification_say(disk, client, file_id, seed):
    rng, model, at_disk = random.Random(seed), Counted(), {}
    disk.stall()
    for step in range(200):
        if at_disk and rng.random() < 0.4:
            slot = rng.choice(list(at_disk))
            sequence, message_id = at_disk.pop(slot)
            disk.release(lambda request, offset=slot * BLOCK: request.offset == offset)
            client.collect()
            assert client.take(message_id).status == 0
            model.answered(sequence)
            continue
        sequence = (model.sequence + rng.choice((-0x8000, -2, -1, 0, 0, 0, 0, 1, 1, 3))) & 0xFFFF
        replay = rng.random() < 0.5
        message_id = client.send(
            Command.WRITE, write_body(file_id, step * BLOCK, NEW), sequence=sequence, flags=REPLAY if replay else 0
        )
        if model.arrives(sequence, replay):
            assert not client.answered(message_id)
            at_disk[step] = (sequence, message_id)
        else:
            assert client.take(message_id).status == STALE
        assert sequence_of(client, file_id) == model.sequence
    disk.release()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_replay_does_not_visit_all_outstanding_requests(disk, client, channel, file_id, monkeypatch, earlier):
    """If each replay visited thousands of outstanding requests, it would take a millisecond of the processor."""
    looked: list[object] = []
    outstanding = DiskOpen.outstanding

    def counted(opened):
        for each in outstanding(opened):
            looked.append(each)
            yield each

    monkeypatch.setattr(DiskOpen, "outstanding", counted)
    client.call(Command.ECHO, EchoRequest().pack(), credits=400)
    disk.stall()
    for index in range(200):
        sequence = 1 if index or not earlier else 0
        client.send(Command.READ, read_body(file_id, BLOCK * index, BLOCK), sequence=sequence)
    for _ in range(50):
        body = SetInfoRequest(FileId(file_id, file_id), 1, SET_INFO_CLASS, SET_INFO_DATA).pack()
        status = channel.call(Command.SET_INFO, body, sequence=1, flags=REPLAY, credits=2).status
        assert status == (STALE if earlier else 0)
    assert 0 < len(looked) <= 200


def test_a_late_read_of_an_old_sequence_holds_a_replay_off(disk, client, channel, file_id):
    """The first replay finds no old request. After a late READ, the second replay must not reuse that result."""
    assert write(channel, file_id, NEW, 1, REPLAY) == 0
    disk.stall()
    client.send(Command.READ, read_body(file_id, 0, BLOCK), sequence=0)
    assert write(channel, file_id, NEW, 1, REPLAY) == STALE
    disk.release()
    assert write(channel, file_id, NEW, 1, REPLAY) == 0
