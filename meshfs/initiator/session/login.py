"""Make a new session over a connected transport, by NEGOTIATE and then SESSION_SETUP on its first channel."""

from meshfs import limits
from meshfs.errors import AuthenticationError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.credentials import Credentials
from meshfs.initiator.session.negotiation import Policy, negotiate
from meshfs.initiator.session.session_setup import session_key, set_up, skip_ids, verify
from meshfs.model import Security
from meshfs.smb.auth import Login
from meshfs.smb.connection import Role
from meshfs.smb.constants import SessionFlags
from meshfs.smb.messages import SessionSetupResponse
from meshfs.smb.security import BindSecurity, channel_security
from meshfs.smb.states import SESSION, StateMachine


async def log_in(
    channel: Channel,
    policy: Policy,
    guid: bytes,
    login: Login,
    previous_session_id: int = 0,
    *,
    to_be_bound: bool = False,
) -> Credentials:
    """Negotiate and authenticate. Afterwards the channel protects every message as ``policy`` says.

    If further channels are ``to_be_bound`` to the session, the login leaves the low message ids to them
    (session/bind.py). Raises AuthenticationError, RemoteProtocolError, StatusError, ChannelLost.
    """
    hint = await negotiate(channel, policy, guid)
    if to_be_bound:
        await skip_ids(channel, limits.BIND_MESSAGE_IDS)
    machine = StateMachine(SESSION, Role.INITIATOR)
    reply, preauth = await set_up(channel, policy, login, hint, machine, previous_session_id=previous_session_id)
    response = SessionSetupResponse.unpack(reply.body)
    if response.session_flags & (SessionFlags.IS_GUEST | SessionFlags.IS_NULL):
        raise AuthenticationError("the exporter accepted the login only as a guest")
    settled = channel.connection.negotiated
    assert settled.dialect is not None
    security = channel_security(
        settled.dialect,
        settled.signing_algorithm,
        settled.cipher,
        session_key(login),
        preauth.value,
        reply.session_id,
        exporter=False,
        nonces=settled.peer_nonces,
    )
    # From the next id on, which is above that of the reply just verified, the channel signs with this key.
    bind_security = BindSecurity(security, channel.credits.next_id - 1)
    verify(channel, reply, security)
    if response.security_buffer:
        login.step(response.security_buffer)
    seal = policy.security is Security.ENCRYPT or bool(response.session_flags & SessionFlags.ENCRYPT_DATA)
    channel.protect(security, reply.session_id, sign=policy.security is not Security.NONE, seal=seal)
    return Credentials(reply.session_id, settled, security, bind_security, seal, machine)
