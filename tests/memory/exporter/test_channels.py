"""Further channels of a session: what is offered, how a channel is bound, and what a channel is good for."""

import functools
from ipaddress import ip_address

import pytest
import trio

from meshfs import limits
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.serving.listener import Listener
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Command,
    Dialect,
    Fsctl,
    NtStatus,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    EchoRequest,
    FileId,
    IoctlRequest,
    IoctlResponse,
    LogoffRequest,
    NetworkInterface,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    unpack_interfaces,
)
from meshfs.smb.messages.ioctl import NO_FILE
from meshfs.transport.listening import listen_unix
from meshlab.smb.raw_binding import RawBind, bind, second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.channels import channel_of, connect

ECHO = EchoRequest().pack()
MORE = NtStatus.MORE_PROCESSING_REQUIRED
CMAC, GMAC, HMAC = SigningAlgorithm.AES_CMAC, SigningAlgorithm.AES_GMAC, SigningAlgorithm.HMAC_SHA256
WANTED = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION | Capabilities.MULTI_CHANNEL)


# --- offers ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_1_1])
@pytest.mark.parametrize("asked", [0, Capabilities.MULTI_CHANNEL])
def test_channels_are_offered_to_clients_that_ask(client, dialect, asked):
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


def test_interfaces_are_listed_as_they_are_at_each_query(client):
    known: list[tuple[NetworkInterface, ...]] = [INTERFACES, INTERFACES[:1]]
    client.exporter.interfaces = lambda: known.pop(0)
    channel = RawInitiator(client.exporter).log_in(capabilities=WANTED)
    for expected in (INTERFACES, INTERFACES[:1]):
        answer = IoctlResponse.unpack(query_interfaces(channel).body)
        assert (answer.file_id, unpack_interfaces(answer.output)) == (NO_FILE, expected)


def test_a_wrong_query_for_interfaces_is_refused(client):
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
                    # A bind that is not granted does not prolong the time for a login.
                    with pytest.raises(EOFError):
                        await in_thread(stranger.answered, 1000)
                assert server.counters["login_timeouts"] == 1
                first.socket.close()
                while server.counters["channels_lost"] < 1:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.005)
                reply = await in_thread(second.call, Command.READ, read_body(file_id, 0, 512))
                assert reply.status == 0
                # After a logoff, the time for a login runs again on every channel.
                assert (await in_thread(second.call, Command.LOGOFF, LogoffRequest().pack())).status == 0
                with pytest.raises(EOFError):
                    await in_thread(second.answered, 1000)
            nursery.cancel_scope.cancel()
    assert not server.sessions
    assert not server.peers
