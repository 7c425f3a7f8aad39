"""NEGOTIATE: which dialects and algorithms the exporter chooses, what it refuses, and how a change is noticed."""

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Command,
    Dialect,
    HashAlgorithm,
    NtStatus,
    SecurityMode,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    EchoRequest,
    Encryption,
    IoctlRequest,
    IoctlResponse,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    Signing,
    Smb1Negotiate,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    only_context,
)
from meshfs.smb.messages.ioctl import NO_FILE
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import framed

ALL_SIGNING = (SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256, SigningAlgorithm.AES_GMAC)
ALL_CIPHERS = (Cipher.AES_256_CCM, Cipher.AES_128_CCM, Cipher.AES_256_GCM, Cipher.AES_128_GCM)
ECHO = EchoRequest().pack()
SMB1 = Smb1Negotiate((b"NT LM 0.12", b"SMB 2.002", Smb1Negotiate.SMB_2_WILDCARD))


def exporter(security: Security = Security.SIGN):
    return make_exporter(security, disk0=MemoryDisk(1 << 20))


def negotiate_status(client: RawInitiator, *dialects: int, contexts=()) -> int:
    body = NegotiateRequest(dialects, 1, 0, bytes(16), contexts)
    return client.call(Command.NEGOTIATE, body.pack(), sign=False).status


# --- NEGOTIATE -------------------------------------------------------------------------


def test_the_best_of_everything_is_chosen():
    client = RawInitiator(exporter())
    dialects = (Dialect.SMB_2_0_2, Dialect.SMB_3_0, Dialect.SMB_3_1_1, Dialect.SMB_3_0_2)
    response = client.negotiate(dialects, ciphers=ALL_CIPHERS, signing=ALL_SIGNING)
    assert response.dialect == Dialect.SMB_3_1_1
    assert only_context(response.contexts, Encryption).algorithms == (Cipher.AES_128_GCM,)
    assert only_context(response.contexts, Signing).algorithms == (SigningAlgorithm.AES_GMAC,)
    assert response.security_mode == SecurityMode.SIGNING_ENABLED | SecurityMode.SIGNING_REQUIRED
    assert response.capabilities == Capabilities.LARGE_MTU | Capabilities.MULTI_CHANNEL
    assert response.max_read_bytes == response.max_write_bytes == limits.IO_SIZE_MAX_BYTES


@pytest.mark.parametrize("signing", [*ALL_SIGNING, None])
@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1])
def test_every_dialect_and_signing_algorithm_logs_in(dialect, signing):
    client = RawInitiator(exporter())
    client.log_in(dialects=(dialect,), signing=(signing,) if signing is not None else ())
    reply = client.call(Command.ECHO, ECHO)
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)


@pytest.mark.parametrize(
    ("dialect", "cipher"),
    [
        *((Dialect.SMB_3_1_1, cipher) for cipher in ALL_CIPHERS),
        (Dialect.SMB_3_0, Cipher.AES_128_CCM),
        (Dialect.SMB_3_0_2, Cipher.AES_128_CCM),
    ],
)
def test_every_cipher_encrypts(dialect, cipher):
    client = RawInitiator(exporter(Security.ENCRYPT))
    client.log_in(dialects=(dialect,), ciphers=(cipher,))
    assert client.sealed
    reply = client.call(Command.ECHO, ECHO)
    assert (reply.status, reply.protection) == (0, Protection.SEALED)


@pytest.mark.parametrize("dialects", [(Dialect.SMB_2_0_2,), (Dialect.SMB_2_1,), (0x02FF,), (0x1234, 0x0210)])
def test_older_dialects_are_refused_and_the_connection_ends(dialects):
    client = RawInitiator(exporter())
    assert negotiate_status(client, *dialects) == NtStatus.NOT_SUPPORTED
    assert client.peer.closing


def test_a_client_that_begins_in_smb_1_and_offers_smb_2_continues_in_smb_2():
    client = RawInitiator(exporter())
    client.deliver(framed(SMB1.pack()))
    reply = client.take(0)
    assert (reply.status, reply.command, reply.credits) == (0, Command.NEGOTIATE, 1)
    response = NegotiateResponse.unpack(reply.body)
    assert (response.dialect, response.contexts) == (Dialect.SMB_2_WILDCARD, ())
    client.next_id = 1
    # The hash of pre-authentication integrity leaves the packet of SMB 1 out. With another hash, the login fails.
    client.log_in()
    assert client.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("dialects", [(), (b"NT LM 0.12",), (b"NT LM 0.12", b"SMB 2.002")])
def test_a_client_that_offers_only_smb_1_is_disconnected(dialects):
    client = RawInitiator(exporter())
    with pytest.raises(RemoteProtocolError, match="SMB 1 is not supported"):
        client.deliver(framed(Smb1Negotiate(dialects).pack() + bytes(32)))
    assert not client.peer.out


@pytest.mark.parametrize("negotiated", [False, True])
def test_smb_1_comes_once_and_first(negotiated):
    client = RawInitiator(exporter())
    if negotiated:
        client.negotiate()
    else:
        client.deliver(framed(SMB1.pack()))
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.deliver(framed(SMB1.pack()))


def test_negotiate_after_smb_1_has_message_id_1():
    client = RawInitiator(exporter())
    client.deliver(framed(SMB1.pack()))
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.negotiate()


def test_negotiate_without_a_dialect_is_invalid():
    assert negotiate_status(RawInitiator(exporter())) == NtStatus.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("contexts", "status"),
    [
        ((), NtStatus.INVALID_PARAMETER),
        ((PreauthIntegrity((2,)),), NtStatus.SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP),
        ((PreauthIntegrity((HashAlgorithm.SHA_512,)),) * 2, NtStatus.INVALID_PARAMETER),
    ],
)
def test_pre_authentication_integrity_is_a_must(contexts, status):
    client = RawInitiator(exporter())
    assert negotiate_status(client, Dialect.SMB_3_1_1, contexts=contexts) == status


def test_a_second_negotiate_ends_the_connection():
    client = RawInitiator(exporter())
    client.negotiate()
    with pytest.raises(RemoteProtocolError, match="NEGOTIATE"):
        client.negotiate()


def test_nothing_comes_before_negotiate():
    with pytest.raises(RemoteProtocolError):
        RawInitiator(exporter()).call(Command.ECHO, ECHO)


def test_validate_negotiate_confirms_the_values_that_arrived():
    asked = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION)
    client = RawInitiator(exporter()).log_in(dialects=(Dialect.SMB_3_0, Dialect.SMB_3_0_2), capabilities=asked)
    mine = ValidateNegotiateRequest(asked, b"test client guid", 1, (0x0300, 0x0302))
    body = IoctlRequest(0x00140204, NO_FILE, mine.pack(), 24)
    reply = client.call(Command.IOCTL, body.pack())
    answer = ValidateNegotiateResponse.unpack(IoctlResponse.unpack(reply.body).output)
    assert (answer.dialect, answer.security_mode) == (0x0302, 3)
    assert answer.capabilities == Capabilities.LARGE_MTU | Capabilities.ENCRYPTION


def test_a_changed_negotiate_ends_the_connection():
    client = RawInitiator(exporter()).log_in(dialects=(Dialect.SMB_3_0,))
    mine = ValidateNegotiateRequest(int(Capabilities.LARGE_MTU), b"test client guid", 1, (0x0300, 0x0302))
    message_id = client.send(Command.IOCTL, IoctlRequest(0x00140204, NO_FILE, mine.pack(), 24).pack())
    assert not client.answered(message_id)
    assert client.peer.closing
