"""Binds a session to a further connection (MS-SMB2 3.3.5.5 step 4, 3.3.5.5.3).

A bind is a login of the session's user on another connection. Its requests are signed with the session's key, so a
bind needs both that key and the user's password. Until the bind is granted, it changes nothing of the session. A bind
that fails leaves the session and the connection as they were. Its hash over the messages is dropped, and the next bind
begins with the hash of the connection's NEGOTIATE again.

If a request of a bind is signed, its reply is signed with the session's key, and the last reply with the key of the new
channel. If the signature of a request is wrong, its reply is not signed.

Under AES-GMAC, a request is refused without a signature if the session's key has signed with its message id, or may
still do so. An attacker who recorded a bind can send it again from anywhere. He would get two signatures under one
nonce, which reveal the key. So each message id serves one bind request of the session, and only ids below those of the
session's first channel (smb/signing.py, BindSigner; docs/security/nonces.md).
"""

import functools
import logging

from meshfs import limits
from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import AuthenticationError, StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.state.bind import Bind
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.peer import Peer
from meshfs.exporter.state.session import Session
from meshfs.smb.auth import Acceptor
from meshfs.smb.connection import Negotiated, Protection
from meshfs.smb.constants import Capabilities, Dialect, Flags, NtStatus, SessionFlags, SigningAlgorithm
from meshfs.smb.messages import SessionSetupRequest, SessionSetupResponse
from meshfs.smb.security import BindSecurity, ChannelSecurity, bound_security
from meshfs.smb.states import SessionState, SmbEvent

logger = logging.getLogger(__name__)


def bind(request: Request, body: SessionSetupRequest) -> None:
    """Take one step of a bind, for a SESSION_SETUP with the BINDING flag. A StatusError ends the bind."""
    peer = request.peer
    try:
        session = _session_of(request)
        _step(request, session, _bind_of(request, session), body)
    except StatusError as error:
        peer.end_bind(request.session_id)
        peer.login_over()
        peer.exporter.count("binds_denied")
        # If the session has just ended, the peer has made no mistake, and nothing is logged.
        if error.status != NtStatus.USER_SESSION_DELETED:
            peer.log_warning("a bind was refused: %s", error)
        raise


def take_keys(session: Session, request: Request, security: ChannelSecurity) -> None:
    """Keep the keys for binds of a session. ``request`` is the last one of the first login, on the first channel.

    If nothing else is in flight, the channel signs with the message id of this request, and later with higher ids only.
    Otherwise a lower id may still come, and under AES-GMAC the session can then not be bound at all.
    """
    message, peer = request.message, request.peer
    only = request.compound is None and peer.window.is_only(message.message_id, message.credit_charge)
    session.security, session.bind_security = security, BindSecurity(security, message.message_id if only else 0)
    if not peer.connection.negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL:
        session.no_more_channels = "the initiator has not asked for several channels"
    if security.opener is not None and security.opener.seen is not None:
        security.opener.seen.on_full = functools.partial(_nonces_full, peer.exporter, session)


def _nonces_full(exporter: Exporter, session: Session) -> None:
    """Leave the session one channel, because no more nonces can be remembered.

    On one channel, the message ids alone are enough to refuse a repeated message.
    """
    exporter.count("nonces_full")
    session.no_more_channels = (
        f"the session's nonces do not count up, and {limits.NONCES_REMEMBERED_MAX} of them are remembered already"
    )
    logger.info("session of node %s: its nonces do not count up, so it has one channel from now on", session.user)
    for peer in session.channels:
        if peer is not session.peer:
            peer.abort()


def _session_of(request: Request) -> Session:
    """Return the session that the request names. Raise StatusError if it must not be bound.

    The signature is checked first, as for any message (3.3.5.2.4). The algorithms follow, as in Windows, and then the
    checks of 3.3.5.5 in their order.
    """
    peer = request.peer
    session = peer.exporter.sessions.get(request.session_id)
    if session is None:
        raise StatusError(NtStatus.USER_SESSION_DELETED, "the exporter has no such session")
    signed = _verify(request, session)
    check_alike(session.negotiated, peer.connection.negotiated, signed=signed)
    if not session.serving:
        expired = session.state is SessionState.EXPIRED
        status = NtStatus.NETWORK_SESSION_EXPIRED if expired else NtStatus.REQUEST_NOT_ACCEPTED
        raise StatusError(status, f"the session is in state {session.state.name}")
    if request.security is None:
        peer.exporter.count("nonces_repeated")
        why = f"the session's key may have signed with message id {request.message.message_id} already"
        raise StatusError(NtStatus.NOT_SUPPORTED, why)
    if session.no_more_channels:
        raise StatusError(NtStatus.REQUEST_NOT_ACCEPTED, session.no_more_channels)
    if peer in session.channels:
        raise StatusError(NtStatus.REQUEST_NOT_ACCEPTED, "the session is bound to this connection already")
    if len(session.channels) >= limits.CHANNELS_PER_SESSION_MAX:
        raise StatusError(
            NtStatus.INSUFFICIENT_RESOURCES,
            f"the session has {limits.CHANNELS_PER_SESSION_MAX} channels, the most that are allowed",
        )
    _check_connections(peer, session.user)
    return session


def _check_connections(peer: Peer, node: str) -> None:
    """Check that the node may have one more connection. Raise StatusError if not."""
    if peer.is_strangers and (why := peer.exporter.usage.why_no_connection(node)):
        peer.exporter.limit_reached(why)
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, why)


def _verify(request: Request, session: Session) -> bool:
    """Check the signature of a bind, and have the reply protected in the same way. Return whether the bind is signed.

    The key is that of the session. On a connection that is a channel already, it is the channel's key, as in Windows. A
    session without a key is not valid yet, and is refused later. If the message id was used before, the reply is not
    protected. Raises StatusError ACCESS_DENIED if the signature is wrong.
    """
    peer, message, own = request.peer, request.message, session.channels.get(request.peer)
    if message.protection == Protection.SEALED:
        request.security, request.seal = own, True
        return False
    if not message.flags & Flags.SIGNED:
        return False
    shared = session.bind_security
    key = own or shared
    if key is not None and shared is not None:
        if peer.connection.check(message, key) != Protection.SIGNED:
            peer.exporter.count("bad_signatures")
            raise StatusError(NtStatus.ACCESS_DENIED, "the signature of the bind is wrong")
        if own is not None or shared.reserve(message.message_id):
            request.security, request.sign = key, True
    return True


def check_alike(session: Negotiated, connection: Negotiated, *, signed: bool) -> None:
    """Check that the negotiations of the two connections allow a bind. Raise StatusError if not. Pure.

    AES-GMAC cannot be mixed with another algorithm, because both would use the same keys. The status says which of the
    two connections has AES-GMAC.
    """
    gmac = SigningAlgorithm.AES_GMAC
    if session.signing_algorithm is not connection.signing_algorithm:
        if session.signing_algorithm is gmac:
            raise StatusError(
                NtStatus.REQUEST_OUT_OF_SEQUENCE, "the session signs with AES-GMAC, and the connection does not"
            )
        if connection.signing_algorithm is gmac:
            raise StatusError(NtStatus.NOT_SUPPORTED, "the connection signs with AES-GMAC, and the session does not")
    if session.dialect is not connection.dialect:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the dialects of the session and of the connection differ")
    if not signed:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the bind is not signed")
    if session.cipher is not connection.cipher:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the ciphers of the session and of the connection differ")
    if session.peer_guid != connection.peer_guid:
        raise StatusError(NtStatus.USER_SESSION_DELETED, "the session belongs to another client")


def _bind_of(request: Request, session: Session) -> Bind:
    """Return the bind under way on this connection, or a new one. Raise StatusError if there are too many logins."""
    peer = request.peer
    under_way = peer.binds.get(session.id)
    if under_way is not None:
        return under_way
    if peer.logins_under_way >= limits.LOGINS_PER_CONNECTION_MAX or peer.has_all_sessions:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "the connection has too many sessions or logins")
    started = Bind(Acceptor(peer.exporter.find_account, peer.exporter.name), peer.connection.negotiated.preauth.copy())
    peer.binds[session.id] = started
    session.binding.add(peer)
    return started


def _step(request: Request, session: Session, under_way: Bind, body: SessionSetupRequest) -> None:
    under_way.happened(SmbEvent.SETUP)
    under_way.preauth.update(request.message.view)
    try:
        token, done = under_way.login.step(body.security_buffer)
    except AuthenticationError as error:
        under_way.happened(SmbEvent.DENIED)
        raise StatusError(NtStatus.LOGON_FAILURE, str(error)) from error
    if done:
        _grant(request, session, under_way, token or b"")
        return
    under_way.happened(SmbEvent.MORE)
    request.peer.on_stage(AdmissionStage.LOGGING_IN)
    frame = request.reply(SessionSetupResponse(0, token or b"").pack(), NtStatus.MORE_PROCESSING_REQUIRED)
    if frame is not None:
        under_way.preauth.update(memoryview(frame)[FRAMING_BYTES:])


def _grant(request: Request, session: Session, under_way: Bind, token: bytes) -> None:
    peer, user = request.peer, under_way.login.user
    if user != session.user:
        under_way.happened(SmbEvent.DENIED)
        raise StatusError(NtStatus.ACCESS_DENIED, f"user {user} cannot bind a session of {session.user}")
    # Other connections of the node may have logged in or been bound since this bind began.
    _check_connections(peer, user)
    negotiated = peer.connection.negotiated
    assert isinstance(negotiated.dialect, Dialect)
    assert session.security is not None
    security = bound_security(
        session.security,
        negotiated.dialect,
        negotiated.signing_algorithm,
        under_way.login.session_key,
        under_way.preauth.value,
    )
    under_way.happened(SmbEvent.GRANTED)
    peer.end_bind(session.id)
    _join(session, peer)
    session.channels[peer] = peer.connection.security[session.id] = request.security = security
    peer.exporter.count("binds")
    peer.log_info("bound to the session of node %s, channel %d", session.user, len(session.channels))
    flags = int(SessionFlags.ENCRYPT_DATA) if session.encrypt else 0
    request.reply(SessionSetupResponse(flags, token).pack())


def _join(session: Session, peer: Peer) -> None:
    peer.sessions[session.id] = session
    peer.logged_in(peer.exporter.usage.of(session.user))
