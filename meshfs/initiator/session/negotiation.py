"""Negotiates what both ends of a connection agree on, and proves that nobody changed it on its way.

An attacker between the ends could remove the better choices from the offer. With dialect 3.1.1 the login finds that,
because the keys depend on every byte of the negotiation (MS-SMB2 3.2.5.3.1). With 3.0 and 3.0.2 the keys do not. There
FSCTL_VALIDATE_NEGOTIATE_INFO repeats the negotiation under a signature (3.2.5.5).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshfs import limits
from meshfs.errors import AuthenticationError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.trees import TreeConnect
from meshfs.model import Security
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Command,
    Dialect,
    Fsctl,
    HashAlgorithm,
    SecurityMode,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    NO_FILE,
    UNIQUE_NONCES,
    Encryption,
    IoctlRequest,
    IoctlResponse,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    Signing,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    only_context,
)
from meshfs.smb.states import SmbEvent

_SALT_BYTES: Final = 32
_VALIDATE_OUTPUT_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Policy:
    """Says what this end offers and insists on. In each list the preferred choice comes first."""

    security: Security = Security.SIGN
    dialects: tuple[Dialect, ...] = (Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1)
    signing: tuple[SigningAlgorithm, ...] = (SigningAlgorithm.AES_GMAC, SigningAlgorithm.AES_CMAC)
    ciphers: tuple[Cipher, ...] = (
        Cipher.AES_128_GCM,
        Cipher.AES_256_GCM,
        Cipher.AES_128_CCM,
        Cipher.AES_256_CCM,
    )

    @property
    def security_mode(self) -> SecurityMode:
        if self.security is Security.NONE:
            return SecurityMode.SIGNING_ENABLED
        return SecurityMode.SIGNING_ENABLED | SecurityMode.SIGNING_REQUIRED


CAPABILITIES: Final = Capabilities.LARGE_MTU | Capabilities.ENCRYPTION | Capabilities.MULTI_CHANNEL


async def negotiate(channel: Channel, policy: Policy, guid: bytes) -> bytes:
    """Negotiate, and return the exporter's hint for the login.

    ``channel.connection.negotiated`` has the agreement afterwards.
    """
    request = NegotiateRequest(
        dialects=tuple(policy.dialects),
        security_mode=policy.security_mode,
        capabilities=CAPABILITIES,
        client_guid=guid,
        contexts=(
            PreauthIntegrity((HashAlgorithm.SHA_512,), os.urandom(_SALT_BYTES)),
            Encryption(policy.ciphers),
            Signing(policy.signing),
            UNIQUE_NONCES,
        )
        if Dialect.SMB_3_1_1 in policy.dialects
        else (),
    )
    settled = channel.connection.negotiated
    channel.happened(SmbEvent.NEGOTIATE)
    try:
        reply = await channel.answer(channel.start_request(Command.NEGOTIATE, request.pack(), preauth=settled.preauth))
    except StatusError:
        channel.happened(SmbEvent.REFUSED)
        raise
    channel.happened(SmbEvent.NEGOTIATED)
    settled.preauth.update(reply.raw)
    response = NegotiateResponse.unpack(reply.body)
    if response.dialect not in policy.dialects:
        raise RemoteProtocolError(f"NEGOTIATE: dialect 0x{response.dialect:04x} was not offered")
    settled.dialect = Dialect(response.dialect)
    settled.peer_guid = response.server_guid
    settled.peer_capabilities = response.capabilities
    settled.peer_security_mode = response.security_mode
    settled.unique_nonces = UNIQUE_NONCES in response.contexts
    settled.large_mtu = bool(response.capabilities & Capabilities.LARGE_MTU)
    settled.max_read_bytes = _size(settled.large_mtu, response.max_read_bytes, limits.IO_SIZE_MAX_BYTES)
    settled.max_write_bytes = _size(settled.large_mtu, response.max_write_bytes, limits.IO_SIZE_MAX_BYTES)
    settled.max_transact_bytes = _size(settled.large_mtu, response.max_transact_bytes, limits.TRANSACT_SIZE_MAX_BYTES)
    _settle_algorithms(channel, policy, response)
    if policy.security is Security.ENCRYPT and settled.cipher is Cipher.NONE:
        raise AuthenticationError("the exporter offers no cipher that this end knows, and the config wants encryption")
    return response.security_buffer


def _size(large_mtu: bool, offered: int, most: int) -> int:
    """Return the largest payload that both ends allow. Without large MTU, that is what one credit pays for."""
    if offered < limits.CREDIT_BYTES:
        raise RemoteProtocolError(f"NEGOTIATE: a maximum of {offered} bytes, at least {limits.CREDIT_BYTES} expected")
    return min(offered, most if large_mtu else limits.CREDIT_BYTES)


def _settle_algorithms(channel: Channel, policy: Policy, response: NegotiateResponse) -> None:
    """Take the signing algorithm and the cipher from the exporter's answer (MS-SMB2 3.2.5.2)."""
    settled = channel.connection.negotiated
    if settled.dialect is not Dialect.SMB_3_1_1:
        settled.signing_algorithm = SigningAlgorithm.AES_CMAC
        encrypts = response.capabilities & Capabilities.ENCRYPTION
        settled.cipher = Cipher.AES_128_CCM if encrypts else Cipher.NONE
        return
    preauth = only_context(response.contexts, PreauthIntegrity)
    if preauth is None or preauth.hash_algorithms != (HashAlgorithm.SHA_512,):
        raise RemoteProtocolError("NEGOTIATE: 3.1.1 without SHA-512 pre-authentication integrity")
    encryption = only_context(response.contexts, Encryption)
    if encryption is not None and encryption.algorithms != (Cipher.NONE,):
        settled.cipher = Cipher(_only(encryption.algorithms, policy.ciphers, "cipher"))
    signing = only_context(response.contexts, Signing)
    if signing is not None:
        settled.signing_algorithm = SigningAlgorithm(_only(signing.algorithms, policy.signing, "signing algorithm"))


def _only(chosen: tuple[int, ...], offered: Sequence[int], what: str) -> int:
    if len(chosen) != 1 or chosen[0] not in offered:
        raise RemoteProtocolError(f"NEGOTIATE: {what} {chosen} is not one of those offered")
    return chosen[0]


async def validate_negotiation(channel: Channel, policy: Policy, guid: bytes, tree: TreeConnect) -> None:
    """Repeat the negotiation under a signature, unless the keys prove it already (MS-SMB2 3.2.5.5)."""
    settled = channel.connection.negotiated
    if settled.dialect is Dialect.SMB_3_1_1:
        return
    info = ValidateNegotiateRequest(CAPABILITIES, guid, policy.security_mode, tuple(policy.dialects))
    ioctl = IoctlRequest(Fsctl.VALIDATE_NEGOTIATE_INFO, NO_FILE, info.pack(), _VALIDATE_OUTPUT_BYTES)
    try:
        reply = await channel.answer(
            channel.start_request(Command.IOCTL, ioctl.pack(), tree_id=tree.tree_id, signed=True)
        )
    except StatusError as error:
        raise AuthenticationError("the exporter does not confirm what was negotiated") from error
    found = ValidateNegotiateResponse.unpack(IoctlResponse.unpack(reply.body).output)
    expected = ValidateNegotiateResponse(
        settled.peer_capabilities, settled.peer_guid, settled.peer_security_mode, int(settled.dialect or 0)
    )
    if found != expected:
        raise AuthenticationError(f"the negotiation was changed on its way: {found}, expected {expected}")
