"""Binds that the exporter refuses, and binds whose session ends in the middle: they leave nothing behind."""

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.state.session import SERVING
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    Cipher,
    Command,
    Dialect,
    Flags,
    NtStatus,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    EchoRequest,
    LogoffRequest,
    SessionSetupRequest,
)
from meshlab.smb.raw_binding import RawBind, bind, protection_by
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body
from support.channels import channel_of, connect, session_of

ECHO = EchoRequest().pack()
MORE = NtStatus.MORE_PROCESSING_REQUIRED
CMAC, GMAC, HMAC = SigningAlgorithm.AES_CMAC, SigningAlgorithm.AES_GMAC, SigningAlgorithm.HMAC_SHA256


# --- refused binds ---------------------------------------------------------------------


def assert_unharmed(client: RawInitiator) -> None:
    session = session_of(client)
    assert (session.state in SERVING, list(session.channels), session.binding) == (True, [client.peer], set())
    assert client.call(Command.ECHO, ECHO).status == 0


def test_a_bind_to_an_unknown_session_is_refused(client):
    other = connect(client.exporter)
    client.session_id += 1
    assert bind(other, client).status == NtStatus.USER_SESSION_DELETED
    client.session_id -= 1
    assert_unharmed(client)


@pytest.mark.parametrize(
    ("session", "connection", "status"),
    [
        ({"dialects": (Dialect.SMB_3_0_2,)}, {"dialects": (Dialect.SMB_3_0,)}, NtStatus.INVALID_PARAMETER),
        ({"signing": (CMAC,)}, {"dialects": (Dialect.SMB_3_0,)}, NtStatus.INVALID_PARAMETER),
        ({"ciphers": (Cipher.AES_128_CCM,)}, {}, NtStatus.INVALID_PARAMETER),
        ({"ciphers": ()}, {}, NtStatus.INVALID_PARAMETER),
        ({}, {"guid": b"another client's"}, NtStatus.USER_SESSION_DELETED),
        ({}, {"signing": (CMAC,)}, NtStatus.REQUEST_OUT_OF_SEQUENCE),
        ({}, {"dialects": (Dialect.SMB_3_0,)}, NtStatus.REQUEST_OUT_OF_SEQUENCE),
        ({"signing": (HMAC,)}, {}, NtStatus.NOT_SUPPORTED),
        ({"signing": (CMAC,)}, {}, NtStatus.NOT_SUPPORTED),
    ],
)
def test_a_bind_by_another_negotiation_is_refused_and_the_refusal_signed(disk, session, connection, status):
    client = RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True, **session)
    reply = RawBind(connect(client.exporter, **connection), client).step()
    assert (reply.status, reply.protection) == (status, Protection.SIGNED)
    assert client.exporter.counters["binds_denied"] == 1
    assert_unharmed(client)


def test_cmac_and_hmac_go_together(disk):
    client = RawInitiator(make_exporter(disk0=disk)).log_in(signing=(HMAC,), to_be_bound=True)
    channel = channel_of(client, signing=(CMAC,))
    assert channel.call(Command.ECHO, ECHO).protection == Protection.SIGNED


def test_an_unsigned_bind_is_refused(client):
    other = connect(client.exporter)
    body = SessionSetupRequest(1, 1, 0, RawBind(other, client).token)
    reply = other.call(Command.SESSION_SETUP, body.pack(), sign=False, session_id=client.session_id)
    assert (reply.status, reply.protection) == (NtStatus.INVALID_PARAMETER, Protection.NONE)
    assert_unharmed(client)


def test_a_sealed_bind_is_refused(disk):
    client = RawInitiator(make_exporter(Security.ENCRYPT, disk0=disk)).log_in(to_be_bound=True)
    token = RawBind(channel_of(client), client).token
    for flags in (0, Flags.SIGNED):
        reply = client.call(Command.SESSION_SETUP, SessionSetupRequest(1, 1, 0, token).pack(), flags=int(flags))
        assert (reply.status, reply.protection) == (NtStatus.INVALID_PARAMETER, Protection.SEALED)
    assert client.call(Command.ECHO, ECHO).status == 0


def test_a_bind_signed_with_another_key_gets_no_signature(client):
    """A stranger who gets two messages signed under one message id knows the secret of AES-GMAC."""
    thief = RawInitiator(client.exporter).log_in("n3")
    other = connect(client.exporter)
    reply = RawBind(other, client).step(sign=thief.security)
    assert (reply.status, reply.protection) == (NtStatus.ACCESS_DENIED, Protection.NONE)
    assert reply.view[48:64] == bytes(16)
    assert not other.peer.binds
    assert client.exporter.counters["bad_signatures"] == 1
    assert_unharmed(client)


def test_a_node_cannot_bind_to_anothers_session(client):
    """The key of the session is not enough. The bind needs the password of the session's user as well."""
    other = connect(client.exporter)
    reply = bind(other, client, "n3")
    assert (reply.status, reply.protection) == (NtStatus.ACCESS_DENIED, Protection.SIGNED)
    assert other.call(Command.ECHO, ECHO, session_id=client.session_id, sign=False).status == (
        NtStatus.USER_SESSION_DELETED
    )
    assert_unharmed(client)


def test_a_failed_bind_is_forgotten_with_its_hash(client):
    other = connect(client.exporter)
    for user, password, status in (
        ("n2", "wrong", NtStatus.LOGON_FAILURE),
        ("n9", "?", NtStatus.LOGON_FAILURE),
        ("n3", None, NtStatus.ACCESS_DENIED),
    ):
        reply = bind(other, client, user, password)
        assert (reply.status, reply.protection) == (status, Protection.SIGNED)
        assert not other.peer.binds
        assert_unharmed(client)
    assert client.exporter.counters["binds_denied"] == 3
    reply = bind(other, client)
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    assert other.call(Command.ECHO, ECHO).status == 0


def test_a_bind_that_begins_again_in_the_middle_fails_and_the_next_works(client):
    other = connect(client.exporter)
    assert RawBind(other, client).step().status == MORE
    assert RawBind(other, client).step().status == NtStatus.LOGON_FAILURE
    assert bind(other, client).status == 0


@pytest.mark.parametrize("bound", [False, True])
def test_a_bind_where_the_session_is_a_channel_already_is_refused(client, bound):
    """The request has to be signed with the channel's own key, and the refusal is signed with it, as on Windows."""
    where = channel_of(client) if bound else client
    reply = RawBind(where, client).step(sign=where.security)
    assert reply.status == NtStatus.REQUEST_NOT_ACCEPTED
    assert protection_by(reply, where.security) == Protection.SIGNED
    if bound:
        assert RawBind(where, client).step().status == NtStatus.ACCESS_DENIED
    assert where.call(Command.ECHO, ECHO).status == 0


def test_a_bind_to_a_session_that_is_not_logged_in_yet_is_refused(client):
    half = connect(client.exporter)
    login = RawBind(half, client)
    reply = half.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, login.token).pack(), sign=False)
    assert reply.status == MORE
    client.session_id = reply.session_id
    assert RawBind(connect(client.exporter), client).step().status == NtStatus.REQUEST_NOT_ACCEPTED


def test_a_session_is_bound_while_its_predecessors_requests_are_at_a_disk(disk, client):
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.READ, read_body(file_id, 0, 512))
    new = connect(client.exporter)
    new.skip_ids(limits.BIND_MESSAGE_IDS)
    assert new.set_up(previous=client.session_id).status == 0
    assert channel_of(new).call(Command.ECHO, ECHO).status == 0
    disk.release()


def test_binds_under_way_are_limited_per_connection_as_logins_are(client):
    others = [RawInitiator(client.exporter).log_in(to_be_bound=True) for _ in range(limits.LOGINS_PER_CONNECTION_MAX)]
    where = connect(client.exporter)
    assert [RawBind(where, other).step().status for other in others] == [MORE] * len(others)
    reply = RawBind(where, client).step()
    assert (reply.status, reply.protection) == (NtStatus.INSUFFICIENT_RESOURCES, Protection.SIGNED)
    assert where.set_up().status == NtStatus.INSUFFICIENT_RESOURCES


def test_sessions_and_channels_of_a_connection_are_limited_together(client):
    where = connect(client.exporter)
    others = [RawInitiator(client.exporter).log_in(to_be_bound=True) for _ in range(limits.SESSIONS_PER_CONNECTION_MAX)]
    assert [bind(where, other).status for other in others] == [0] * len(others)
    assert bind(where, client).status == NtStatus.INSUFFICIENT_RESOURCES
    where.session_id, where.security = 0, None
    assert where.set_up().status == NtStatus.INSUFFICIENT_RESOURCES


def test_a_flood_of_binds_leaves_nothing_behind(client):
    peers = len(client.exporter.peers)
    for _ in range(50):
        other = connect(client.exporter)
        RawBind(other, client).step()
        other.peer.lost()
    assert_unharmed(client)
    assert len(client.exporter.peers) == peers
    assert client.exporter.pool.used_bytes == 0


# --- the end of a session in the middle of a bind --------------------------------------


@pytest.mark.parametrize("end", ["logoff", "lost", "previous"])
def test_a_bind_under_way_ends_with_its_session(client, end):
    other = connect(client.exporter)
    exchange = RawBind(other, client)
    assert exchange.step().status == MORE
    if end == "logoff":
        client.call(Command.LOGOFF, LogoffRequest().pack())
    elif end == "lost":
        client.peer.lost()
    else:
        assert connect(client.exporter).set_up(previous=client.session_id).status == 0
    assert not other.peer.binds
    assert exchange.step().status == NtStatus.USER_SESSION_DELETED
    assert not other.peer.sessions
    assert not other.peer.connection.security
    # The connection can be used for a login.
    other.session_id, other.security = 0, None
    assert other.set_up().status == 0


def test_a_bind_under_way_outlives_the_channel_whose_key_it_is_signed_with(client):
    channel = channel_of(client)
    exchange = RawBind(connect(client.exporter), client)
    assert exchange.step().status == MORE
    client.peer.lost()
    assert exchange.step().status == 0
    assert exchange.client.call(Command.ECHO, ECHO).status == 0
    assert channel.call(Command.ECHO, ECHO).status == 0


def test_a_bind_under_way_does_not_keep_its_session_alive(client):
    RawBind(connect(client.exporter), client).step()
    client.peer.lost()
    assert not client.exporter.sessions


def test_no_bind_is_granted_while_a_logoff_waits_for_a_disk(disk, client):
    file_id = client.open("disk0")
    other = connect(client.exporter)
    exchange = RawBind(other, client)
    assert exchange.step().status == MORE
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    logoff = client.send(Command.LOGOFF, LogoffRequest().pack())
    assert exchange.step().status == NtStatus.USER_SESSION_DELETED
    assert RawBind(other, client).step().status == NtStatus.USER_SESSION_DELETED
    client.peer.lost()
    disk.release()
    assert not client.answered(logoff)
    assert client.exporter.pool.used_bytes == 0


def test_a_bind_ends_no_previous_session(client):
    older = RawInitiator(client.exporter).log_in(to_be_bound=True)
    exchange = RawBind(connect(client.exporter), client)
    body = SessionSetupRequest(1, 1, 0, exchange.token, older.session_id)
    exchange.client.security = client.session_security
    reply = exchange.client.call(Command.SESSION_SETUP, body.pack(), session_id=client.session_id)
    assert reply.status == MORE
    assert older.call(Command.ECHO, ECHO).status == 0


# --- other messages of a stranger ------------------------------------------------------


def test_a_session_is_used_only_where_it_is_bound(client):
    other = connect(client.exporter)
    other.security, other.session_id = client.security, client.session_id
    requests = [
        (Command.ECHO, ECHO),
        (Command.TREE_CONNECT, ECHO),
        (Command.READ, read_body(1, 0, 1)),
        (Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, RawBind(other, client).token).pack()),
    ]
    for command, body in requests:
        reply = other.call(command, body)
        assert reply.status == NtStatus.USER_SESSION_DELETED
        # The reply has the flag of a signature, and no signature: the exporter signs nothing for a stranger.
        assert (reply.flags & Flags.SIGNED, reply.view[48:64]) == (Flags.SIGNED, bytes(16))
        assert not other.call(command, body, sign=False).flags & Flags.SIGNED
    with pytest.raises(RemoteProtocolError, match="no keys"):
        other.deliver(other.pack(Command.ECHO, ECHO, seal=True)[1])
    assert_unharmed(client)
