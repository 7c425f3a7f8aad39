"""Make a connected transport one more channel of a session (MS-SMB2 3.2.4.2.3.2, 3.2.5.3.3).

A bind succeeds, or raises one of these errors, whose names say what the session does next:

    NoChannelOnThisPath      the exporter, or somebody on this path, refuses: leave this path alone for a while
    NoChannelOfThisSession   the exporter proved that it refuses: try no path of the session
    NewLoginNeeded           no bind of this session is possible any more: end the session and log in again
    SessionInDoubt           another exporter answers here: don't wait long for the session's silent channels

Message ids. Binds are signed with the key of the session, which is also the key of its first channel. AES-GMAC makes
its nonce of the message id (3.1.4.1), so an id that is used twice would reveal the key. So the first channel logs in
with a message id above `limits.BIND_MESSAGE_IDS`, and every bind uses ids below it that no other bind has used
(BindSigner in smb/signing.py ensures this). ECHOs, which need no session, use up the ids that are skipped. An initiator
that does so says it when it negotiates (messages.UNIQUE_NONCES). If an initiator may bind and does not say it, an
exporter of meshfs does not agree on AES-GMAC.
"""

from typing import Final

from meshfs.errors import MeshfsError, RemoteProtocolError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.credentials import Credentials
from meshfs.initiator.session.negotiation import Policy, negotiate
from meshfs.initiator.session.session_setup import is_signed, session_key, set_up, skip_ids, verify
from meshfs.model import Security
from meshfs.smb.auth import Login
from meshfs.smb.connection import Role
from meshfs.smb.constants import Capabilities, NtStatus
from meshfs.smb.security import bound_security
from meshfs.smb.states import SESSION, StateMachine
from meshfs.smb.status import status_text

#: The statuses by which an exporter takes no further channel, although nothing is wrong.
_REFUSALS: Final = (
    NtStatus.REQUEST_NOT_ACCEPTED,
    NtStatus.NOT_SUPPORTED,
    NtStatus.INSUFFICIENT_RESOURCES,
)


class BindRefused(MeshfsError):
    """The exporter takes no further channel of this session, or so it seems. The text says why."""


class NoChannelOnThisPath(BindRefused):
    """The refusal is not signed. Anybody on this path may have sent it, so it only holds for this path."""


class NoChannelOfThisSession(BindRefused):
    """The refusal is signed with the session's key, so it comes from the exporter and holds for every path."""


class NewLoginNeeded(MeshfsError):
    """The session has no message ids left for a further bind, so that only a new session takes further channels."""


class SessionInDoubt(RemoteProtocolError):
    """The exporter that answers at this address is not the one that has the session."""


async def bind(channel: Channel, policy: Policy, guid: bytes, login: Login, session: Credentials) -> None:
    """Negotiate, and make the connection a further channel of the session.

    The requests and the answers are signed with the session's key, except for the last answer, which is signed with the
    channel's own key. Raises one of the errors above, and what `log_in` raises.
    """
    hint = await negotiate(channel, policy, guid)
    _check_same(channel, session)
    first_id = session.take_bind_ids()
    if first_id is None:
        raise NewLoginNeeded("the session's key has signed as many binds as it may")
    await skip_ids(channel, first_id)
    machine = StateMachine(SESSION, Role.INITIATOR)
    reply, preauth = await set_up(channel, policy, login, hint, machine, bind_to=session, refusals=_REFUSALS)
    if reply.status in _REFUSALS:
        proven = is_signed(channel, reply, session.bind_security)
        refused = NoChannelOfThisSession if proven else NoChannelOnThisPath
        raise refused(f"the exporter takes no further channel ({status_text(reply.status)})")
    settled = channel.connection.negotiated
    assert settled.dialect is not None
    security = bound_security(
        session.security, settled.dialect, settled.signing_algorithm, session_key(login), preauth.value
    )
    verify(channel, reply, security)
    channel.protect(security, session.session_id, sign=policy.security is not Security.NONE, seal=session.seal)


def _check_same(channel: Channel, session: Credentials) -> None:
    """Raise an error unless the exporter of the session answers here, and agrees on what it agreed on before."""
    settled, first = channel.connection.negotiated, session.settled
    if settled.peer_guid != first.peer_guid:
        raise SessionInDoubt("another exporter, or another instance of it, answers at this address")
    if not settled.peer_capabilities & Capabilities.MULTI_CHANNEL:
        raise NoChannelOnThisPath("the exporter offers no multichannel")
    ours = (settled.dialect, settled.signing_algorithm, settled.cipher, settled.unique_nonces)
    if ours != (first.dialect, first.signing_algorithm, first.cipher, first.unique_nonces):
        raise RemoteProtocolError(f"this address agrees on {ours}, unlike the session's first address")
