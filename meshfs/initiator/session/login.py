"""From a connected transport to a protected session, or a further channel of one: NEGOTIATE,
SESSION_SETUP, trees.

What a middleman could have changed is found before anything is asked of the session:
with 3.1.1 the keys depend on every byte of the login (MS-SMB2 3.2.5.3.1), with 3.0 and 3.0.2
FSCTL_VALIDATE_NEGOTIATE_INFO repeats the negotiation under a signature (3.2.5.5). The last
SESSION_SETUP reply has to be signed whatever the policy: it is the exporter's own proof that
it knows the password.

Binds are signed with the key of the session, which is also that of its first channel, and AES-GMAC
makes its nonce of the message id (3.1.4.1): an id used twice would give the key away. So the first
channel logs in with a message id above `limits.BIND_MESSAGE_IDS`, and every bind uses ids below it
that no other one had (smb/security.py, BindSigner, sees to it). ECHOs, which need no session, use up what is
skipped. Exporters that know this are told so (messages.UNIQUE_NONCES); others give who may bind another algorithm.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshfs import limits
from meshfs.cluster.config import Security
from meshfs.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Reply
from meshfs.smb.auth import Initiator as Login
from meshfs.smb.connection import Message, Negotiated, Protection
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Command,
    Dialect,
    Fsctl,
    HashAlgorithm,
    NtStatus,
    SecurityMode,
    SessionFlags,
    SessionSetupFlags,
    ShareFlags,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    NO_FILE,
    UNIQUE_NONCES,
    EchoRequest,
    Encryption,
    IoctlRequest,
    IoctlResponse,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    SessionSetupRequest,
    SessionSetupResponse,
    Signing,
    TreeConnectRequest,
    TreeConnectResponse,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    only_context,
)
from meshfs.smb.security import BindSecurity, ChannelSecurity, PreauthHash, bound_security, channel_security
from meshfs.smb.status import status_text
from meshfs.smb.wire import HEADER

_SALT_BYTES: Final = 32
# A login is two rounds; more is a peer that plays for time.
_ROUNDS_MAX: Final = 8
# Of a bind, whose message ids are few: NTLM takes two, Kerberos one or two.
_BIND_ROUNDS_MAX: Final = 3
_VALIDATE_OUTPUT_BYTES: Final = 24
_LOGIN_ANSWERS: Final = (
    NtStatus.SUCCESS,
    NtStatus.MORE_PROCESSING_REQUIRED,
    NtStatus.LOGON_FAILURE,
    NtStatus.ACCESS_DENIED,
)
#: Answers to a bind that say there will be no further channel, and nothing worse.
_UNWANTED: Final = (
    NtStatus.REQUEST_NOT_ACCEPTED,
    NtStatus.NOT_SUPPORTED,
    NtStatus.INSUFFICIENT_RESOURCES,
)
_BIND_ANSWERS: Final = (*_LOGIN_ANSWERS, *_UNWANTED)


@dataclass(frozen=True, slots=True)
class Policy:
    """What we offer and insist on; the best liked first."""

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


@dataclass(frozen=True, slots=True)
class Tree:
    """A connected share."""

    tree_id: int
    share: str


@dataclass(slots=True)
class Credentials:
    """What a session's further channels are bound by: its id, what its first channel agreed on, and its keys."""

    session_id: int
    settled: Negotiated
    security: ChannelSecurity
    #: Its first channel's key for its binds.
    bind_security: BindSecurity
    seal: bool
    #: The first message id no bind had yet.
    next_bind_id: int = 1

    def take_bind_ids(self) -> int | None:
        """The first of as many message ids as one bind may use; None when there are none left."""
        first = self.next_bind_id
        ids = range(first, first + _BIND_ROUNDS_MAX)
        if not all(map(self.bind_security.reserve, ids)):
            return None
        if self.settled.signing_algorithm is SigningAlgorithm.AES_GMAC:
            self.next_bind_id = ids.stop
        return first


class AnotherInstance(RemoteProtocolError):
    """Who answers at this address is not who the session is with."""


class BindIdsUsedUp(Exception):
    """No further bind of this session has message ids of its own: only a new session takes further channels."""


class BindRefused(Exception):
    """The exporter takes no further channel of this session; the text says why.

    ``signed``: the session's key proves that. Else anybody on this path may have said it, so that it is true of
    this path at most.
    """

    def __init__(self, why: str, *, signed: bool) -> None:
        super().__init__(why)
        self.signed = signed


async def log_in(
    channel: Channel,
    policy: Policy,
    guid: bytes,
    login: Login,
    previous_session_id: int = 0,
    *,
    to_be_bound: bool = False,
) -> Credentials:
    """Negotiate and authenticate; afterwards the channel protects as ``policy`` says.

    ``to_be_bound``: further channels are to come. Raises AuthenticationError, RemoteProtocolError,
    StatusError, ChannelLost.
    """
    hint = await negotiate(channel, policy, guid)
    if to_be_bound:
        await _skip_ids(channel, limits.BIND_MESSAGE_IDS)
    reply, preauth = await _exchange_tokens(channel, policy, login, hint, previous_session_id=previous_session_id)
    response = SessionSetupResponse.unpack(reply.body)
    if response.session_flags & (SessionFlags.IS_GUEST | SessionFlags.IS_NULL):
        raise AuthenticationError("the exporter let us in as a guest only")
    settled = channel.connection.negotiated
    assert settled.dialect is not None
    try:
        session_key = login.session_key
    except LocalProtocolError as error:
        raise AuthenticationError("the exporter ended the login before it was over") from error
    security = channel_security(
        settled.dialect, settled.signing_algorithm, settled.cipher, session_key, preauth.value,
        reply.session_id, exporter=False, nonces=settled.peer_nonces,
    )  # fmt: skip
    # From the next id on, which is above that of the reply just verified, the channel signs with this key.
    bind_security = BindSecurity(security, channel.credits.next_id - 1)
    _verify(channel, reply, security)
    if response.security_buffer:
        login.step(response.security_buffer)
    seal = policy.security is Security.ENCRYPT or bool(response.session_flags & SessionFlags.ENCRYPT_DATA)
    channel.protect(security, reply.session_id, sign=policy.security is not Security.NONE, seal=seal)
    return Credentials(reply.session_id, settled, security, bind_security, seal)


async def bind(channel: Channel, policy: Policy, guid: bytes, login: Login, session: Credentials) -> None:
    """Negotiate, and make the channel one more of the session (MS-SMB2 3.2.4.2.3.2, 3.2.5.3.3).

    The requests are signed with the session's key, and so are the answers but the last, which is
    signed with the channel's own. Raises BindRefused, BindIdsUsedUp, and what `log_in` raises.
    """
    hint = await negotiate(channel, policy, guid)
    settled, first = channel.connection.negotiated, session.settled
    if settled.peer_guid != first.peer_guid:
        raise AnotherInstance("another exporter, or another instance of it, answers at this address")
    if not settled.peer_capabilities & Capabilities.MULTI_CHANNEL:
        raise BindRefused("the exporter does without multichannel", signed=False)
    ours = (settled.dialect, settled.signing_algorithm, settled.cipher, settled.unique_nonces)
    if ours != (first.dialect, first.signing_algorithm, first.cipher, first.unique_nonces):
        raise RemoteProtocolError(f"this address agrees on {ours}, the session's first one on others")
    first_id = session.take_bind_ids()
    if first_id is None:
        raise BindIdsUsedUp("the session's key has signed as many binds as it may")
    await _skip_ids(channel, first_id)
    reply, preauth = await _exchange_tokens(channel, policy, login, hint, bind_to=session)
    try:
        session_key = login.session_key
    except LocalProtocolError as error:
        raise AuthenticationError("the exporter ended the login before it was over") from error
    assert settled.dialect is not None
    security = bound_security(session.security, settled.dialect, settled.signing_algorithm, session_key, preauth.value)
    _verify(channel, reply, security)
    channel.protect(security, session.session_id, sign=policy.security is not Security.NONE, seal=session.seal)


async def negotiate(channel: Channel, policy: Policy, guid: bytes) -> bytes:
    """NEGOTIATE; what it settled is in ``channel.connection.negotiated``. Returns the login's hint."""
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
    reply = await channel.request(Command.NEGOTIATE, request.pack(), preauth=settled.preauth)
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
        raise AuthenticationError("the exporter offers no encryption we know")
    return response.security_buffer


def _size(large_mtu: bool, offered: int, most: int) -> int:
    """A size both ends and one credit without large MTU allow."""
    if offered < limits.CREDIT_BYTES:
        raise RemoteProtocolError(f"NEGOTIATE: a maximum of {offered} bytes, at least {limits.CREDIT_BYTES} expected")
    return min(offered, most if large_mtu else limits.CREDIT_BYTES)


def _settle_algorithms(channel: Channel, policy: Policy, response: NegotiateResponse) -> None:
    """Signing and cipher (MS-SMB2 3.2.5.2)."""
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


async def _skip_ids(channel: Channel, first: int) -> None:
    """Let the login begin with message id ``first`` at the least, where that matters."""
    if channel.connection.negotiated.signing_algorithm is not SigningAlgorithm.AES_GMAC:
        return
    credits, echo = channel.credits, EchoRequest().pack()
    while (missing := first - credits.next_id) > 0:
        await channel.request(Command.ECHO, echo, charge=max(1, min(missing, credits.available)))


async def _exchange_tokens(
    channel: Channel,
    policy: Policy,
    login: Login,
    hint: bytes,
    *,
    previous_session_id: int = 0,
    bind_to: Credentials | None = None,
) -> tuple[Reply, PreauthHash]:
    """SESSION_SETUP rounds; the last reply, and the hash over all messages before it (3.2.5.3)."""
    preauth = channel.connection.negotiated.preauth.copy()
    token, _ = login.step(hint or None)
    session_id, signed_by = (bind_to.session_id, bind_to.bind_security) if bind_to else (0, None)
    rounds_max = _BIND_ROUNDS_MAX if bind_to else _ROUNDS_MAX
    for _ in range(rounds_max):
        request = SessionSetupRequest(
            flags=SessionSetupFlags.BINDING if bind_to else 0,
            security_mode=policy.security_mode,
            capabilities=0,
            security_buffer=token or b"",
            previous_session_id=previous_session_id,
        )
        reply = await channel.request(
            Command.SESSION_SETUP, request.pack(), session_id=session_id, preauth=preauth, signed_by=signed_by,
            accept=_BIND_ANSWERS if bind_to else _LOGIN_ANSWERS,
        )  # fmt: skip
        if signed_by is not None and reply.status in _UNWANTED:
            refusal = f"the exporter takes no further channel ({status_text(reply.status)})"
            raise BindRefused(refusal, signed=_is_signed(channel, reply, signed_by))
        if reply.status == NtStatus.SUCCESS:
            return reply, preauth
        if signed_by is not None:
            _verify(channel, reply, signed_by)
        if reply.status != NtStatus.MORE_PROCESSING_REQUIRED:
            raise AuthenticationError(f"the exporter refused our login ({status_text(reply.status)})")
        if session_id not in (0, reply.session_id) or not reply.session_id:
            raise RemoteProtocolError("SESSION_SETUP: the session's id changed")
        session_id = reply.session_id
        preauth.update(reply.raw)
        token, _ = login.step(SessionSetupResponse.unpack(reply.body).security_buffer)
    raise RemoteProtocolError(f"SESSION_SETUP: no end after {rounds_max} rounds")


def _verify(channel: Channel, reply: Reply, security: ChannelSecurity) -> None:
    if reply.protection is not Protection.UNKNOWN:
        raise AuthenticationError("the exporter's login reply is not signed")
    if not _is_signed(channel, reply, security):
        raise AuthenticationError("the exporter's login reply has a wrong signature: it is not who it says")


def _is_signed(channel: Channel, reply: Reply, security: ChannelSecurity) -> bool:
    """Whether the reply, which came with an unknown signature, is signed with that key."""
    if reply.protection is not Protection.UNKNOWN:
        return False
    message = Message(memoryview(reply.raw), None, HEADER.unpack_from(reply.raw))
    return channel.connection.check(message, security) is Protection.SIGNED


async def connect_tree(channel: Channel, server: str, share: str) -> Tree:
    r"""TREE_CONNECT to ``\\server\share``; signed whatever the policy (MS-SMB2 3.2.4.1.1)."""
    path = f"\\\\{server}\\{share}"
    reply = await channel.request(Command.TREE_CONNECT, TreeConnectRequest(path).pack(), signed=True)
    response = TreeConnectResponse.unpack(reply.body)
    if response.share_flags & ShareFlags.ENCRYPT_DATA and not channel.sealed:
        raise AuthenticationError(f"share {share} wants encryption, which the config does not ask for")
    return Tree(reply.tree_id, share)


async def validate_negotiation(channel: Channel, policy: Policy, guid: bytes, tree: Tree) -> None:
    """FSCTL_VALIDATE_NEGOTIATE_INFO where the keys do not prove the negotiation (3.2.5.5)."""
    settled = channel.connection.negotiated
    if settled.dialect is Dialect.SMB_3_1_1:
        return
    info = ValidateNegotiateRequest(CAPABILITIES, guid, policy.security_mode, tuple(policy.dialects))
    ioctl = IoctlRequest(Fsctl.VALIDATE_NEGOTIATE_INFO, NO_FILE, info.pack(), _VALIDATE_OUTPUT_BYTES)
    try:
        reply = await channel.request(Command.IOCTL, ioctl.pack(), tree_id=tree.tree_id, signed=True)
    except StatusError as error:
        raise AuthenticationError("the exporter does not confirm what was negotiated") from error
    found = ValidateNegotiateResponse.unpack(IoctlResponse.unpack(reply.body).output)
    expected = ValidateNegotiateResponse(
        settled.peer_capabilities, settled.peer_guid, settled.peer_security_mode, int(settled.dialect or 0)
    )
    if found != expected:
        raise AuthenticationError(f"the negotiation was changed on its way: {found}, expected {expected}")
