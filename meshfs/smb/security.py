"""Derive the keys of a session and of its channels. Pure.

Keys are derived by SP800-108 in counter mode with HMAC-SHA256 (MS-SMB2 3.1.4.2). signing.py signs with them, and
sealing.py encrypts. AES-GCM and AES-GMAC are broken if one key is used twice with the same nonce. The headers of those
two files explain how this is prevented, and docs/security/nonces.md has the reasons.
"""

import enum
import hashlib
from typing import Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from meshfs import limits
from meshfs.errors import LocalProtocolError
from meshfs.smb.constants import (
    Cipher,
    Dialect,
    SigningAlgorithm,
)
from meshfs.smb.replay import SeenNonces
from meshfs.smb.sealing import Opener, Sealer, nonce_tag
from meshfs.smb.signing import SIGNERS, BindSigner, GmacSigner, Signer

Memory = memoryview | bytearray


def derive_key(session_key: bytes, label: bytes, context: bytes, length: int = 16) -> bytes:
    """Derive a key by SP800-108 in counter mode, with a counter and a length of 32 bits (MS-SMB2 3.1.4.2)."""
    return KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=length,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    ).derive(session_key)


class PreauthHash:
    """Computes the pre-authentication integrity hash: SHA-512 over all messages so far (MS-SMB2 3.2.5.2, 3.3.5.4).

    In SMB 3.1.1 keys are derived from this hash. So if a message of the login is changed on its way, the keys of the
    two ends differ.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes = bytes(64)) -> None:
        self.value = value

    def update(self, message: bytes | Memory) -> None:
        digest = hashlib.sha512(self.value)
        digest.update(message)
        self.value = digest.digest()

    def copy(self) -> Self:
        return type(self)(self.value)


class PeerNonces(enum.Enum):
    """Tells what a peer promises about the nonces of its encrypted messages, and how replays are prevented."""

    #: The peer promises nothing. Every nonce seen is remembered.
    OTHER = "other"
    #: Each nonce has the tag of its channel. The nonces of this end also have it.
    TAGGED = "tagged"
    #: The session never has more than one channel. Within a channel, the message ids are enough.
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
        """Return whether one message may be signed with this id. AES-CMAC and HMAC have no nonce, so any id will do."""
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


def signing_signer(dialect: Dialect, algorithm: SigningAlgorithm, session_key: bytes, preauth: bytes) -> Signer:
    """Return the signer of a channel (MS-SMB2 3.2.5.3.1, 3.3.5.5.3). Raises LocalProtocolError below SMB 3.0."""
    if dialect < Dialect.SMB_3_0:
        raise LocalProtocolError(f"there is no signing key for dialect 0x{dialect:04x}")
    label, context = _labels(dialect, preauth)[0]
    return SIGNERS[algorithm](derive_key(session_key[:16].ljust(16, b"\0"), label, context))


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
