"""Signatures of messages: AES-GMAC, AES-CMAC and HMAC-SHA256. Pure.

A signature covers the whole message with a zero signature field (MS-SMB2 3.1.4.1). AES-GMAC is AES-GCM without
plaintext, where the message is the associated data. Its nonce is the message id. AES-GMAC is broken if one key is used
twice with the same nonce. So two channels that share a key must not share a message id (`BindSigner`).
"""

import hmac
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from hmac import compare_digest
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher as _Cipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

from meshfs.errors import LocalProtocolError
from meshfs.smb.constants import (
    SigningAlgorithm,
)

_pack_nonce: Final = struct.Struct("<QI").pack
#: The bits of the last field of a GMAC nonce. They tell whether the exporter sends, and whether the message is a CANCEL
#: (3.1.4.1).
NONCE_INITIATOR: Final = 0
NONCE_EXPORTER: Final = 1
NONCE_CANCEL: Final = 2
_SIGNATURE: Final = slice(48, 64)
_NO_SIGNATURE: Final = bytes(16)
#: Above this size, joining header and data costs more than setting up an incremental GMAC.
_JOIN_MAX_BYTES: Final = 32768
Memory = memoryview | bytearray


class Signer(Protocol):
    """Signs and verifies with one channel's key. Messages are in writable memory."""

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
    """Signs with a MAC that takes its input in parts. It is the common base of CMAC and HMAC."""

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


#: Makes the signer of each algorithm from a key.
SIGNERS: Final[dict[SigningAlgorithm, Callable[[bytes], Signer]]] = {
    SigningAlgorithm.AES_GMAC: GmacSigner,
    SigningAlgorithm.AES_CMAC: CmacSigner,
    SigningAlgorithm.HMAC_SHA256: HmacSigner,
}
