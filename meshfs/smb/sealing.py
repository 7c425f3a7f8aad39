"""Encrypt messages (seal) and decrypt them (open) with AES-GCM or AES-CCM. Pure.

The associated data is the transform header from its nonce on (MS-SMB2 3.1.4.3). Layout of the transform header
(2.2.41): ProtocolId 4s, Signature 16s, Nonce 16s, OriginalMessageSize I, Reserved H, Flags H, SessionId Q.

AES-GCM is broken if one key is used twice with the same nonce. So nonces are counted for the whole session (`Sealer`),
and a receiver accepts each message only once (`Opener`). The file docs/security/nonces.md has the reasons.
"""

import copy
import itertools
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM

from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import ForgedMessage, RemoteProtocolError, RepeatedNonce
from meshfs.smb.constants import PROTOCOL_ID_TRANSFORM, TRANSFORM_HEADER_BYTES, Cipher
from meshfs.smb.replay import SeenNonces

_AUTH_TAG_BYTES: Final = 16
_NO_AUTH_TAG: Final = bytes(_AUTH_TAG_BYTES)
_TRANSFORM: Final = struct.Struct("<4s16s16sIHHQ")
_FLAG_ENCRYPTED: Final = 0x0001
#: The bytes of a sealed frame before its ciphertext.
SEAL_HEAD_BYTES: Final = FRAMING_BYTES + TRANSFORM_HEADER_BYTES
Memory = memoryview | bytearray


def _aead(cipher: Cipher, key: bytes) -> AESGCM | AESCCM:
    if cipher in (Cipher.AES_128_GCM, Cipher.AES_256_GCM):
        return AESGCM(key)
    return AESCCM(key, tag_length=_AUTH_TAG_BYTES)


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
        """Return the frame of one message or compound: room for the framing, transform header, ciphertext."""
        memory = memoryview(bytearray(SEAL_HEAD_BYTES + len(message) + _AUTH_TAG_BYTES))
        return self._seal_into(memory, message)

    def seal_in_place(self, memory: memoryview, start: int, length: int) -> memoryview:
        """Encrypt the message ``memory[start:start + length]`` in place and return its frame.

        The frame overwrites the message, ``SEAL_HEAD_BYTES`` before the message, and 16 bytes after the message.
        Encrypting in place saves a copy of the payload.
        """
        end = start + length
        return self._seal_into(memory[start - SEAL_HEAD_BYTES : end + _AUTH_TAG_BYTES], memory[start:end])

    def _seal_into(self, out: memoryview, message: bytes | Memory) -> memoryview:
        nonce = (self._tag + self._count()).to_bytes(16, "little")
        size, head = len(message), SEAL_HEAD_BYTES
        _TRANSFORM.pack_into(
            out, FRAMING_BYTES, PROTOCOL_ID_TRANSFORM, _NO_AUTH_TAG, nonce, size, 0, _FLAG_ENCRYPTED, self._session_id
        )
        aad = bytes(out[FRAMING_BYTES + 20 : head])
        self._aead.encrypt_into(nonce[: self._nonce_bytes], message, aad, out[head:])
        out[FRAMING_BYTES + 4 : FRAMING_BYTES + 20] = out[head + size :]
        return out[: head + size]


def _tag_number(tag: bytes) -> int:
    return int.from_bytes(tag, "little") << 8 * _COUNT_BYTES


class Opener:
    """Decrypts the messages of a Sealer. Each message is accepted only once, and only on its own channel.

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

        ``into`` must be as long as the message. The authentication tag is put into the 16 bytes after the frame, and
        their content is restored afterwards. Raises ForgedMessage if the frame was not made with this key. Raises
        RepeatedNonce if the frame was sent before, or on another channel.
        """
        end = start + length
        tag_room = memory[end : end + _AUTH_TAG_BYTES]
        behind = bytes(tag_room)
        tag_room[:] = memory[start + 4 : start + 20]
        aad = bytes(memory[start + 20 : start + TRANSFORM_HEADER_BYTES])
        nonce = aad[: self._nonce_bytes]
        try:
            self._aead.decrypt_into(nonce, memory[start + TRANSFORM_HEADER_BYTES : end + _AUTH_TAG_BYTES], aad, into)
        except InvalidTag as error:
            raise ForgedMessage(
                "an encrypted message fails its authentication: it was changed on its way, or comes from somebody else"
            ) from error
        finally:
            tag_room[:] = behind
        tag, seen = self._tag, self.seen
        if tag:
            if nonce[_TAGGED] != tag:
                raise RepeatedNonce("an encrypted message was sent on another channel of its session")
        elif seen is not None and not seen.add(int.from_bytes(nonce, "little")):
            raise RepeatedNonce("an encrypted message has a nonce that its session has seen before")


def parse_transform_header(view: memoryview) -> tuple[int, int]:
    """Return (original message size, session id) of a frame that starts with a transform header.

    Raises RemoteProtocolError for a malformed header (MS-SMB2 3.3.5.2.1.1).
    """
    if len(view) < TRANSFORM_HEADER_BYTES:
        raise RemoteProtocolError("the transform header is truncated")
    _, _, _, size, _, flags, session_id = _TRANSFORM.unpack_from(view)
    if flags != _FLAG_ENCRYPTED:
        raise RemoteProtocolError(f"the transform header has flags 0x{flags:04x}, expected 0x0001")
    if size != len(view) - TRANSFORM_HEADER_BYTES:
        follow = len(view) - TRANSFORM_HEADER_BYTES
        raise RemoteProtocolError(f"the transform header says that {size} bytes follow, but there are {follow}")
    return size, session_id
