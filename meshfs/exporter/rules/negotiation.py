"""Decides what an exporter agrees to in NEGOTIATE (MS-SMB2 3.3.5.4). Pure.

The exporter speaks the dialects 3.0 to 3.1.1, and prefers the cheapest algorithms. AES-GMAC signs 4 KiB in a quarter of
the time of AES-CMAC. AES-128-GCM seals at several times the speed of AES-CCM.

AES-GMAC uses the message id as its nonce. If a key signs two messages under one nonce, the key is lost. An initiator
with several channels signs the bind of each channel with the key of the first one, and most initiators use the same
message ids for each bind. Therefore an initiator that may use several channels gets an algorithm without a nonce,
unless it says that its nonces are unique, or offers nothing else. The exporter does not rely on that: it refuses a bind
with a message id that was used.
"""

import os
from typing import Final, TypeVar

from meshfs import limits
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.model import Security
from meshfs.smb.connection import Negotiated
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Dialect,
    HashAlgorithm,
    NtStatus,
    SecurityMode,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    UNIQUE_NONCES,
    Encryption,
    NegotiateContext,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    Signing,
    only_context,
)

DIALECTS: Final = (Dialect.SMB_3_1_1, Dialect.SMB_3_0_2, Dialect.SMB_3_0)
SIGNING: Final = (SigningAlgorithm.AES_GMAC, SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256)
_SIGNING_WITHOUT_NONCE: Final = (SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256, SigningAlgorithm.AES_GMAC)
CIPHERS: Final = (Cipher.AES_128_GCM, Cipher.AES_256_GCM, Cipher.AES_128_CCM, Cipher.AES_256_CCM)
_SALT_BYTES: Final = 32

_T = TypeVar("_T", SigningAlgorithm, Cipher)


def security_mode(security: Security) -> int:
    required = 0 if security is Security.NONE else SecurityMode.SIGNING_REQUIRED
    return int(SecurityMode.SIGNING_ENABLED | required)


def negotiate(
    request: NegotiateRequest, negotiated: Negotiated, *, security: Security, guid: bytes, hint: bytes, filetime: int
) -> NegotiateResponse:
    """Settle ``negotiated``, and return the response. Raise StatusError if the request has to be refused."""
    if not request.dialects:
        raise StatusError(NtStatus.INVALID_PARAMETER, "NEGOTIATE lists no dialect")
    dialect = next((dialect for dialect in DIALECTS if dialect in request.dialects), None)
    if dialect is None:
        raise StatusError(NtStatus.NOT_SUPPORTED, f"none of the dialects {_texts(request.dialects)} is supported")
    negotiated.peer_guid = request.client_guid
    negotiated.peer_capabilities = request.capabilities
    negotiated.peer_security_mode = request.security_mode
    negotiated.peer_dialects = request.dialects
    contexts: tuple[NegotiateContext, ...] = ()
    if dialect is Dialect.SMB_3_1_1:
        contexts = _settle_contexts(request, negotiated)
    elif request.capabilities & Capabilities.ENCRYPTION:
        negotiated.cipher = Cipher.AES_128_CCM
    negotiated.dialect = dialect
    negotiated.large_mtu = True
    negotiated.max_transact_bytes = limits.TRANSACT_SIZE_MAX_BYTES
    negotiated.max_read_bytes = negotiated.max_write_bytes = limits.IO_SIZE_MAX_BYTES
    return NegotiateResponse(
        security_mode=security_mode(security),
        dialect=dialect,
        server_guid=guid,
        capabilities=capabilities_of(negotiated),
        max_transact_bytes=negotiated.max_transact_bytes,
        max_read_bytes=negotiated.max_read_bytes,
        max_write_bytes=negotiated.max_write_bytes,
        system_time_filetime=filetime,
        security_buffer=hint,
        contexts=contexts,
    )


def capabilities_of(negotiated: Negotiated) -> int:
    """Return the capabilities that are offered to a peer once the dialect and the cipher are settled.

    A peer that asks for several channels may have them. Encryption is a capability before 3.1.1, and a context in it.
    """
    capabilities = int(Capabilities.LARGE_MTU) | negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL
    if negotiated.dialect is not Dialect.SMB_3_1_1 and negotiated.cipher is not Cipher.NONE:
        capabilities |= Capabilities.ENCRYPTION
    return int(capabilities)


def negotiate_again(*, security: Security, guid: bytes, hint: bytes, filetime: int) -> NegotiateResponse:
    """Return the response to a NEGOTIATE in the form of SMB 1: the client has to send one of SMB 2 (3.3.5.3.1)."""
    return NegotiateResponse(
        security_mode=security_mode(security),
        dialect=Dialect.SMB_2_WILDCARD,
        server_guid=guid,
        capabilities=int(Capabilities.LARGE_MTU),
        max_transact_bytes=limits.TRANSACT_SIZE_MAX_BYTES,
        max_read_bytes=limits.IO_SIZE_MAX_BYTES,
        max_write_bytes=limits.IO_SIZE_MAX_BYTES,
        system_time_filetime=filetime,
        security_buffer=hint,
    )


def _texts(dialects: tuple[int, ...]) -> str:
    return ", ".join(f"0x{dialect:04x}" for dialect in dialects)


def _settle_contexts(request: NegotiateRequest, negotiated: Negotiated) -> tuple[NegotiateContext, ...]:
    try:
        preauth = only_context(request.contexts, PreauthIntegrity)
        encryption = only_context(request.contexts, Encryption)
        signing = only_context(request.contexts, Signing)
    except RemoteProtocolError as error:
        raise StatusError(NtStatus.INVALID_PARAMETER, str(error)) from error
    if preauth is None:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, "NEGOTIATE of 3.1.1 has no context for pre-authentication integrity"
        )
    if HashAlgorithm.SHA_512 not in preauth.hash_algorithms:
        raise StatusError(
            NtStatus.SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP, "the two ends have no pre-authentication hash in common"
        )
    contexts: list[NegotiateContext] = [PreauthIntegrity((HashAlgorithm.SHA_512,), os.urandom(_SALT_BYTES))]
    if encryption is not None:
        negotiated.cipher = _first_common(CIPHERS, encryption.algorithms, Cipher.NONE)
        contexts.append(Encryption((negotiated.cipher,)))
    if UNIQUE_NONCES in request.contexts:
        negotiated.unique_nonces = True
        contexts.append(UNIQUE_NONCES)
    if signing is not None:
        # Without a common algorithm both ends sign with AES-CMAC.
        reuses = negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL and not negotiated.unique_nonces
        ours = _SIGNING_WITHOUT_NONCE if reuses else SIGNING
        negotiated.signing_algorithm = _first_common(ours, signing.algorithms, SigningAlgorithm.AES_CMAC)
        contexts.append(Signing((negotiated.signing_algorithm,)))
    return tuple(contexts)


def _first_common(ours: tuple[_T, ...], theirs: tuple[int, ...], otherwise: _T) -> _T:
    return next((algorithm for algorithm in ours if algorithm in theirs), otherwise)
