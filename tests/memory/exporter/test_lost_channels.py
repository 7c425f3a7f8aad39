"""What ends with a lost channel, with a session that logs off, and with a session that a new one replaces."""

import pytest

from meshfs import limits
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Command,
    NtStatus,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    EchoRequest,
    FileId,
    LockElement,
    LockRequest,
    LogoffRequest,
    SessionSetupRequest,
)
from meshlab.smb.raw_binding import RawBind
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import file_id_of, read_body, write_body
from support.channels import channel_of, close_body, connect, session_of

ECHO = EchoRequest().pack()
MORE = NtStatus.MORE_PROCESSING_REQUIRED
EXCLUSIVE = 2


# --- lost channels ---------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_a_lost_channel_leaves_the_session_to_the_others(client, first):
    file_id = client.open("disk0")
    channel = channel_of(client)
    lost, left = (client, channel) if first else (channel, client)
    lost.peer.lost()
    assert left.call(Command.READ, read_body(file_id, 0, 512)).status == 0
    assert session_of(left).peer is left.peer
    assert client.exporter.counters["channels_lost"] == 1
    left.peer.lost()
    assert not client.exporter.sessions
    assert not client.exporter.disks.all()[0].opens


def test_a_session_is_bound_by_its_own_key_after_its_first_channel_was_lost(client):
    file_id = client.open("disk0")
    second = channel_of(client)
    client.peer.lost()
    third = channel_of(client)
    second.peer.lost()
    assert third.call(Command.READ, read_body(file_id, 0, 512)).status == 0
    # A reauthentication works there as well, signed with the channel's key.
    reply = third.set_up("n2")
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)


def test_a_lost_channels_requests_end_where_they_are(disk):
    """Queued requests never reach the disk. A request at the disk ends by itself, and its reply is dropped."""
    client = RawInitiator(make_exporter(depth=1, disk0=disk)).log_in(to_be_bound=True)
    file_id = client.open("disk0")
    channel = channel_of(client)
    channel.call(Command.ECHO, ECHO, credits=10)
    disk.stall()
    for index in range(3):
        channel.send(Command.WRITE, write_body(file_id, index * 512, b"x" * 512))
    mine = client.send(Command.WRITE, write_body(file_id, 4096, b"y" * 512))
    channel.peer.lost()
    assert disk.stalled == 1
    disk.release()
    client.collect()
    assert client.take(mine).status == 0
    assert disk.data[:1536] == b"x" * 512 + bytes(1024)
    assert disk.data[4096:4608] == b"y" * 512
    assert not channel.peer.out
    assert client.call(Command.CLOSE, close_body(file_id)).status == 0
    client.received.get_buffer()
    assert client.exporter.pool.used_bytes == 0


def test_a_lost_channels_queued_requests_of_a_closing_open_end(disk):
    client = RawInitiator(make_exporter(depth=1, disk0=disk)).log_in(to_be_bound=True)
    file_id = client.open("disk0")
    channel = channel_of(client)
    disk.stall()
    channel.send(Command.READ, read_body(file_id, 0, 512))
    closing = client.send(Command.CLOSE, close_body(file_id))
    channel.peer.lost()
    assert not client.answered(closing)
    disk.release()
    client.collect()
    assert client.take(closing).status == 0


def test_a_lost_channels_waiting_requests_end(client):
    other = RawInitiator(client.exporter).log_in("n3")
    theirs, mine = other.open("disk0"), client.open("disk0")
    lock = LockElement(0, 512, EXCLUSIVE)
    other.call(Command.LOCK, LockRequest(FileId(theirs, theirs), (lock,)).pack())
    channel = channel_of(client)
    root = channel.open("", int(AccessMask.READ_DATA))
    channel.call(Command.LOCK, LockRequest(FileId(mine, mine), (lock,)).pack())
    channel.call(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 0, 1024, 3).pack())
    assert len(channel.peer.waiting) == 2
    channel.peer.lost()
    assert not channel.peer.waiting
    # The waiting request of the lost channel gets no lock, so another node gets it.
    other.call(Command.CLOSE, close_body(theirs))
    third = RawInitiator(client.exporter).log_in("n3")
    again = third.open("disk0")
    assert third.call(Command.LOCK, LockRequest(FileId(again, again), (lock,)).pack()).status == 0


def test_a_lost_connection_takes_only_its_own_part_of_each_session(client):
    """The connection is one of two channels of a session, and the only channel of another session."""
    shared = channel_of(client)
    session_id, security = shared.session_id, shared.security
    shared.session_id, shared.security = 0, None
    assert shared.set_up("n3").status == 0
    assert len(client.exporter.sessions) == 2
    assert shared.call(Command.ECHO, ECHO).status == 0
    shared.session_id, shared.security = session_id, security
    assert shared.call(Command.ECHO, ECHO).status == 0
    shared.peer.lost()
    assert list(client.exporter.sessions) == [client.session_id]
    assert client.call(Command.ECHO, ECHO).status == 0


# --- the end of all --------------------------------------------------------------------


@pytest.mark.parametrize("by_first", [False, True])
def test_log_off_ends_the_session_on_all_channels(disk, client, by_first):
    told = []
    file_id = client.open("disk0")
    channel = channel_of(client)
    ender, other = (client, channel) if by_first else (channel, client)
    other.peer.on_stage = told.append
    disk.stall()
    waiting = other.send(Command.READ, read_body(file_id, 0, 512))
    logoff = ender.send(Command.LOGOFF, LogoffRequest().pack())
    assert not ender.answered(logoff)
    disk.release()
    ender.collect()
    other.collect()
    reply = ender.take(logoff)
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    reply = other.take(waiting)
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    assert told == [AdmissionStage.NEGOTIATED]
    for where in (client, channel):
        assert where.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
        assert not where.peer.sessions
        assert not where.peer.connection.security


def test_a_failed_reauthentication_ends_the_session_on_all_channels(client):
    channel = channel_of(client)
    assert channel.set_up("n2", "wrong").status == NtStatus.LOGON_FAILURE
    for where in (client, channel):
        assert where.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED


def test_reauthentications_on_two_channels_do_not_mix(client):
    channel = channel_of(client)
    first = RawBind(client, client), client
    second = RawBind(channel, client), channel
    for _ in range(2):
        for exchange, where in (first, second):
            reply = where.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, exchange.token).pack())
            assert (reply.status in (0, MORE), reply.protection) == (True, Protection.SIGNED)
            if reply.status:
                exchange._take(reply)
    assert reply.status == 0
    assert not session_of(client).logins
    assert client.call(Command.ECHO, ECHO).status == channel.call(Command.ECHO, ECHO).status == 0


def test_a_reauthentication_ends_with_its_channel(client):
    channel = channel_of(client)
    exchange = RawBind(channel, client)
    reply = channel.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, exchange.token).pack())
    assert reply.status == MORE
    channel.peer.lost()
    assert not session_of(client).logins
    assert client.set_up("n2").status == 0


# --- PreviousSessionId -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["another", "bound"])
def test_the_previous_session_ends_on_all_its_channels_before_a_disk_is_opened(disk, client, where):
    file_id = client.open("disk0", share=0)
    channels = [channel_of(client) for _ in range(2)]
    channels[1].call(Command.ECHO, ECHO, credits=10)
    disk.stall()
    for way in (client, *channels):
        way.send(Command.WRITE, write_body(file_id, 0, b"old" + bytes(509)))
    # The requests of a channel that is lost already count as well.
    channels[0].peer.lost()
    new = channels[1] if where == "bound" else connect(client.exporter)
    new.session_id, new.security, new.session_security = 0, None, None
    assert new.set_up(previous=client.session_id).status == 0
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
    new.connect("disks")
    opening = new.create("disk0", share=0)
    assert opening.status == NtStatus.PENDING
    disk.release(lambda request: request.request.peer is not client.peer)
    new.collect()
    assert not new.answered(opening.message_id)
    disk.release()
    new.collect()
    mine = file_id_of(new.take(opening.message_id))
    assert new.call(Command.WRITE, write_body(mine, 0, b"new")).status == 0
    assert disk.data[:3] == b"new"
    assert new.peer.received.frame_max_bytes == limits.FRAME_MAX_BYTES
