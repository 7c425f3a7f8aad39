"""Further channels of a session: who may bind, what a lost one takes with it, and what ends all."""

import functools
from ipaddress import ip_address

import pytest
import trio

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.serving.listener import Listener
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.session import SERVING
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Capabilities,
    Cipher,
    Command,
    Dialect,
    Flags,
    Fsctl,
    NtStatus,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    EchoRequest,
    FileId,
    IoctlRequest,
    IoctlResponse,
    LockElement,
    LockRequest,
    LogoffRequest,
    NetworkInterface,
    SessionSetupRequest,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    unpack_interfaces,
)
from meshfs.smb.messages.ioctl import NO_FILE
from meshfs.transport.listening import listen_unix
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import RawBind, bind, protection_by, second_channel
from meshlab.smb.raw_initiator import RawInitiator, SocketInitiator, file_id_of, make_exporter, read_body, write_body

ECHO = EchoRequest().pack()
MORE = NtStatus.MORE_PROCESSING_REQUIRED
CMAC, GMAC, HMAC = SigningAlgorithm.AES_CMAC, SigningAlgorithm.AES_GMAC, SigningAlgorithm.HMAC_SHA256
WANTED = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION | Capabilities.MULTI_CHANNEL)
EXCLUSIVE = 2


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 20)


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    return RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True)


def connect(exporter: Exporter, **negotiation) -> RawInitiator:
    """A connection that has negotiated and no more."""
    client = RawInitiator(exporter)
    client.negotiate(**negotiation)
    return client


def channel_of(client: RawInitiator, **negotiation) -> RawInitiator:
    channel = RawInitiator(client.exporter)
    second_channel(client, channel, **negotiation)
    return channel


def session_of(client: RawInitiator):
    return client.exporter.sessions[client.session_id]


def close_body(file_id: int) -> bytes:
    return CloseRequest(FileId(file_id, file_id)).pack()


# --- what is offered -------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_1_1])
@pytest.mark.parametrize("asked", [0, Capabilities.MULTI_CHANNEL])
def test_channels_are_offered_to_who_asks(client, dialect, asked):
    response = RawInitiator(client.exporter).negotiate((dialect,), capabilities=int(Capabilities.LARGE_MTU | asked))
    assert response.capabilities & Capabilities.MULTI_CHANNEL == asked


def test_validate_negotiate_confirms_that_channels_are_offered(client):
    dialects = (Dialect.SMB_3_0, Dialect.SMB_3_0_2)
    other = RawInitiator(client.exporter).log_in(dialects=dialects, capabilities=WANTED)
    mine = ValidateNegotiateRequest(WANTED, b"test client guid", 1, dialects)
    reply = other.call(Command.IOCTL, IoctlRequest(0x00140204, NO_FILE, mine.pack(), 24).pack())
    assert ValidateNegotiateResponse.unpack(IoctlResponse.unpack(reply.body).output).capabilities == WANTED


INTERFACES = (
    NetworkInterface(2, ip_address("10.0.1.1"), 25_000_000_000, NetworkInterface.RSS_CAPABLE),
    NetworkInterface(3, ip_address("fd00::1"), 1_000_000_000),
)


def query_interfaces(client: RawInitiator, *, file_id: FileId = NO_FILE, room: int = 65536):
    return client.call(Command.IOCTL, IoctlRequest(Fsctl.QUERY_NETWORK_INTERFACE_INFO, file_id, b"", room).pack())


def test_interfaces_are_told_as_they_are_now(client):
    known: list[tuple[NetworkInterface, ...]] = [INTERFACES, INTERFACES[:1]]
    client.exporter.interfaces = lambda: known.pop(0)
    channel = RawInitiator(client.exporter).log_in(capabilities=WANTED)
    for expected in (INTERFACES, INTERFACES[:1]):
        answer = IoctlResponse.unpack(query_interfaces(channel).body)
        assert (answer.file_id, unpack_interfaces(answer.output)) == (NO_FILE, expected)


def test_interfaces_are_refused_for_what_is_wrong_with_the_question(client):
    client.exporter.interfaces = lambda: INTERFACES
    single = RawInitiator(client.exporter).log_in(capabilities=int(Capabilities.LARGE_MTU))
    assert query_interfaces(single).status == NtStatus.NOT_SUPPORTED
    other = RawInitiator(client.exporter).log_in(capabilities=WANTED)
    assert query_interfaces(other, room=303).status == NtStatus.BUFFER_TOO_SMALL
    assert query_interfaces(other, room=304).status == 0
    assert query_interfaces(other, file_id=FileId(1, 1)).status == NtStatus.INVALID_PARAMETER
    client.exporter.interfaces = tuple
    assert query_interfaces(other).status == NtStatus.NOT_SUPPORTED


# --- binding ---------------------------------------------------------------------------


@pytest.mark.parametrize("signing", [CMAC, GMAC, HMAC])
@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1])
def test_a_channel_serves_the_sessions_trees_and_opens(disk, dialect, signing):
    negotiation = {"dialects": (dialect,), "signing": (signing,)}
    client = RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True, **negotiation)
    file_id = client.open("disk0")
    channel = channel_of(client, **negotiation)
    assert channel.call(Command.WRITE, write_body(file_id, 0, b"by another way")).status == 0
    reply = client.call(Command.READ, read_body(file_id, 0, 14))
    assert (reply.data, reply.protection) == (b"by another way", Protection.SIGNED)
    assert channel.call(Command.READ, read_body(file_id, 0, 14)).protection == Protection.SIGNED
    assert client.exporter.counters["binds"] == 1


@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.AES_256_CCM])
def test_channels_share_the_sessions_ciphers(disk, cipher):
    client = RawInitiator(make_exporter(Security.ENCRYPT, disk0=disk)).log_in(ciphers=(cipher,), to_be_bound=True)
    file_id = client.open("disk0")
    channel = channel_of(client, ciphers=(cipher,))
    for way in (channel, client, channel):
        reply = way.call(Command.READ, read_body(file_id, 0, 512))
        assert (reply.status, reply.protection) == (0, Protection.SEALED)
    assert channel.call(Command.READ, read_body(file_id, 0, 512), seal=False).status == NtStatus.ACCESS_DENIED


def test_a_channels_key_is_its_own(client):
    channel = channel_of(client)
    key = channel.security
    assert channel.call(Command.ECHO, ECHO).status == 0
    channel.security = client.security
    assert not channel.answered(channel.send(Command.ECHO, ECHO))
    assert key is not client.security
    assert channel.peer.closing
    assert client.call(Command.ECHO, ECHO).status == 0


def test_a_channel_counts_as_logged_in(client):
    told = []
    channel = connect(client.exporter)
    channel.peer.on_stage = told.append
    bind(channel, client)
    assert told == [AdmissionStage.LOGGING_IN, AdmissionStage.LOGGED_IN]
    assert channel.call(Command.ECHO, ECHO, credits=500).credits > limits.CREDITS_UNAUTHENTICATED_MAX
    assert channel.peer.received.frame_max_bytes == limits.FRAME_MAX_BYTES


def test_a_session_has_32_channels_and_no_more(client):
    channels = [client, *(channel_of(client) for _ in range(limits.CHANNELS_PER_SESSION_MAX - 1))]
    one_more = connect(client.exporter)
    reply = bind(one_more, client)
    assert (reply.status, reply.protection) == (NtStatus.INSUFFICIENT_RESOURCES, Protection.SIGNED)
    assert all(channel.call(Command.ECHO, ECHO).status == 0 for channel in channels)
    channels[3].peer.lost()
    assert bind(one_more, client).status == 0


def test_the_last_channel_is_given_to_one_of_two_binds_under_way(client):
    for _ in range(limits.CHANNELS_PER_SESSION_MAX - 2):
        channel_of(client)
    both = [RawBind(connect(client.exporter), client) for _ in range(2)]
    assert [exchange.step().status for exchange in both] == [MORE, MORE]
    assert [exchange.step().status for exchange in both] == [0, NtStatus.INSUFFICIENT_RESOURCES]


# --- refused binds ---------------------------------------------------------------------


def assert_unharmed(client: RawInitiator) -> None:
    session = session_of(client)
    assert (session.state in SERVING, list(session.channels), session.binding) == (True, [client.peer], set())
    assert client.call(Command.ECHO, ECHO).status == 0


def test_a_bind_of_no_session(client):
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


def test_a_bind_that_is_not_signed(client):
    other = connect(client.exporter)
    body = SessionSetupRequest(1, 1, 0, RawBind(other, client).token)
    reply = other.call(Command.SESSION_SETUP, body.pack(), sign=False, session_id=client.session_id)
    assert (reply.status, reply.protection) == (NtStatus.INVALID_PARAMETER, Protection.NONE)
    assert_unharmed(client)


def test_a_bind_is_signed_not_sealed(disk):
    client = RawInitiator(make_exporter(Security.ENCRYPT, disk0=disk)).log_in(to_be_bound=True)
    token = RawBind(channel_of(client), client).token
    for flags in (0, Flags.SIGNED):
        reply = client.call(Command.SESSION_SETUP, SessionSetupRequest(1, 1, 0, token).pack(), flags=int(flags))
        assert (reply.status, reply.protection) == (NtStatus.INVALID_PARAMETER, Protection.SEALED)
    assert client.call(Command.ECHO, ECHO).status == 0


def test_who_has_another_key_gets_no_signature_out_of_it(client):
    """A stranger who could have any message id signed would have AES-GMAC's secret after two of them."""
    thief = RawInitiator(client.exporter).log_in("n3")
    other = connect(client.exporter)
    reply = RawBind(other, client).step(sign=thief.security)
    assert (reply.status, reply.protection) == (NtStatus.ACCESS_DENIED, Protection.NONE)
    assert reply.view[48:64] == bytes(16)
    assert not other.peer.binds
    assert client.exporter.counters["bad_signatures"] == 1
    assert_unharmed(client)


def test_a_node_cannot_bind_to_anothers_session(client):
    """Not even with the session's key: its user's password is needed as well."""
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


def test_a_bind_begun_anew_in_the_middle_fails_and_the_next_works(client):
    other = connect(client.exporter)
    assert RawBind(other, client).step().status == MORE
    assert RawBind(other, client).step().status == NtStatus.LOGON_FAILURE
    assert bind(other, client).status == 0


@pytest.mark.parametrize("bound", [False, True])
def test_a_bind_where_the_session_is_already(client, bound):
    """There the channel's own key is the one, as on Windows."""
    where = channel_of(client) if bound else client
    reply = RawBind(where, client).step(sign=where.security)
    assert reply.status == NtStatus.REQUEST_NOT_ACCEPTED
    assert protection_by(reply, where.security) == Protection.SIGNED
    if bound:
        assert RawBind(where, client).step().status == NtStatus.ACCESS_DENIED
    assert where.call(Command.ECHO, ECHO).status == 0


def test_a_bind_to_a_session_that_is_not_valid_yet(client):
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


def test_a_session_is_bound_by_its_own_key_when_its_first_channel_is_gone(client):
    file_id = client.open("disk0")
    second = channel_of(client)
    client.peer.lost()
    third = channel_of(client)
    second.peer.lost()
    assert third.call(Command.READ, read_body(file_id, 0, 512)).status == 0
    # Logging in once more works there as well, by the channel's key.
    reply = third.set_up("n2")
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)


def test_a_lost_channels_requests_end_where_they_are(disk):
    """Queued ones never reach the disk; one that is there ends by itself, and its reply is dropped."""
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
    # The lock is not granted to nobody: who asks next gets it.
    other.call(Command.CLOSE, close_body(theirs))
    third = RawInitiator(client.exporter).log_in("n3")
    again = third.open("disk0")
    assert third.call(Command.LOCK, LockRequest(FileId(again, again), (lock,)).pack()).status == 0


def test_a_lost_connection_takes_only_its_own_part_of_each_session(client):
    """One connection is a channel of one session and the only one of another."""
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


def test_a_failed_login_once_more_ends_the_session_on_all_channels(client):
    channel = channel_of(client)
    assert channel.set_up("n2", "wrong").status == NtStatus.LOGON_FAILURE
    for where in (client, channel):
        assert where.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED


def test_logins_once_more_on_two_channels_do_not_mix(client):
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


def test_a_login_once_more_that_its_channel_takes_with_it(client):
    channel = channel_of(client)
    exchange = RawBind(channel, client)
    reply = channel.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, exchange.token).pack())
    assert reply.status == MORE
    channel.peer.lost()
    assert not session_of(client).logins
    assert client.set_up("n2").status == 0


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
    # The connection is as good as new.
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


def test_log_off_that_waits_for_a_disk_lets_nobody_in(disk, client):
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


# --- PreviousSessionId -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["another", "bound"])
def test_the_previous_session_ends_on_all_its_channels_before_a_disk_is_opened(disk, client, where):
    file_id = client.open("disk0", share=0)
    channels = [channel_of(client) for _ in range(2)]
    channels[1].call(Command.ECHO, ECHO, credits=10)
    disk.stall()
    for way in (client, *channels):
        way.send(Command.WRITE, write_body(file_id, 0, b"old" + bytes(509)))
    # Also what a channel left behind that is gone by now.
    channels[0].peer.lost()
    new = channels[1] if where == "bound" else connect(client.exporter)
    new.session_id, new.security, new.session_security = 0, None, None
    assert new.set_up(previous=client.session_id).status == 0
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
    new.connect("disks")
    opening = new.create("disk0", share=0)
    assert opening.status == NtStatus.PENDING
    disk.release(lambda request: request.context.peer is not client.peer)
    new.collect()
    assert not new.answered(opening.message_id)
    disk.release()
    new.collect()
    mine = file_id_of(new.take(opening.message_id))
    assert new.call(Command.WRITE, write_body(mine, 0, b"new")).status == 0
    assert disk.data[:3] == b"new"
    assert new.peer.received.frame_max_bytes == limits.FRAME_MAX_BYTES


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
        # Flagged as signed, with no signature: nothing is signed for a stranger.
        assert (reply.flags & Flags.SIGNED, reply.view[48:64]) == (Flags.SIGNED, bytes(16))
        assert not other.call(command, body, sign=False).flags & Flags.SIGNED
    with pytest.raises(RemoteProtocolError, match="no keys"):
        other.deliver(other.pack(Command.ECHO, ECHO, seal=True)[1])
    assert_unharmed(client)


# --- over sockets ----------------------------------------------------------------------


async def test_a_channel_stays_where_a_stranger_is_dropped_and_outlives_the_first(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.3)
    server, path, in_thread = make_exporter(disk0=disk), tmp_path / "n1.sock", trio.to_thread.run_sync
    with listen_unix(path) as listening, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Listener(server, [listening]).run)
            with SocketInitiator(str(path)) as first, SocketInitiator(str(path)) as second:
                await in_thread(functools.partial(first.log_in, to_be_bound=True))
                file_id = await in_thread(first.open, "disk0")
                await in_thread(second_channel, first, second)
                with SocketInitiator(str(path)) as stranger:
                    await in_thread(stranger.negotiate)
                    half = await in_thread(RawBind, stranger, first)
                    assert (await in_thread(half.step)).status == MORE
                    # A bind that is not granted buys no time.
                    with pytest.raises(EOFError):
                        await in_thread(stranger.answered, 1000)
                assert server.counters["login_timeouts"] == 1
                first.socket.close()
                while server.counters["channels_lost"] < 1:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.005)
                reply = await in_thread(second.call, Command.READ, read_body(file_id, 0, 512))
                assert reply.status == 0
                # Who logs off is a stranger again, on every channel.
                assert (await in_thread(second.call, Command.LOGOFF, LogoffRequest().pack())).status == 0
                with pytest.raises(EOFError):
                    await in_thread(second.answered, 1000)
            nursery.cancel_scope.cancel()
    assert not server.sessions
    assert not server.peers
