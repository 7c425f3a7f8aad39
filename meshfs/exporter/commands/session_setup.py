"""Handles SESSION_SETUP and LOGOFF, which begin, reauthenticate and end a session (MS-SMB2 3.3.5.5, 3.3.5.6)."""

from meshfs import limits
from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import AuthenticationError, StatusError
from meshfs.exporter.commands.binding import bind, take_keys
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.state.closing import nobody
from meshfs.exporter.state.session import Session
from meshfs.model import Security
from meshfs.smb.auth import Acceptor
from meshfs.smb.constants import (
    Cipher,
    Dialect,
    NtStatus,
    SecurityMode,
    SessionFlags,
    SessionSetupFlags,
)
from meshfs.smb.messages import LogoffRequest, LogoffResponse, SessionSetupRequest, SessionSetupResponse
from meshfs.smb.security import channel_security
from meshfs.smb.states import SmbEvent


def session_setup(request: Request) -> None:
    """Begin a login, go on with a login, or reauthenticate a session."""
    body = SessionSetupRequest.unpack(request.message.body)
    peer = request.peer
    if peer.exporter.security is Security.ENCRYPT and peer.connection.negotiated.cipher is Cipher.NONE:
        raise StatusError(NtStatus.ACCESS_DENIED, "the peer cannot encrypt")
    if body.flags & SessionSetupFlags.BINDING and request.session_id:
        bind(request, body)
        return
    session = _session_of(request)
    session.happened(SmbEvent.SETUP)
    request.session, request.session_id = session, session.id
    login = session.logins.get(peer)
    if login is None:
        login = session.logins[peer] = Acceptor(peer.exporter.find_account, peer.exporter.name)
    if not session.user:
        session.preauth.update(request.message.view)
    try:
        token, done = login.step(body.security_buffer)
    except AuthenticationError as error:
        _deny(request, session, str(error))
        return
    reply = SessionSetupResponse(0, token or b"")
    if not done:
        session.happened(SmbEvent.MORE)
        peer.on_stage(AdmissionStage.LOGGING_IN)
        frame = request.reply(reply.pack(), NtStatus.MORE_PROCESSING_REQUIRED)
        if frame is not None and not session.user:
            session.preauth.update(memoryview(frame)[FRAMING_BYTES:])
        return
    _logged_in(request, session, body, reply, login)


def _session_of(request: Request) -> Session:
    """Return the session that the request names, or a new session. Raise StatusError if there is none."""
    peer = request.peer
    if request.session_id:
        session = peer.sessions.get(request.session_id)
        if session is None:
            raise StatusError(NtStatus.USER_SESSION_DELETED, "the connection has no such session")
        if session.user:
            request.protect_by(session)
        return session
    # Sessions without a login are bounded by the number of connections without one (rules/admission.py).
    if peer.logins_under_way >= limits.LOGINS_PER_CONNECTION_MAX or peer.has_all_sessions:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "the connection has too many sessions or logins")
    session = Session(peer.exporter.sessions.new_id(), peer, peer.connection.negotiated.preauth.copy())
    peer.sessions[session.id] = session
    peer.exporter.sessions.add(session)
    return session


def _deny(request: Request, session: Session, why: str) -> None:
    """Refuse a login, and end its session, even if the session was valid before (3.3.5.5.3)."""
    peer = request.peer
    peer.exporter.count("logins_denied")
    peer.log_warning("login denied: %s", why)
    session.happened(SmbEvent.DENIED)
    peer.exporter.sessions.end(session, nobody)
    request.fail(NtStatus.LOGON_FAILURE)


def _refuse_one_more(request: Request, session: Session, why: str) -> None:
    """Refuse a correct login, because the node has as many sessions or connections as it may have."""
    exporter = request.peer.exporter
    exporter.limit_reached(why)
    session.happened(SmbEvent.DENIED)
    exporter.sessions.end(session, nobody)
    request.fail(NtStatus.INSUFFICIENT_RESOURCES)


def _logged_in(
    request: Request, session: Session, body: SessionSetupRequest, reply: SessionSetupResponse, login: Acceptor
) -> None:
    peer = request.peer
    exporter = peer.exporter
    if session.user and login.user != session.user:
        _deny(request, session, f"the session of {session.user} cannot log in as {login.user}")
        return
    previous = exporter.sessions.get(body.previous_session_id)
    if previous is not None and (previous is session or previous.user != login.user):
        previous = None
    if not session.user:
        if why := exporter.usage.why_no_session(login.user, replaces=previous is not None, more=peer.is_strangers):
            _refuse_one_more(request, session, why)
            return
        _make_keys(request, session, body, login)
    del session.logins[peer]
    flags = int(SessionFlags.ENCRYPT_DATA) if session.encrypt else 0
    if previous is not None:
        # I/O that it still has at a disk delays only the new session's opens of that disk (kinds/disk/create.py).
        peer.log_info("node %s ends its previous session", session.user)
        exporter.sessions.end(previous, nobody)
    session.happened(SmbEvent.GRANTED)
    if not peer.closed:
        peer.logged_in(exporter.usage.of(session.user))
    exporter.count("logins")
    peer.log_info("node %s logged in (%s)", session.user, peer.protection_text(session))
    request.reply(SessionSetupResponse(flags, reply.security_buffer).pack())


def _make_keys(request: Request, session: Session, body: SessionSetupRequest, login: Acceptor) -> None:
    """Make the keys of the session's first channel (3.3.5.5.3), and give the session to the node."""
    peer = request.peer
    negotiated = peer.connection.negotiated
    assert isinstance(negotiated.dialect, Dialect)
    security = channel_security(
        negotiated.dialect,
        negotiated.signing_algorithm,
        negotiated.cipher,
        login.session_key,
        session.preauth.value,
        session.id,
        exporter=True,
        nonces=negotiated.peer_nonces,
    )
    policy = peer.exporter.security
    session.user = login.user
    usage = peer.exporter.usage.of(login.user)
    usage.sessions += 1
    session.holdings = usage.holdings
    session.encrypt = policy is Security.ENCRYPT
    session.signing_required = policy is not Security.NONE or bool(body.security_mode & SecurityMode.SIGNING_REQUIRED)
    session.channels[peer] = peer.connection.security[session.id] = security
    take_keys(session, request, security)
    # The last reply of a login is always signed, even if the policy demands no signatures.
    request.security, request.sign = security, True


def logoff(request: Request) -> None:
    """End the session, and answer when nothing of it is at a disk any more."""
    LogoffRequest.unpack(request.message.body)
    session, peer = request.session, request.peer
    session.happened(SmbEvent.LOGOFF)
    peer.log_info("node %s logged off", session.user)

    def ended() -> None:
        session.happened(SmbEvent.LOGGED_OFF)
        request.reply(LogoffResponse().pack())

    peer.exporter.sessions.end(session, ended)
