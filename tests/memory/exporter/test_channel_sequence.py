"""The channel sequence of an open: a request that comes late from a lost channel changes nothing."""

import pytest

from meshfs.smb.constants import AccessMask, Command, CreateDisposition, Flags, Fsctl, NtStatus
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    CreateResponse,
    EchoRequest,
    FileId,
    FlushRequest,
    IoctlRequest,
    LockElement,
    LockRequest,
    QueryInfoRequest,
)
from meshfs.smb.messages.body import RELATED_FILE
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import SHARE_ALL, read_body, write_body
from support.channel_sequence import BLOCK, NEW, NEWER, OLD, REPLAY, STALE, changing, sequence_of, write

# --- late writes and replays ------------------------------------------------------------


def test_an_old_write_that_comes_after_its_replay_and_a_newer_write_is_refused(disk, client, channel, file_id):
    """A channel that is lost for the mount may still deliver a WRITE when other channels have gone on."""
    _, held_back = client.pack(Command.WRITE, write_body(file_id, 0, OLD), sequence=0)
    assert write(channel, file_id, OLD, 1, REPLAY) == 0
    assert write(channel, file_id, NEWER, 1) == 0
    client.deliver(held_back)
    assert client.replies.pop().status == STALE
    assert disk.data[: len(NEWER)] == NEWER
    assert client.exporter.counters["stale_requests"] == 1


@pytest.mark.parametrize("lost", [False, True])
def test_a_replay_is_refused_while_the_old_write_is_at_the_disk(disk, client, channel, file_id, lost):
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, OLD), sequence=0)
    if lost:
        client.peer.lost()
    for _ in range(3):
        assert write(channel, file_id, OLD, 1, REPLAY) == STALE
    # READs are served, and so are requests that are no replay.
    reading = channel.send(Command.READ, read_body(file_id, BLOCK, 4), sequence=1, flags=REPLAY)
    other = channel.send(Command.WRITE, write_body(file_id, BLOCK, NEW), sequence=1)
    disk.release()
    channel.collect()
    assert [channel.take(message_id).status for message_id in (reading, other)] == [0, 0]
    assert write(channel, file_id, NEW, 1, REPLAY) == 0
    assert disk.data[: len(NEW)] == NEW


def test_a_replay_does_not_wait_for_a_queued_write_of_a_lost_channel(disk):
    """A queued WRITE is taken back when its connection is lost, and never reaches the disk."""
    client = RawInitiator(make_exporter(depth=1, disk0=disk)).log_in(to_be_bound=True)
    file_id, reader = client.open("disk0"), RawInitiator(client.exporter).log_in("n3")
    channel = RawInitiator(client.exporter)
    second_channel(client, channel)
    theirs = reader.open("disk0")
    disk.stall()
    reader.send(Command.READ, read_body(theirs, 0, BLOCK))
    client.send(Command.WRITE, write_body(file_id, 0, OLD), sequence=0)
    client.peer.lost()
    replayed = channel.send(Command.WRITE, write_body(file_id, 0, NEW), sequence=1, flags=REPLAY)
    disk.release()
    channel.collect()
    assert channel.take(replayed).status == 0
    assert disk.data[: len(NEW)] == NEW


def test_a_replay_waits_for_all_requests_of_older_sequences(disk, client, channel, file_id):
    disk.stall()
    oldest = client.send(Command.WRITE, write_body(file_id, 0, OLD), sequence=0)
    client.send(Command.WRITE, write_body(file_id, BLOCK, OLD), sequence=1)
    assert write(channel, file_id, NEW, 2, REPLAY) == STALE
    disk.release(lambda request: request.offset == BLOCK)
    assert write(channel, file_id, NEW, 2, REPLAY) == STALE
    disk.release()
    client.collect()
    assert client.take(oldest).status == 0
    assert write(channel, file_id, NEW, 2, REPLAY) == 0
    assert disk.data[: len(NEW)] == NEW


def test_a_replay_does_not_wait_for_requests_of_the_same_sequence(disk, channel, file_id):
    disk.stall()
    ids = [
        channel.send(Command.WRITE, write_body(file_id, index * BLOCK, NEW), sequence=1, flags=REPLAY)
        for index in range(3)
    ]
    disk.release()
    channel.collect()
    assert [channel.take(message_id).status for message_id in ids] == [0, 0, 0]


def test_opens_are_judged_one_by_one(disk, client, file_id):
    other = client.open("disk0")
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, OLD))
    replayed = client.send(Command.WRITE, write_body(other, BLOCK, NEW), sequence=1, flags=REPLAY)
    disk.release()
    client.collect()
    assert client.take(replayed).status == 0
    assert (sequence_of(client, file_id), sequence_of(client, other)) == (0, 1)


# --- which requests --------------------------------------------------------------------


def harmless(file_id: int) -> list[tuple[int, bytes]]:
    pair = FileId(file_id, file_id)
    lock = LockElement(1 << 19, 1, 0x11)
    return [
        (Command.READ, read_body(file_id, 0, BLOCK)),
        (Command.FLUSH, FlushRequest(pair).pack()),
        (Command.QUERY_INFO, QueryInfoRequest(pair, 1, 5, 4096).pack()),
        (Command.LOCK, LockRequest(pair, (lock,)).pack()),
        (Command.CLOSE, CloseRequest(pair).pack()),
    ]


def test_old_requests_that_change_something_are_refused_and_others_are_served(client, file_id):
    assert write(client, file_id, NEW, 5) == 0
    for sequence in (4, 0, 0x8006):
        for flags in (0, REPLAY):
            for command, body in changing(file_id):
                assert client.call(command, body, sequence=sequence, flags=flags).status == STALE
    for command, body in harmless(file_id):
        assert client.call(command, body, sequence=4).status == 0


def test_replays_of_requests_that_change_nothing_are_served_at_once(disk, client, file_id):
    disk.stall(lambda request: request.offset == 8 * BLOCK)
    client.send(Command.READ, read_body(file_id, 8 * BLOCK, BLOCK), sequence=0)
    for command, body in changing(file_id):
        assert client.call(command, body, sequence=1, flags=REPLAY).status == STALE
    for command, body in harmless(file_id)[:-1]:
        assert client.call(command, body, sequence=1, flags=REPLAY).status == 0
    disk.release()
    for command, body in changing(file_id):
        assert client.call(command, body, sequence=1, flags=REPLAY).status == 0


def test_a_refused_request_without_a_right_to_it_is_refused_for_its_age_first(client):
    reader = client.open("disk0", int(AccessMask.READ_DATA))
    assert write(client, reader, OLD, 1) == NtStatus.ACCESS_DENIED
    assert write(client, reader, OLD, 0) == STALE


def test_requests_without_an_open_have_no_sequence(client, file_id):
    assert write(client, file_id, NEW, 9) == 0
    assert client.call(Command.ECHO, EchoRequest().pack(), sequence=3).status == 0
    assert client.connect("disks-system").status == 0


@pytest.mark.parametrize("command", [Command.LOCK, Command.CHANGE_NOTIFY])
def test_a_replay_waits_for_asynchronous_requests_of_older_sequences(client, file_id, command):
    """MS-SMB2 counts every request that names the open, until its final answer."""
    other = RawInitiator(client.exporter).log_in("n3")
    theirs = other.open("disk0")
    lock = (LockElement(0, BLOCK, 2),)
    other.call(Command.LOCK, LockRequest(FileId(theirs, theirs), lock).pack())
    if command is Command.CHANGE_NOTIFY:
        file_id = client.open("", int(AccessMask.READ_DATA))
        body = ChangeNotifyRequest(FileId(file_id, file_id), 0, 1024, 3).pack()
    else:
        body = LockRequest(FileId(file_id, file_id), lock).pack()
    client.call(command, body, sequence=0)
    query = IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, FileId(file_id, file_id), b"", 4096).pack()
    assert client.call(Command.IOCTL, query, sequence=1, flags=REPLAY).status == STALE
    (waiting,) = client.peer.waiting.values()
    waiting.end(NtStatus.CANCELLED)
    assert client.call(Command.IOCTL, query, sequence=1, flags=REPLAY).status == 0


# --- compounds -------------------------------------------------------------------------


def test_each_part_of_a_compound_is_judged_by_itself(disk, client, file_id):
    assert write(client, file_id, NEW, 1) == 0
    ids = client.compound(
        (Command.WRITE, write_body(file_id, 0, OLD), {"status": 0}),
        (Command.READ, read_body(file_id, 0, 3), {"status": 0}),
        (Command.WRITE, write_body(file_id, BLOCK, NEWER), {"status": 2}),
        (Command.WRITE, write_body(file_id, 0, OLD), {"status": 1}),
    )
    assert [client.take(message_id).status for message_id in ids] == [STALE, 0, 0, STALE]
    assert disk.data[: len(NEW)] == NEW
    assert disk.data[BLOCK : BLOCK + len(NEWER)] == NEWER


def test_related_parts_use_the_open_of_the_create_before_and_its_sequence(disk, client):
    related = int(Flags.RELATED_OPERATIONS)
    create = CreateRequest(
        "disk0", int(AccessMask.READ_DATA | AccessMask.WRITE_DATA), SHARE_ALL, CreateDisposition.OPEN
    ).pack()
    file_id = RELATED_FILE.volatile
    ids = client.compound(
        (Command.CREATE, create, {"status": 7}),
        (Command.WRITE, write_body(file_id, 0, OLD), {"status": 6, "flags": related}),
        (Command.READ, read_body(file_id, 0, 3), {"status": 6, "flags": related}),
    )
    replies = [client.take(message_id) for message_id in ids]
    assert [reply.status for reply in replies] == [0, STALE, 0]
    opened = CreateResponse.unpack(replies[0].body).file_id.volatile
    assert sequence_of(client, opened) == 7
    assert disk.data[: len(OLD)] == bytes(len(OLD))


def test_a_replay_is_refused_while_a_write_of_the_old_compound_is_at_the_disk(disk, client, channel, file_id):
    disk.stall()
    client.compound(
        (Command.WRITE, write_body(file_id, 0, OLD), {}),
        (Command.WRITE, write_body(file_id, BLOCK, OLD), {}),
    )
    client.peer.lost()
    assert write(channel, file_id, NEW, 1, REPLAY) == STALE
    disk.release()
    # The second part never ran, because the connection was lost.
    assert disk.data[BLOCK : BLOCK + 3] == bytes(3)
    assert write(channel, file_id, NEW, 1, REPLAY) == 0
    assert disk.data[: len(NEW)] == NEW
