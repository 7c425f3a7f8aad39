"""The exporter signs and encrypts no two messages with one key under one nonce, whatever a peer sends.

The recorder of tests/support/nonces.py watches each message. After each test, the fixture ``record`` looks for repeats.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import Capabilities, Cipher, Command, Dialect, Flags, NtStatus, SigningAlgorithm
from meshfs.smb.messages import EchoRequest, SessionSetupRequest, Signing, only_context
from meshfs.smb.signing import BindSigner
from meshfs.smb.wire import pack_header
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import RawBind, bind, protection_by, second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import Reply, read_body, write_body
from support import nonces

ECHO = EchoRequest().pack()
MORE = NtStatus.MORE_PROCESSING_REQUIRED
CMAC, GMAC, HMAC = SigningAlgorithm.AES_CMAC, SigningAlgorithm.AES_GMAC, SigningAlgorithm.HMAC_SHA256
SINGLE = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION)
BINDING = 1


@pytest.fixture(autouse=True)
def record(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "nonces"
    folder.mkdir()
    with nonces.elsewhere(folder):
        yield folder
    assert nonces.repeats(folder) == []


@pytest.fixture
def exporter(disk: MemoryDisk) -> Exporter:
    return make_exporter(disk0=disk)


@pytest.fixture
def client(exporter: Exporter) -> RawInitiator:
    return RawInitiator(exporter).log_in(to_be_bound=True)


def careless(session: RawInitiator, **negotiation: object) -> RawBind:
    """Return a bind that uses message ids from 1 on, as a recorded bind and binds of other clients do."""
    client = RawInitiator(session.exporter)
    client.negotiate(**negotiation)  # type: ignore[arg-type]
    before, session.next_bind_id = session.next_bind_id, [1]
    exchange = RawBind(client, session)
    session.next_bind_id = before
    return exchange


def assert_refused(reply: Reply, status: int = NtStatus.NOT_SUPPORTED) -> None:
    """Check a refusal. It has the flag of a signature, so that Samba's client believes it, and no signature."""
    assert reply.status == status
    assert reply.view[48:64] == bytes(16)


# --- the session's key and its binds -----------------------------------------------------


def test_a_message_id_serves_one_bind(client: RawInitiator) -> None:
    first = careless(client)
    assert first.step().protection == Protection.SIGNED
    assert first.step().protection == Protection.SIGNED
    for _ in range(3):
        assert_refused(careless(client).step())
    assert client.exporter.counters["nonces_repeated"] == 3
    # A bind with unused message ids is granted.
    client.next_bind_id = [10]
    second_channel(client, RawInitiator(client.exporter))
    assert len(client.exporter.sessions[client.session_id].channels) == 3


def test_two_binds_at_once_with_the_same_message_ids(client: RawInitiator) -> None:
    one, other = careless(client), careless(client)
    assert one.step().status == MORE
    assert_refused(other.step())
    assert not other.client.peer.binds
    assert one.step().status == 0


@pytest.mark.parametrize("why", ["password", "user", "signing", "dialect", "channels", "bound", "guid"])
def test_refusals_are_signed_once_under_one_message_id(client: RawInitiator, why: str) -> None:
    if why == "channels":
        for _ in range(limits.CHANNELS_PER_SESSION_MAX - 1):
            second_channel(client, RawInitiator(client.exporter))
        client.next_bind_id[0] = limits.BIND_MESSAGE_IDS - 10
    negotiation = {
        "signing": {"signing": (CMAC,)},
        "dialect": {"dialects": (Dialect.SMB_3_0,)},
        "guid": {"guid": bytes(16)},
    }.get(why, {})
    first_id = client.next_bind_id[0] + 3
    signed = 0
    for attempt in range(3):
        other = RawInitiator(client.exporter)
        other.negotiate(**negotiation)  # type: ignore[arg-type]
        client.next_bind_id = [first_id]
        user, password = ("n3", None) if why == "user" else ("n2", "wrong" if why == "password" else None)
        exchange = RawBind(other, client, user, password)
        if why == "bound" and not attempt:
            assert [exchange.step().status for _ in range(2)] == [MORE, 0]
            continue
        reply = exchange.step()
        while reply.status == MORE:
            signed += reply.protection == Protection.SIGNED
            reply = exchange.step()
        assert reply.status
        signed += protection_by(reply, exchange.key) == Protection.SIGNED
        if attempt:
            assert reply.view[48:64] == bytes(16)
    assert signed <= 2


def test_an_id_that_the_first_channel_signs_with_is_no_binds(exporter: Exporter) -> None:
    client = RawInitiator(exporter).log_in()
    login_id = 2
    other = RawInitiator(exporter)
    other.negotiate()
    client.next_bind_id = [login_id]
    assert_refused(RawBind(other, client).step())
    assert client.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("how", ["early id left", "in flight", "compound"])
def test_a_login_beside_other_requests_makes_a_session_without_binds(exporter: Exporter, how: str) -> None:
    """The first channel may still get a request with a lower message id than the login had, and signs its reply."""
    client = RawInitiator(exporter)
    client.negotiate()
    client.skip_ids(20)
    client.call(Command.ECHO, ECHO, credits=16, session_id=0, sign=False)
    if how == "early id left":
        client.next_id += 1
        reply = client.set_up()
        assert reply.status == 0
        late = client.call(Command.ECHO, ECHO, message_id=21)
        assert late.protection == Protection.SIGNED
    elif how == "in flight":
        window = client.peer.window
        assert window.take(client.next_id, 1)
        client.next_id += 1
        assert client.set_up().status == 0
    else:
        _log_in_by_compound(client)
    security = exporter.sessions[client.session_id].bind_security
    assert security is not None
    assert isinstance(security.signer, BindSigner)
    assert not any(map(security.reserve, range(300)))
    if how == "compound":
        # The hash over the login contains NextCommand of the first part, so this client has other keys.
        return
    client.next_bind_id = [1]
    other = RawInitiator(exporter)
    other.negotiate()
    assert_refused(RawBind(other, client).step())


def _log_in_by_compound(client: RawInitiator) -> None:
    """Log in. The last SESSION_SETUP is the first part of a compound whose second part has a lower message id."""
    deliver = client.deliver
    setups = 0

    def delivering(*frames: bytes | bytearray | memoryview) -> None:
        nonlocal setups
        setups += 1
        if setups < 2:
            deliver(*frames)
            return
        [frame] = frames
        first = bytearray(frame[4:])
        first += bytes(-len(first) % 8)
        first[20:24] = len(first).to_bytes(4, "little")
        low = pack_header(Command.ECHO, message_id=21, flags=int(Flags.RELATED_OPERATIONS), credits=1) + ECHO
        joined = bytes(first) + low
        deliver(len(joined).to_bytes(4, "big") + joined)

    client.next_id += 1
    client.deliver = delivering  # type: ignore[method-assign]
    assert client.set_up().status == 0
    client.deliver = deliver  # type: ignore[method-assign]


def test_compounds_of_binds_get_a_signature_for_each_message_id_once(client: RawInitiator) -> None:
    exchange = careless(client)
    other = exchange.client
    other.call(Command.ECHO, ECHO, credits=8, session_id=0, sign=False, tree_id=0)
    body = SessionSetupRequest(BINDING, 1, 0, exchange.token or b"").pack()
    signed = []
    for _ in range(3):
        again = RawInitiator(client.exporter)
        again.negotiate()
        again.next_id = 1
        again.call(Command.ECHO, ECHO, credits=8, session_id=0, sign=False)
        again.security, again.session_id = client.session_security, client.session_id
        ids = again.compound(
            (Command.SESSION_SETUP, body, {"tree_id": 0}), (Command.SESSION_SETUP, body, {"tree_id": 0})
        )
        assert ids == [2, 3]
        replies = [each for each in again.replies if each.message_id in ids]
        signed += [each.message_id for each in replies if protection_by(each, exchange.key) == Protection.SIGNED]
    assert sorted(signed) == [2, 3]


@pytest.mark.parametrize("signing", [CMAC, HMAC])
def test_keys_without_nonces_may_sign_as_often_as_they_like(exporter: Exporter, signing: SigningAlgorithm) -> None:
    client = RawInitiator(exporter).log_in(signing=(signing,))
    for _ in range(3):
        exchange = careless(client, signing=(signing,))
        assert [exchange.step().status for _ in range(2)] == [MORE, 0]


# --- other clients -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "capabilities", "unique", "chosen"),
    [
        ((GMAC, CMAC, HMAC), SINGLE | Capabilities.MULTI_CHANNEL, False, CMAC),
        ((GMAC, HMAC), SINGLE | Capabilities.MULTI_CHANNEL, False, HMAC),
        ((GMAC,), SINGLE | Capabilities.MULTI_CHANNEL, False, GMAC),
        ((GMAC, CMAC, HMAC), SINGLE | Capabilities.MULTI_CHANNEL, True, GMAC),
        ((GMAC, CMAC, HMAC), SINGLE, False, GMAC),
        ((CMAC, HMAC), SINGLE, True, CMAC),
    ],
)
def test_clients_that_may_repeat_bind_ids_use_signatures_without_nonces(
    exporter: Exporter, offered: tuple[int, ...], capabilities: int, unique: bool, chosen: SigningAlgorithm
) -> None:
    client = RawInitiator(exporter)
    response = client.negotiate(signing=offered, capabilities=int(capabilities), unique_nonces=unique)
    settled = only_context(response.contexts, Signing)
    assert settled is not None
    assert settled.algorithms == (chosen,)
    assert client.connection.negotiated.unique_nonces == unique
    assert client.set_up().status == 0
    assert client.call(Command.ECHO, ECHO).protection == Protection.SIGNED


def test_a_stranger_with_gmac_alone_cannot_bind(exporter: Exporter) -> None:
    client = RawInitiator(exporter).log_in(unique_nonces=False)
    exchange = careless(client, unique_nonces=False)
    assert exchange.step().protection == Protection.SIGNED
    assert_refused(exchange.step())
    assert_refused(careless(client, unique_nonces=False).step())


def test_a_session_that_asked_for_one_channel_has_one(exporter: Exporter) -> None:
    client = RawInitiator(exporter).log_in(to_be_bound=True, capabilities=SINGLE)
    other = RawInitiator(exporter)
    other.negotiate()
    reply = bind(other, client)
    assert (reply.status, reply.protection) == (NtStatus.REQUEST_NOT_ACCEPTED, Protection.SIGNED)


# --- encrypted messages of clients whose nonces are no counter -----------------------------


def by_lot(client: RawInitiator, seed: int = 0) -> RawInitiator:
    """Let the client draw its nonces at random, as the Linux kernel's client does."""
    draw = random.Random(seed)
    assert client.security is not None
    assert client.security.sealer is not None
    client.security.sealer._count = lambda: draw.getrandbits(96)
    return client


def sealed(disk: MemoryDisk, **negotiation: object) -> RawInitiator:
    exporter = make_exporter(Security.ENCRYPT, disk0=disk)
    client = RawInitiator(exporter).log_in(unique_nonces=False, signing=(CMAC,), **negotiation)  # type: ignore[arg-type]
    client.call(Command.ECHO, ECHO, credits=200)
    return client


@pytest.mark.parametrize("capabilities", [SINGLE, SINGLE | int(Capabilities.MULTI_CHANNEL)])
@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.AES_256_CCM])
def test_on_one_connection_message_ids_refuse_a_repeat(disk: MemoryDisk, cipher: Cipher, capabilities: int) -> None:
    client = by_lot(sealed(disk, ciphers=(cipher,), capabilities=capabilities))
    file_id = client.open("disk0")
    _, frame = client.pack(Command.WRITE, write_body(file_id, 0, b"older"))
    copy = bytes(frame)
    client.deliver(frame)
    assert client.call(Command.WRITE, write_body(file_id, 0, b"newer")).status == 0
    opener = client.exporter.sessions[client.session_id].security.opener  # type: ignore[union-attr]
    assert opener is not None
    assert (opener.seen is None) == (capabilities == SINGLE)
    opener.seen = None
    with pytest.raises(RemoteProtocolError, match="was not granted"):
        client.deliver(copy)
    assert disk.data[:5] == b"newer"


def test_one_channel_goes_on_when_no_more_nonces_are_remembered(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NONCES_REMEMBERED_MAX", 16)
    client = by_lot(sealed(disk))
    file_id = client.open("disk0")
    for _ in range(50):
        assert client.call(Command.READ, read_body(file_id, 0, 512)).status == 0
    assert client.exporter.counters["nonces_full"] == 1
    other = RawInitiator(client.exporter)
    other.negotiate(unique_nonces=False, signing=(CMAC,))
    reply = bind(other, client)
    assert (reply.status, reply.protection) == (NtStatus.REQUEST_NOT_ACCEPTED, Protection.SIGNED)
    assert client.call(Command.READ, read_body(file_id, 0, 512)).status == 0


def test_of_several_channels_the_first_is_left_when_no_more_nonces_are_remembered(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NONCES_REMEMBERED_MAX", 16)
    client = by_lot(sealed(disk))
    file_id = client.open("disk0")
    channel = RawInitiator(client.exporter)
    second_channel(client, channel, unique_nonces=False, signing=(CMAC,))
    early, late = [
        client.pack(Command.WRITE, write_body(file_id, 0, data), message_id=client.next_id + number)[1]
        for number, data in enumerate((b"early", b"late."))
    ]
    copy = bytes(early)
    client.deliver(early, late)
    client.next_id += 2
    for _ in range(50):
        assert client.call(Command.READ, read_body(file_id, 0, 512)).status == 0
    assert channel.peer.closing
    assert not client.peer.closing
    # No further request of the channel that ends is carried out.
    channel.deliver(channel.pack(Command.WRITE, write_body(file_id, 0, b"after"))[1])
    assert disk.data[:5] == b"late."
    # A message whose nonce was remembered is still refused, also on the channel that is left.
    with pytest.raises(RemoteProtocolError, match="seen before"):
        client.deliver(copy)
