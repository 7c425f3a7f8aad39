"""Keys, signatures and sealing: known answers, both ends against each other, and tampering."""

import random

import pytest

from meshfs import limits
from meshfs.errors import LocalProtocolError, RemoteProtocolError, RepeatedNonce
from meshfs.smb.constants import TRANSFORM_HEADER_BYTES, Cipher, Dialect, SigningAlgorithm
from meshfs.smb.sealing import SEAL_HEAD_BYTES, parse_transform_header
from meshfs.smb.security import (
    BindSecurity,
    ChannelSecurity,
    PeerNonces,
    PreauthHash,
    bound_security,
    channel_security,
    derive_key,
    signing_signer,
)
from meshfs.smb.signing import NONCE_EXPORTER, NONCE_INITIATOR, CmacSigner, Signer

pytestmark = pytest.mark.free_nonces
KEY = bytes(range(16))
ROOM = 16


def pair(
    cipher: Cipher, algorithm: SigningAlgorithm = SigningAlgorithm.AES_GMAC
) -> tuple[ChannelSecurity, ChannelSecurity]:
    preauth = bytes(range(64))
    initiator = channel_security(Dialect.SMB_3_1_1, algorithm, cipher, KEY, preauth, 7, exporter=False)
    exporter = channel_security(Dialect.SMB_3_1_1, algorithm, cipher, KEY, preauth, 7, exporter=True)
    return initiator, exporter


def test_signing_key_of_smb_3_0_known_answer() -> None:
    """The answer is from Microsoft's published walk through SMB 3.0's signing."""
    session_key = bytes.fromhex("7cd451825d0450d235424e44ba6e78cc")
    assert derive_key(session_key, b"SMB2AESCMAC\0", b"SmbSign\0").hex() == "0b7e9c5cac36c0f6ea9ab275298cedce"


def test_cmac_known_answer() -> None:
    """This is RFC 4493, example 3, through a message whose signature field is zero anyway."""
    signer = CmacSigner(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"))
    message = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411")
    assert signer._mac(message).hex() == "dfa66747de9ae63030ca32611497c827"


def test_preauth_hash_chains() -> None:
    one = PreauthHash()
    one.update(b"a")
    copy = one.copy()
    one.update(b"b")
    assert copy.value != one.value
    copy.update(memoryview(b"b"))
    assert copy.value == one.value


def test_no_key_below_smb_3() -> None:
    with pytest.raises(LocalProtocolError):
        signing_signer(Dialect.SMB_2_1, SigningAlgorithm.HMAC_SHA256, KEY, bytes(64))


@pytest.mark.parametrize("algorithm", list(SigningAlgorithm))
class TestSigning:
    def signer(self, algorithm: SigningAlgorithm) -> Signer:
        return pair(Cipher.NONE, algorithm)[0].signer

    def test_every_flipped_byte_is_noticed(self, algorithm: SigningAlgorithm) -> None:
        signer = self.signer(algorithm)
        message = memoryview(bytearray(random.Random(1).randbytes(48) + bytes(16) + b"body" * 8))
        signer.sign(message, 5, NONCE_INITIATOR)
        signed = bytes(message)
        assert signer.verify(message, 5, NONCE_INITIATOR)
        assert bytes(message) == signed
        for position in range(len(message)):
            message[position] ^= 1
            assert not signer.verify(message, 5, NONCE_INITIATOR), position
            message[position] ^= 1

    @pytest.mark.parametrize("size", [0, 1, 4096, 32768, 32769, 1 << 20])
    def test_parts_and_whole_sign_alike(self, algorithm: SigningAlgorithm, size: int) -> None:
        signer = self.signer(algorithm)
        data = random.Random(size).randbytes(size)
        head = bytearray(b"prefixed" + random.Random(2).randbytes(48) + bytes(16) + b"fixed part")
        signer.sign_parts(head, 8, data, 9)
        assert signer.verify(memoryview(head[8:] + data), 9, NONCE_INITIATOR)


def test_gmac_binds_message_id_and_direction() -> None:
    signer = pair(Cipher.NONE)[0].signer
    message = memoryview(bytearray(80))
    signer.sign(message, 5, NONCE_INITIATOR)
    assert not signer.verify(message, 6, NONCE_INITIATOR)
    assert not signer.verify(message, 5, NONCE_EXPORTER)


CIPHERS = [cipher for cipher in Cipher if cipher is not Cipher.NONE]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_1_1])
def test_sealed_both_ways(cipher: Cipher, dialect: Dialect) -> None:
    ends = [
        channel_security(dialect, SigningAlgorithm.AES_CMAC, cipher, KEY, bytes(64), 7, exporter=exporter)
        for exporter in (False, True)
    ]
    for sender, receiver in (ends, ends[::-1]):
        assert sender.sealer is not None
        assert receiver.opener is not None
        for size in (64, 100, 70_000):
            plain = random.Random(size).randbytes(size)
            memory = memoryview(bytearray(bytes(sender.sealer.seal(plain)) + b"\xaa" * ROOM))
            frame = memory[4:-ROOM]
            assert parse_transform_header(frame) == (size, 7)
            into = memoryview(bytearray(size))
            receiver.opener.open(memory, 4, len(frame), into)
            assert into == plain
            assert memory[-ROOM:] == b"\xaa" * ROOM


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("size", [64, 4176, 1 << 20])
def test_sealed_in_place(cipher: Cipher, size: int) -> None:
    initiator, exporter = pair(cipher)
    assert exporter.sealer is not None
    assert initiator.opener is not None
    plain = random.Random(size).randbytes(size)
    memory = memoryview(bytearray(b"\xbb" * 100 + plain + b"\xbb" * 100))
    frame = exporter.sealer.seal_in_place(memory, 100, size)
    assert bytes(memory[: 100 - SEAL_HEAD_BYTES]) == b"\xbb" * (100 - SEAL_HEAD_BYTES)
    assert bytes(memory[100 + size + ROOM :]) == b"\xbb" * (100 - ROOM)
    received = memoryview(bytearray(bytes(frame) + bytes(ROOM)))
    assert parse_transform_header(received[4:-ROOM]) == (size, 7)
    into = memoryview(bytearray(size))
    initiator.opener.open(received, 4, len(frame) - 4, into)
    assert into == plain


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_flipped_byte_of_a_sealed_frame_is_noticed(cipher: Cipher) -> None:
    initiator, exporter = pair(cipher)
    assert initiator.sealer is not None
    assert exporter.opener is not None
    sealed = bytes(initiator.sealer.seal(b"m" * 80)) + bytes(ROOM)
    for position in range(8, len(sealed) - ROOM):
        memory = memoryview(bytearray(sealed))
        memory[position] ^= 1
        with pytest.raises(RemoteProtocolError):
            exporter.opener.open(memory, 4, len(sealed) - ROOM - 4, memoryview(bytearray(80)))


def tagged_channels(cipher: Cipher) -> tuple[tuple[ChannelSecurity, ChannelSecurity], ...]:
    """Return two channels of one session, each as (initiator's, exporter's)."""
    ends = [
        channel_security(
            Dialect.SMB_3_1_1,
            SigningAlgorithm.AES_GMAC,
            cipher,
            KEY,
            bytes(range(64)),
            7,
            exporter=exporter,
            nonces=PeerNonces.TAGGED,
        )
        for exporter in (False, True)
    ]
    bound = [
        bound_security(end, Dialect.SMB_3_1_1, SigningAlgorithm.AES_GMAC, KEY, bytes(range(64, 128))) for end in ends
    ]
    return (ends[0], ends[1]), (bound[0], bound[1])


def opened(end: ChannelSecurity, frame: bytes) -> bytes:
    assert end.opener is not None
    memory = memoryview(bytearray(frame + bytes(ROOM)))
    into = memoryview(bytearray(len(frame) - SEAL_HEAD_BYTES))
    end.opener.open(memory, 4, len(frame) - 4, into)
    return bytes(into)


@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.AES_256_CCM])
def test_a_message_of_another_channel_is_refused(cipher: Cipher) -> None:
    """A message is refused on another channel also if it never reached its own channel."""
    first, second = tagged_channels(cipher)
    for sender, receiver in ((0, 1), (1, 0)):
        here, there = first[sender].sealer, second[sender].sealer
        assert here is not None
        assert there is not None
        frames = [bytes(sealer.seal(bytes([number]) * 64)) for number, sealer in enumerate((here, there, here, there))]
        assert len({frame[24:30] for frame in frames}) == 4
        assert len({frame[30:35] for frame in frames}) == 2
        with pytest.raises(RepeatedNonce, match="another channel"):
            opened(second[receiver], frames[0])
        with pytest.raises(RepeatedNonce, match="another channel"):
            opened(first[receiver], frames[1])
        for number, frame in enumerate(frames):
            assert opened((first, second)[number % 2][receiver], frame) == bytes([number]) * 64


def test_nonces_seen_are_those_of_all_channels() -> None:
    initiator, exporter = pair(Cipher.AES_128_GCM)
    bound = bound_security(exporter, Dialect.SMB_3_1_1, SigningAlgorithm.AES_GMAC, KEY, bytes(64))
    assert initiator.sealer is not None
    frame = bytes(initiator.sealer.seal(bytes(64)))
    assert opened(exporter, frame) == bytes(64)
    for end in (exporter, bound):
        with pytest.raises(RepeatedNonce, match="seen before"):
            opened(end, frame)


def test_nonces_of_a_session_with_one_channel_are_not_remembered() -> None:
    security = channel_security(
        Dialect.SMB_3_1_1,
        SigningAlgorithm.AES_GMAC,
        Cipher.AES_128_GCM,
        KEY,
        bytes(64),
        7,
        exporter=True,
        nonces=PeerNonces.ONE_CHANNEL,
    )
    assert security.opener is not None
    assert security.opener.seen is None
    assert not security.opener.tagged


def test_a_binds_key_signs_with_each_message_id_once() -> None:
    session = pair(Cipher.NONE)[0]
    key = BindSecurity(session, 9)
    message = bytearray(100)
    with pytest.raises(LocalProtocolError, match="not reserved"):
        key.signer.sign(message, 3, NONCE_EXPORTER)
    assert key.reserve(3)
    key.signer.sign(message, 3, NONCE_EXPORTER)
    assert session.signer.verify(memoryview(message), 3, NONCE_EXPORTER)
    assert not key.reserve(3)
    with pytest.raises(LocalProtocolError, match="not reserved"):
        key.signer.sign(bytearray(101), 3, NONCE_EXPORTER)
    assert key.reserve(8)
    key.signer.sign_parts(bytearray(80), 0, b"data", 8)
    with pytest.raises(LocalProtocolError, match="not reserved"):
        key.signer.sign_parts(bytearray(80), 0, b"other data", 8)
    assert not key.reserve(9)
    assert not BindSecurity(session, 1 << 40).reserve(limits.BIND_MESSAGE_IDS)


@pytest.mark.parametrize("algorithm", [SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256])
def test_a_binds_key_without_nonces_signs_with_any_message_id(algorithm: SigningAlgorithm) -> None:
    session = pair(Cipher.NONE, algorithm)[0]
    key = BindSecurity(session, 0)
    for number in range(3):
        assert key.reserve(5)
        key.signer.sign(bytearray([number]) + bytearray(99), 5, NONCE_EXPORTER)


def test_nonces_never_repeat() -> None:
    sealer = pair(Cipher.AES_128_GCM)[0].sealer
    assert sealer is not None
    nonces = {bytes(sealer.seal(b"m" * 64)[24:40]) for _ in range(1000)}
    assert len(nonces) == 1000


@pytest.mark.parametrize("length", range(TRANSFORM_HEADER_BYTES))
def test_truncated_transform_header(length: int) -> None:
    sealer = pair(Cipher.AES_128_GCM)[0].sealer
    assert sealer is not None
    with pytest.raises(RemoteProtocolError):
        parse_transform_header(sealer.seal(b"m" * 64)[4 : 4 + length])


def test_a_bound_channel_signs_by_its_own_key_and_shares_the_nonces() -> None:
    session, _ = pair(Cipher.AES_128_GCM)
    bound = bound_security(session, Dialect.SMB_3_1_1, SigningAlgorithm.AES_GMAC, bytes(16), bytes(64))
    message = memoryview(bytearray(80))
    bound.signer.sign(message, 5, NONCE_INITIATOR)
    assert bound.signer.verify(message, 5, NONCE_INITIATOR)
    assert not session.signer.verify(message, 5, NONCE_INITIATOR)
    assert session.sealer is not None
    assert bound.sealer is not None
    frames = [bytes(channel.sealer.seal(bytes(64))) for channel in (session, bound) if channel.sealer]
    nonces = {frame[24:40] for frame in frames}
    assert len(nonces) == 2
