"""Signing and encryption, and the keys of both. Pure.

Keys are derived by SP800-108 in counter mode with HMAC-SHA256 (MS-SMB2 3.1.4.2). A signature covers the whole message
with a zero signature field (3.1.4.1). AES-GMAC is AES-GCM without plaintext, where the message is the associated data.
To seal a message is to encrypt it with AES-GCM or AES-CCM. The associated data is the transform header from its nonce
on (3.1.4.3). Layout of the transform header (2.2.41): ProtocolId 4s, Signature 16s, Nonce 16s, OriginalMessageSize I,
Reserved H, Flags H, SessionId Q.

AES-GCM and AES-GMAC are broken if one key is used twice with the same nonce. The nonce of a signature is the message
id, so two channels that share a key must not share a message id (`BindSigner`). The nonces of encrypted messages are
counted for the whole session (`Sealer`). A receiver accepts each message only once (`Opener`). The file
docs/security/nonces.md has the reasons.
"""

import copy
import enum
import hashlib
import hmac
import itertools
import struct
from abc import ABC, abstractmethod
from hmac import compare_digest
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as _Cipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from meshfs import limits
from meshfs.errors import ForgedMessage, LocalProtocolError, RemoteProtocolError, RepeatedNonce
from meshfs.smb.constants import (
    PREFIX_BYTES,
    PROTOCOL_ID_TRANSFORM,
    TRANSFORM_HEADER_BYTES,
    Cipher,
    Dialect,
    SigningAlgorithm,
)
from meshfs.smb.replay import SeenNonces

_pack_nonce: Final = struct.Struct("<QI").pack
#: Bits of the third field of a GMAC nonce: whether the exporter sends, and whether the message is a CANCEL (3.1.4.1).
NONCE_INITIATOR: Final = 0
NONCE_EXPORTER: Final = 1
NONCE_CANCEL: Final = 2

_SIGNATURE: Final = slice(48, 64)
_NO_SIGNATURE: Final = bytes(16)
_TAG_BYTES: Final = 16
_TRANSFORM: Final = struct.Struct("<4s16s16sIHHQ")
_FLAG_ENCRYPTED: Final = 0x0001
#: Above this size, joining header and data costs more than setting up an incremental GMAC.
_JOIN_MAX_BYTES: Final = 32768
#: The bytes of a sealed frame before its ciphertext.
SEAL_HEAD_BYTES: Final = PREFIX_BYTES + TRANSFORM_HEADER_BYTES

Memory = memoryview | bytearray


def derive_key(session_key: bytes, label: bytes, context: bytes, length: int = 16) -> bytes:
    """Derive a key by SP800-108 in counter mode, with a counter and a length of 32 bits (MS-SMB2 3.1.4.2)."""
    return KBKDFHMAC(
        algorithm=SHA256(), mode=Mode.CounterMode, length=length, rlen=4, llen=4,
        location=CounterLocation.BeforeFixed, label=label, context=context, fixed=None,
    ).derive(session_key)  # fmt: skip


class PreauthHash:
    """Computes the pre-authentication integrity hash: SHA-512 over all messages so far (MS-SMB2 3.1.5.2).

    In SMB 3.1.1 keys are derived from it. So if somebody changes a message of the login, the keys of the ends differ.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes = bytes(64)) -> None:
        self.value = value

    def update(self, message: bytes | Memory) -> None:
        digest = hashlib.sha512(self.value)
        digest.update(message)
        self.value = digest.digest()

    def copy(self) -> "PreauthHash":
        return PreauthHash(self.value)


class Signer(Protocol):
    """Signs and verifies with one channel's key. Messages are in writable memory, without their prefix."""

    algorithm: SigningAlgorithm

    def sign(self, message: Memory, message_id: int, sender: int) -> None:
        """Write the signature of a message whose signature field is zero."""

    def sign_parts(self, head: bytearray, start: int, data: bytes | memoryview, message_id: int) -> None:
        """Sign an initiator's message that is ``head[start:]`` followed by ``data``."""

    def verify(self, message: memoryview, message_id: int, sender: int) -> bool:
        """Return whether the signature is right. The message is unchanged afterwards."""


class GmacSigner:
    """Signs with AES-128-GMAC."""

    __slots__ = ("_encrypt", "key")
    algorithm = SigningAlgorithm.AES_GMAC

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._encrypt = AESGCM(key).encrypt

    def sign(self, message: Memory, message_id: int, sender: int) -> None:
        message[_SIGNATURE] = self._encrypt(_pack_nonce(message_id, sender), b"", message)

    def sign_parts(self, head: bytearray, start: int, data: bytes | memoryview, message_id: int) -> None:
        nonce = _pack_nonce(message_id, NONCE_INITIATOR)
        if len(data) <= _JOIN_MAX_BYTES:
            tag = self._encrypt(nonce, b"", b"".join((memoryview(head)[start:], data)))
        else:
            gmac = _Cipher(algorithms.AES(self.key), modes.GCM(nonce)).encryptor()
            gmac.authenticate_additional_data(bytes(head[start:]))
            gmac.authenticate_additional_data(data)
            gmac.finalize()
            tag = gmac.tag
        head[start + 48 : start + 64] = tag

    def verify(self, message: memoryview, message_id: int, sender: int) -> bool:
        signature = bytes(message[_SIGNATURE])
        message[_SIGNATURE] = _NO_SIGNATURE
        expected = self._encrypt(_pack_nonce(message_id, sender), b"", message)
        message[_SIGNATURE] = signature
        return compare_digest(expected, signature)


class BindSigner(GmacSigner):
    """Signs the binds of a session with its AES-GMAC key, once with each reserved message id and with no other id.

    Binds are signed with the key of the session's first channel (MS-SMB2 3.2.4.1.1, 3.3.4.1.1). But they are sent on
    other connections, where message ids start at 0 again. The message id is the nonce, so no id may sign twice.
    Therefore the first channel signs with ids from ``end`` on, and all binds share the ids below.
    """

    __slots__ = ("_end", "_reserved", "_used")

    def __init__(self, key: bytes, end: int) -> None:
        super().__init__(key)
        self._end = end
        self._used: set[int] = set()
        #: The used ids with which nothing was signed yet.
        self._reserved: set[int] = set()

    def reserve(self, message_id: int) -> bool:
        """Reserve the id for one signature. Returns False if it is not below ``end``, or was reserved before."""
        if message_id >= self._end or message_id in self._used:
            return False
        self._used.add(message_id)
        self._reserved.add(message_id)
        return True

    def _spend(self, message_id: int) -> None:
        if message_id not in self._reserved:
            raise LocalProtocolError(f"message id {message_id} is not reserved for this signature of a bind")
        self._reserved.discard(message_id)

    def sign(self, message: Memory, message_id: int, sender: int) -> None:
        self._spend(message_id)
        super().sign(message, message_id, sender)

    def sign_parts(self, head: bytearray, start: int, data: bytes | memoryview, message_id: int) -> None:
        self._spend(message_id)
        super().sign_parts(head, start, data, message_id)


class _MacSigner(ABC):
    """Signs with a MAC that takes its input in parts. This is the common base of CMAC and HMAC."""

    __slots__ = ("_key",)
    algorithm: SigningAlgorithm

    def __init__(self, key: bytes) -> None:
        self._key = key

    @abstractmethod
    def _mac(self, *parts: bytes | Memory) -> bytes: ...

    def sign(self, message: Memory, message_id: int, sender: int) -> None:
        message[_SIGNATURE] = self._mac(message)

    def sign_parts(self, head: bytearray, start: int, data: bytes | memoryview, message_id: int) -> None:
        head[start + 48 : start + 64] = self._mac(memoryview(head)[start:], data)

    def verify(self, message: memoryview, message_id: int, sender: int) -> bool:
        expected = self._mac(message[:48], _NO_SIGNATURE, message[64:])
        return compare_digest(expected, message[_SIGNATURE])


class CmacSigner(_MacSigner):
    """Signs with AES-128-CMAC."""

    __slots__ = ()
    algorithm = SigningAlgorithm.AES_CMAC

    def _mac(self, *parts: bytes | Memory) -> bytes:
        mac = CMAC(algorithms.AES(self._key))
        for part in parts:
            mac.update(part)  # type: ignore[arg-type]  # any buffer will do
        return mac.finalize()


class HmacSigner(_MacSigner):
    """Signs with the first half of HMAC-SHA256. A peer of SMB 3.1.1 may ask for it."""

    __slots__ = ()
    algorithm = SigningAlgorithm.HMAC_SHA256

    def _mac(self, *parts: bytes | Memory) -> bytes:
        mac = hmac.new(self._key, digestmod="sha256")
        for part in parts:
            mac.update(part)
        return mac.digest()[:16]


_SIGNERS: Final[dict[SigningAlgorithm, type[GmacSigner] | type[_MacSigner]]] = {
    SigningAlgorithm.AES_GMAC: GmacSigner,
    SigningAlgorithm.AES_CMAC: CmacSigner,
    SigningAlgorithm.HMAC_SHA256: HmacSigner,
}


def _aead(cipher: Cipher, key: bytes) -> AESGCM | AESCCM:
    if cipher in (Cipher.AES_128_GCM, Cipher.AES_256_GCM):
        return AESGCM(key)
    return AESCCM(key, tag_length=_TAG_BYTES)


def _nonce_bytes(cipher: Cipher) -> int:
    return 12 if cipher in (Cipher.AES_128_GCM, Cipher.AES_256_GCM) else 11


#: A counted nonce is the count (6 bytes) and the channel's tag (5 bytes). A nonce of AES-CCM ends there, and a nonce of
#: AES-GCM has one byte more.
_COUNT_BYTES: Final = 6
_TAGGED: Final = slice(_COUNT_BYTES, 11)


def nonce_tag(preauth: bytes) -> bytes:
    """Return the tag in the nonces of a channel's encrypted messages: a part of the hash over the channel's login."""
    return preauth[: _TAGGED.stop - _TAGGED.start]


class Sealer:
    """Encrypts with one session's key in one direction. Nonces are counted, so none is used twice.

    The channels of a session share the key and the count. With a tag, a nonce also names the channel of its message.
    """

    __slots__ = ("_aead", "_count", "_nonce_bytes", "_session_id", "_tag")

    def __init__(self, cipher: Cipher, key: bytes, session_id: int, tag: bytes = b"") -> None:
        self._aead = _aead(cipher, key)
        self._nonce_bytes = _nonce_bytes(cipher)
        self._session_id = session_id
        self._count = itertools.count(1).__next__
        self._tag = _tag_number(tag)

    def on_channel(self, tag: bytes) -> "Sealer":
        """Return a Sealer with the same key and count for another channel."""
        sealer = copy.copy(self)
        sealer._tag = _tag_number(tag)
        return sealer

    def seal(self, message: bytes | Memory) -> memoryview:
        """Return the frame (prefix, transform header, ciphertext) of one message or compound."""
        memory = memoryview(bytearray(SEAL_HEAD_BYTES + len(message) + _TAG_BYTES))
        return self._seal_into(memory, message)

    def seal_in_place(self, memory: memoryview, start: int, length: int) -> memoryview:
        """Encrypt the message ``memory[start:start + length]`` in place and return its frame.

        This overwrites the message, ``SEAL_HEAD_BYTES`` before it and 16 bytes behind it. It saves a copy of the
        payload.
        """
        end = start + length
        return self._seal_into(memory[start - SEAL_HEAD_BYTES : end + _TAG_BYTES], memory[start:end])

    def _seal_into(self, out: memoryview, message: bytes | Memory) -> memoryview:
        nonce = (self._tag + self._count()).to_bytes(16, "little")
        size, head = len(message), SEAL_HEAD_BYTES
        out[:PREFIX_BYTES] = (TRANSFORM_HEADER_BYTES + size).to_bytes(PREFIX_BYTES, "big")
        _TRANSFORM.pack_into(
            out, PREFIX_BYTES, PROTOCOL_ID_TRANSFORM, _NO_SIGNATURE, nonce, size, 0, _FLAG_ENCRYPTED, self._session_id
        )
        aad = bytes(out[PREFIX_BYTES + 20 : head])
        self._aead.encrypt_into(nonce[: self._nonce_bytes], message, aad, out[head:])
        out[PREFIX_BYTES + 4 : PREFIX_BYTES + 20] = out[head + size :]
        return out[: head + size]


def _tag_number(tag: bytes) -> int:
    return int.from_bytes(tag, "little") << 8 * _COUNT_BYTES


class Opener:
    """Decrypts the messages of a Sealer, each of them once, and only on the channel that it was sent on.

    Within a connection the message ids prevent replays. But the channels of a session share the key, so an attacker
    could record a message of one channel and send it again on another. If the peer tags its nonces, a message must
    have this channel's tag. Otherwise all nonces are remembered (``seen``), for all channels together.
    """

    __slots__ = ("_aead", "_nonce_bytes", "_tag", "seen")

    def __init__(self, cipher: Cipher, key: bytes, *, tag: bytes = b"", seen: SeenNonces | None = None) -> None:
        self._aead = _aead(cipher, key)
        self._nonce_bytes = _nonce_bytes(cipher)
        self._tag = tag
        self.seen = seen

    @property
    def tagged(self) -> bool:
        """Return whether nonces must have the tag of their channel."""
        return bool(self._tag)

    def on_channel(self, tag: bytes) -> "Opener":
        """Return an Opener with the same key and the same seen nonces for another channel."""
        opener = copy.copy(self)
        opener._tag = tag
        return opener

    def open(self, memory: memoryview, start: int, length: int, into: memoryview) -> None:
        """Decrypt the frame ``memory[start:start + length]``, which starts with a transform header, into ``into``.

        ``into`` must be as long as the message. The authentication tag is put into the 16 bytes behind the frame for
        a while; their content is restored afterwards. Raises ForgedMessage if the frame was not made with this key,
        and RepeatedNonce if it was sent before, or on another channel.
        """
        end = start + length
        tag_room = memory[end : end + _TAG_BYTES]
        behind = bytes(tag_room)
        tag_room[:] = memory[start + 4 : start + 20]
        aad = bytes(memory[start + 20 : start + TRANSFORM_HEADER_BYTES])
        nonce = aad[: self._nonce_bytes]
        try:
            self._aead.decrypt_into(nonce, memory[start + TRANSFORM_HEADER_BYTES : end + _TAG_BYTES], aad, into)
        except InvalidTag as error:
            raise ForgedMessage(
                "an encrypted message fails its authentication: it was changed on its way, or comes from somebody else"
            ) from error
        finally:
            tag_room[:] = behind
        tag, seen = self._tag, self.seen
        if tag:
            if nonce[_TAGGED] != tag:
                raise RepeatedNonce("encrypted message was sent on another channel of its session")
        elif seen is not None and not seen.add(int.from_bytes(nonce, "little")):
            raise RepeatedNonce("encrypted message with a nonce that its session has seen before")


def parse_transform_header(view: memoryview) -> tuple[int, int]:
    """Return (original message size, session id) of a frame that starts with a transform header.

    Raises RemoteProtocolError for a malformed header (MS-SMB2 3.3.5.2.1.1).
    """
    if len(view) < TRANSFORM_HEADER_BYTES:
        raise RemoteProtocolError("transform header is truncated")
    _, _, _, size, _, flags, session_id = _TRANSFORM.unpack_from(view)
    if flags != _FLAG_ENCRYPTED:
        raise RemoteProtocolError(f"transform header has flags 0x{flags:04x}, expected 0x0001")
    if size != len(view) - TRANSFORM_HEADER_BYTES:
        raise RemoteProtocolError(f"transform header says {size} bytes, {len(view) - TRANSFORM_HEADER_BYTES} follow")
    return size, session_id


class PeerNonces(enum.Enum):
    """Tells what a peer promises about the nonces of its encrypted messages, and how replays are prevented."""

    #: The peer promises nothing: every nonce seen is remembered.
    OTHER = "other"
    #: Each nonce has the tag of its channel, and so do the nonces of this end.
    TAGGED = "tagged"
    #: The session never has more than one channel. Within it the message ids are enough.
    ONE_CHANNEL = "one channel"


class ChannelSecurity:
    """Holds the keys of one session on one connection: the channel's signing key, and the session's encryption keys."""

    __slots__ = ("opener", "sealer", "signer")

    def __init__(self, signer: Signer, sealer: Sealer | None, opener: Opener | None) -> None:
        self.signer = signer
        self.sealer = sealer
        self.opener = opener


class BindSecurity(ChannelSecurity):
    """Holds the signing key of a session's first channel, which signs the session's binds."""

    __slots__ = ()

    def __init__(self, session: ChannelSecurity, end: int) -> None:
        """The first channel signs with no message id below ``end``."""
        signer = session.signer
        if isinstance(signer, GmacSigner):
            signer = BindSigner(signer.key, min(end, limits.BIND_MESSAGE_IDS))
        super().__init__(signer, None, None)

    def reserve(self, message_id: int) -> bool:
        """Return whether one message may be signed with this id.

        AES-CMAC and HMAC have no nonce, so they may sign with any id.
        """
        return not isinstance(self.signer, BindSigner) or self.signer.reserve(message_id)


def _labels(dialect: Dialect, preauth: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return (label, context) for each of three keys (MS-SMB2 3.1.4.2).

    The keys are for signing, for encryption from initiator to exporter, and for encryption from exporter to initiator.
    """
    if dialect is Dialect.SMB_3_1_1:
        return (
            (b"SMBSigningKey\0", preauth),
            (b"SMBC2SCipherKey\0", preauth),
            (b"SMBS2CCipherKey\0", preauth),
        )
    return (
        (b"SMB2AESCMAC\0", b"SmbSign\0"),
        (b"SMB2AESCCM\0", b"ServerIn \0"),
        (b"SMB2AESCCM\0", b"ServerOut\0"),
    )


def signing_signer(
    dialect: Dialect, algorithm: SigningAlgorithm, session_key: bytes, preauth: bytes
) -> GmacSigner | _MacSigner:
    """Return the signer of a channel (MS-SMB2 3.2.5.3.1, 3.3.5.5.3). Raises LocalProtocolError below SMB 3.0."""
    if dialect < Dialect.SMB_3_0:
        raise LocalProtocolError(f"no signing key for dialect 0x{dialect:04x}")
    label, context = _labels(dialect, preauth)[0]
    return _SIGNERS[algorithm](derive_key(session_key[:16].ljust(16, b"\0"), label, context))


def channel_security(
    dialect: Dialect,
    algorithm: SigningAlgorithm,
    cipher: Cipher,
    session_key: bytes,
    preauth: bytes,
    session_id: int,
    *,
    exporter: bool,
    nonces: PeerNonces = PeerNonces.OTHER,
) -> ChannelSecurity:
    """Return all keys of a new session on its first channel. ``exporter`` tells whether this end is the exporter."""
    signer = signing_signer(dialect, algorithm, session_key, preauth)
    if cipher is Cipher.NONE:
        return ChannelSecurity(signer, None, None)
    length = 32 if cipher in (Cipher.AES_256_CCM, Cipher.AES_256_GCM) else 16
    base = session_key if length == 32 else session_key[:16]
    (label_in, context_in), (label_out, context_out) = _labels(dialect, preauth)[1:]
    to_exporter = derive_key(base, label_in, context_in, length)
    to_initiator = derive_key(base, label_out, context_out, length)
    mine, theirs = (to_initiator, to_exporter) if exporter else (to_exporter, to_initiator)
    tag = nonce_tag(preauth) if nonces is PeerNonces.TAGGED else b""
    seen = SeenNonces(limits.NONCES_REMEMBERED_MAX) if nonces is PeerNonces.OTHER else None
    return ChannelSecurity(signer, Sealer(cipher, mine, session_id, tag), Opener(cipher, theirs, tag=tag, seen=seen))


def bound_security(
    session: ChannelSecurity, dialect: Dialect, algorithm: SigningAlgorithm, session_key: bytes, preauth: bytes
) -> ChannelSecurity:
    """Return the keys of a session on a further channel (MS-SMB2 3.2.5.3.3, 3.3.5.5.3).

    The signing key belongs to the channel. It is derived from the session key of the login that bound the channel, and
    from the hash over the messages of that login. The encryption keys and the count of nonces belong to the session.
    """
    signer = signing_signer(dialect, algorithm, session_key, preauth)
    sealer, opener = session.sealer, session.opener
    if sealer is None or opener is None or not opener.tagged:
        return ChannelSecurity(signer, sealer, opener)
    tag = nonce_tag(preauth)
    return ChannelSecurity(signer, sealer.on_channel(tag), opener.on_channel(tag))
