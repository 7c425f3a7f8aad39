"""Sends SESSION_SETUP, in rounds of tokens by which a login or a bind authenticates both ends.

The last reply has to be signed, whatever the policy is, because the signature proves that the exporter knows the
password. Its key results from the login itself, so that the signature is verified after the rounds (`verify`).
"""

from collections.abc import Sequence
from typing import Final

from meshfs.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Reply
from meshfs.initiator.session.credentials import BIND_ROUNDS_MAX, Credentials
from meshfs.initiator.session.negotiation import Policy
from meshfs.smb.auth import Login
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import Command, NtStatus, SessionSetupFlags, SigningAlgorithm
from meshfs.smb.messages import EchoRequest, SessionSetupRequest, SessionSetupResponse
from meshfs.smb.security import ChannelSecurity, PreauthHash
from meshfs.smb.states import SessionState, SmbEvent, StateMachine
from meshfs.smb.status import status_text
from meshfs.smb.wire import HEADER

# A login takes two rounds. An exporter that takes more than this is not going to end.
_ROUNDS_MAX: Final = 8
_ANSWERS: Final = (
    NtStatus.SUCCESS,
    NtStatus.MORE_PROCESSING_REQUIRED,
    NtStatus.LOGON_FAILURE,
    NtStatus.ACCESS_DENIED,
)
#: The event of a reply's status. Any other status is a denial.
_EVENTS: Final = {
    int(NtStatus.SUCCESS): SmbEvent.GRANTED,
    int(NtStatus.MORE_PROCESSING_REQUIRED): SmbEvent.MORE,
}


async def skip_ids(channel: Channel, first: int) -> None:
    """Use up message ids by ECHOs, so that the next request has at least the id ``first``. Only AES-GMAC needs this.

    The header of session/bind.py says which message ids a login and a bind may use.
    """
    if channel.connection.negotiated.signing_algorithm is not SigningAlgorithm.AES_GMAC:
        return
    credits, echo = channel.credits, EchoRequest().pack()
    while (missing := first - credits.next_id) > 0:
        await channel.answer(channel.start_request(Command.ECHO, echo, charge=max(1, min(missing, credits.available))))


async def set_up(
    channel: Channel,
    policy: Policy,
    login: Login,
    hint: bytes,
    machine: StateMachine[SessionState],
    *,
    previous_session_id: int = 0,
    bind_to: Credentials | None = None,
    refusals: Sequence[NtStatus] = (),
) -> tuple[Reply, PreauthHash]:
    """Exchange tokens to the end. Return the last reply, and the hash over all messages before it (3.2.5.3).

    The status of that reply is SUCCESS or one of ``refusals``. For any other, AuthenticationError or StatusError is
    raised. ``machine`` belongs to this login or bind, and sees each of its messages.
    """
    channel.happened(SmbEvent.REQUEST)
    preauth = channel.connection.negotiated.preauth.copy()
    token, _ = login.step(hint or None)
    session_id, signed_by = (bind_to.session_id, bind_to.bind_security) if bind_to else (0, None)
    rounds_max = BIND_ROUNDS_MAX if bind_to else _ROUNDS_MAX
    for _ in range(rounds_max):
        request = SessionSetupRequest(
            flags=SessionSetupFlags.BINDING if bind_to else 0,
            security_mode=policy.security_mode,
            capabilities=0,
            security_buffer=token or b"",
            previous_session_id=previous_session_id,
        )
        reply = await _one_round(
            channel,
            request,
            machine,
            (*_ANSWERS, *refusals),
            session_id=session_id,
            preauth=preauth,
            signed_by=signed_by,
        )
        if reply.status == NtStatus.SUCCESS or reply.status in refusals:
            return reply, preauth
        if signed_by is not None:
            verify(channel, reply, signed_by)
        if reply.status != NtStatus.MORE_PROCESSING_REQUIRED:
            raise AuthenticationError(f"the exporter refused our login ({status_text(reply.status)})")
        if session_id not in (0, reply.session_id) or not reply.session_id:
            raise RemoteProtocolError("SESSION_SETUP: the session's id changed")
        session_id = reply.session_id
        preauth.update(reply.raw)
        token, _ = login.step(SessionSetupResponse.unpack(reply.body).security_buffer)
    raise RemoteProtocolError(f"SESSION_SETUP: no end after {rounds_max} rounds")


async def _one_round(
    channel: Channel,
    request: SessionSetupRequest,
    machine: StateMachine[SessionState],
    answers: tuple[NtStatus, ...],
    *,
    session_id: int,
    preauth: PreauthHash,
    signed_by: ChannelSecurity | None,
) -> Reply:
    """Send one SESSION_SETUP, and return its reply. Raises StatusError if the status is none of ``answers``."""
    machine.happened(SmbEvent.SETUP)
    slot = channel.start_request(
        Command.SESSION_SETUP, request.pack(), session_id=session_id, preauth=preauth, signed_by=signed_by
    )
    reply: Reply = await slot
    machine.happened(_EVENTS.get(reply.status, SmbEvent.DENIED))
    if reply.status not in answers:
        raise StatusError(reply.status, f"SESSION_SETUP ({status_text(reply.status)})")
    return reply


def session_key(login: Login) -> bytes:
    """Return the key that the tokens agreed on. Raises AuthenticationError if the exporter said SUCCESS too early."""
    try:
        return login.session_key
    except LocalProtocolError as error:
        raise AuthenticationError("the exporter ended the login before it was over") from error


def verify(channel: Channel, reply: Reply, security: ChannelSecurity) -> None:
    """Raise AuthenticationError unless the reply is signed with this key, which the connection does not know yet."""
    if reply.protection is not Protection.UNKNOWN:
        raise AuthenticationError("the exporter's login reply is not signed")
    if not is_signed(channel, reply, security):
        raise AuthenticationError("the exporter's login reply has a wrong signature: another program may have sent it")


def is_signed(channel: Channel, reply: Reply, security: ChannelSecurity) -> bool:
    """Return whether the reply is signed with this key, which the connection does not know yet."""
    if reply.protection is not Protection.UNKNOWN:
        return False
    message = Message(memoryview(reply.raw), None, HEADER.unpack_from(reply.raw))
    return channel.connection.check(message, security) is Protection.SIGNED
