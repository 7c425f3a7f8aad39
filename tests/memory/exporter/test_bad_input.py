"""Malformed and random input of a peer: every frame gets a status or ends its connection, and nothing else happens."""

import contextlib
import random
import struct

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.model import Security
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    EchoRequest,
    FileId,
    IoctlRequest,
    QueryDirectoryRequest,
    QueryInfoRequest,
    Smb1Negotiate,
)
from meshfs.smb.wire import pack_header
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.frames import prefix
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import framed, read_body
from support.bodies import request_bodies

ECHO = EchoRequest().pack()
OWN = FileId(1, 1)
#: A good body of every command that is answered. A CANCEL has no answer.
BODIES = {command: body for command, body in request_bodies(OWN, OWN).items() if command != Command.CANCEL}
SMB1 = Smb1Negotiate((b"NT LM 0.12", Smb1Negotiate.SMB_2_WILDCARD)).pack()


def new_client(security: Security = Security.SIGN) -> RawInitiator:
    client = RawInitiator(make_exporter(security, disk0=MemoryDisk(1 << 20))).log_in()
    client.call(Command.ECHO, ECHO, credits=500)
    return client


def survives(client: RawInitiator, command: int, body: bytes) -> int | None:
    """Return the status of a signed request, or None if the request waits or ended its connection."""
    try:
        message_id = client.send(command, body, credits=1)
    except RemoteProtocolError:
        return None
    if not client.answered(message_id):
        assert client.peer.closing or client.peer.waiting
        return None
    return client.take(message_id).status


@pytest.mark.parametrize("command", list(BODIES), ids=lambda command: command.name)
def test_a_body_that_is_cut_anywhere_does_not_succeed(command):
    client = new_client()
    neighbour = RawInitiator(client.exporter).log_in("n3")
    body = BODIES[command]
    for length in range(len(body)):
        if client.peer.closing or not client.peer.sessions:
            client = new_client()
        assert survives(client, command, body[:length]) != 0 or command == Command.READ
    assert neighbour.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("command", list(BODIES), ids=lambda command: command.name)
def test_a_body_with_a_wrong_structure_size_is_refused(command):
    for wrong in (0, 1, 0xFFFF, 64):
        client, body = new_client(), BODIES[command]
        changed = struct.pack("<H", wrong) + body[2:]
        assert survives(client, command, changed) in (NtStatus.INVALID_PARAMETER, NtStatus.FILE_CLOSED, None)


@pytest.mark.parametrize("security", list(Security))
def test_random_changes_of_good_requests_get_a_status_or_end_the_connection(security):
    """No other exception may leave the exporter, and after the end of all connections nothing may be left."""
    rng = random.Random(7)
    client = new_client(security)
    server = client.exporter
    for _ in range(4000):
        if client.peer.closing or client.session_id not in client.peer.sessions or client.peer.closed:
            client.peer.lost()
            client = RawInitiator(server).log_in()
            client.call(Command.ECHO, ECHO, credits=500)
        command = rng.choice(list(BODIES))
        body = bytearray(BODIES[command])
        opens = list(client.peer.sessions[client.session_id].opens)
        if opens and rng.random() < 0.5:
            body = bytearray(bytes(body).replace(OWN.persistent.to_bytes(8, "little"), opens[0].to_bytes(8, "little")))
        for _ in range(rng.randrange(4)):
            body[rng.randrange(len(body))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        survives(client, command, bytes(body[: rng.randrange(len(body) + 1)] if rng.random() < 0.1 else body))
        client.replies.clear()
    client.peer.lost()
    assert not server.sessions
    assert not server.peers
    assert not server.disks.all()[0].opens
    assert server.pool.used_bytes == 0


def test_random_frames_of_a_stranger_leave_nothing_behind():
    rng = random.Random(8)
    server = make_exporter(disk0=MemoryDisk(1 << 20))
    for _ in range(2000):
        stranger = RawInitiator(server)
        if rng.random() < 0.5:
            stranger.negotiate()
        command = rng.choice(list(BODIES))
        message = bytearray(pack_header(command, message_id=stranger.next_id, credits=1) + BODIES[command])
        if rng.random() < 0.1:
            message = bytearray(SMB1)
        for _ in range(rng.randrange(6)):
            message[rng.randrange(len(message))] = rng.randrange(256)
        with contextlib.suppress(RemoteProtocolError):
            stranger.deliver(framed(bytes(message)))
        stranger.peer.lost()
    assert not server.sessions
    assert not server.peers
    assert server.pool.used_bytes == 0


@pytest.mark.parametrize(
    "frame",
    [
        prefix(limits.FRAME_MAX_UNAUTHENTICATED_BYTES + 1),
        prefix(10) + bytes(10),
        b"\xff\xff\xff\xff",
        framed(b"\xffSMB" + bytes(100)),
        framed(b"\xfcSMB" + bytes(100)),
        framed(b"\xfdSMB" + bytes(100)),
        framed(b"GET / HTTP/1.1\r\nHost: somebody who took us for a web server\r\n\r\n"),
        framed(b"\xfeSMB" + bytes(60)),
        framed(pack_header(0, flags=1) + BODIES[Command.NEGOTIATE]),
    ],
    ids=["too long", "too short", "16 MiB", "SMB 1", "compressed", "transform", "HTTP", "zeros", "reply"],
)
def test_a_frame_that_is_no_message_ends_the_connection(frame):
    client = RawInitiator(make_exporter())
    with pytest.raises(RemoteProtocolError):
        client.deliver(frame)
    assert not client.peer.out


def test_a_large_frame_before_the_login_ends_the_connection():
    client = RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20)))
    client.negotiate()
    with pytest.raises(RemoteProtocolError, match="announced"):
        client.deliver(prefix(1 << 20))
    assert client.exporter.pool.used_bytes == 0


@pytest.mark.parametrize("message_id", [0, 1 << 40, (1 << 64) - 1])
def test_message_ids_that_were_not_granted_end_the_connection(message_id):
    client = new_client()
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.send(Command.ECHO, ECHO, message_id=message_id)


def test_a_charge_beyond_the_credits_ends_the_connection():
    client = RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20))).log_in()
    file_id = client.open("disk0")
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.call(Command.READ, read_body(file_id, 0, 512), charge=2000)


def test_a_compound_cannot_use_a_credit_twice():
    client = new_client()
    messages = [pack_header(Command.ECHO, message_id=client.next_id, credits=1, session_id=client.session_id) + ECHO]
    messages *= 2
    frame = client.connection.protect([bytearray(message) for message in messages], None, None)
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.deliver(frame)


@pytest.mark.parametrize("step", [1, 8, 56, 65, 1000, 0xFFFFFFFF])
def test_a_compound_with_a_wrong_offset_ends_the_connection(step):
    client = new_client()
    frame = bytearray(client.pack(Command.ECHO, ECHO, sign=False)[1])
    frame[4 + 20 : 4 + 24] = struct.pack("<I", step)
    with pytest.raises(RemoteProtocolError):
        client.deliver(frame)


def test_unknown_commands_sessions_and_trees_are_refused():
    client = new_client()
    assert client.call(0x13, ECHO).status == NtStatus.INVALID_PARAMETER
    assert client.call(0xFFFF, ECHO).status == NtStatus.INVALID_PARAMETER
    reply = client.call(Command.CREATE, BODIES[Command.CREATE], session_id=99, sign=False)
    assert reply.status == NtStatus.USER_SESSION_DELETED
    reply = client.call(Command.CREATE, BODIES[Command.CREATE], tree_id=99)
    assert reply.status == NtStatus.NETWORK_NAME_DELETED


def test_an_output_buffer_that_was_not_paid_for_is_refused():
    client = new_client()
    root = client.open("", 1)
    for command, body in (
        (Command.QUERY_DIRECTORY, QueryDirectoryRequest(FileId(root, root), 37, 0xFFFFFFFF).pack()),
        (Command.QUERY_INFO, QueryInfoRequest(FileId(root, root), 1, 18, 0xFFFFFFFF).pack()),
        (Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 0xFFFFFFFF, 1).pack()),
        (Command.IOCTL, IoctlRequest(0x00146004, FileId(root, root), b"", 0xFFFFFFFF).pack()),
    ):
        assert client.call(command, body).status == NtStatus.INVALID_PARAMETER


def test_log_lines_about_malformed_requests_are_limited(caplog):
    client = new_client()
    for _ in range(limits.PEER_LOG_LINES_BURST * 2):
        assert client.call(Command.CREATE, b"\0" * 10).status == NtStatus.INVALID_PARAMETER
    assert len(caplog.records) <= limits.PEER_LOG_LINES_BURST + 5
    assert client.exporter.counters["malformed_requests"] == limits.PEER_LOG_LINES_BURST * 2
    assert client.exporter.counters["log_lines_held_back"] >= limits.PEER_LOG_LINES_BURST
