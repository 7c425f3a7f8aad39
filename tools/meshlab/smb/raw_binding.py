"""Bind sessions to further connections, step by step, for tests.

    other = RawInitiator(exporter)
    other.negotiate()
    reply = bind(other, client)

Every reply is checked against the key that has to sign it, and ``Reply.protection`` has the result.
"""

from dataclasses import replace
from typing import Any

from meshfs.smb.auth import Login
from meshfs.smb.connection import Protection
from meshfs.smb.constants import Command, Flags, NtStatus, SessionSetupFlags, SigningAlgorithm
from meshfs.smb.messages import SessionSetupRequest, SessionSetupResponse
from meshfs.smb.security import ChannelSecurity, bound_security
from meshfs.smb.signing import NONCE_EXPORTER
from meshlab.smb.raw_client import PASSWORDS, RawClient, freed
from meshlab.smb.raw_messages import Reply

#: Message ids reserved for one bind; NTLM uses two of them.
_MESSAGE_IDS = 3


class RawBind:
    """Binds ``session`` (a client that is logged in) to ``client``'s connection, step by step."""

    def __init__(self, client: RawClient, session: RawClient, user: str = "n2", password: str | None = None) -> None:
        self.client = client
        self.session_id, self.tree_id, self.sealed = session.session_id, session.tree_id, session.sealed
        assert session.session_security is not None
        self.key: ChannelSecurity = session.session_security
        if session.connection.negotiated.signing_algorithm is SigningAlgorithm.AES_GMAC:
            # Like the mount, use each message id in only one bind of a session.
            client.skip_ids(session.next_bind_id[0])
            session.next_bind_id[0] = client.next_id + _MESSAGE_IDS
        self.next_bind_id = session.next_bind_id
        self.login = Login(user, PASSWORDS.get(user, "?") if password is None else password, "")
        self.preauth = client.preauth.copy()
        self.token = self.login.step()[0]

    def step(self, *, sign: ChannelSecurity | None = None, flags: int = int(SessionSetupFlags.BINDING)) -> Reply:
        """Send the next request, by default signed with the session's key. After the last, the client is a channel."""
        client = self.client
        client_security, client.security = client.security, self.key if sign is None else sign
        try:
            body = SessionSetupRequest(flags, 1, 0, self.token or b"")
            message_id, frame = client.pack(
                Command.SESSION_SETUP, body.pack(), session_id=self.session_id, tree_id=0, seal=False
            )
        finally:
            client.security = client_security
        self.preauth.update(memoryview(frame)[4:])
        client.deliver(frame)
        return self._take(client.take(message_id))

    def _take(self, reply: Reply) -> Reply:
        key = self.key
        if reply.status == NtStatus.MORE_PROCESSING_REQUIRED:
            self.preauth.update(reply.view)
            self.token = self.login.step(SessionSetupResponse.unpack(reply.body).security_buffer)[0]
        elif not reply.status:
            key = self._become_channel()
        return replace(reply, protection=protection_by(reply, key))

    def _become_channel(self) -> ChannelSecurity:
        client = self.client
        negotiated = client.connection.negotiated
        assert negotiated.dialect is not None
        bound = freed(
            bound_security(
                self.key, negotiated.dialect, negotiated.signing_algorithm, self.login.session_key, self.preauth.value
            )
        )
        client.security = client.connection.security[self.session_id] = bound
        client.session_security, client.next_bind_id = self.key, self.next_bind_id
        client.session_id, client.tree_id, client.sealed = self.session_id, self.tree_id, self.sealed
        return bound


def bind(client: RawClient, session: RawClient, user: str = "n2", password: str | None = None) -> Reply:
    """Run a whole bind, and return its last reply."""
    exchange = RawBind(client, session, user, password)
    reply = exchange.step()
    while reply.status == NtStatus.MORE_PROCESSING_REQUIRED:
        if reply.protection != Protection.SIGNED:
            raise AssertionError(f"interim reply of a bind is {reply.protection.name}")
        reply = exchange.step()
    return reply


def protection_by(reply: Reply, key: ChannelSecurity) -> Protection:
    """Check a reply with ``key``, and return how it is protected."""
    if not reply.flags & Flags.SIGNED:
        return reply.protection
    view = memoryview(bytearray(reply.view))
    good = key.signer.verify(view, reply.message_id, NONCE_EXPORTER)
    return Protection.SIGNED if good else Protection.BAD


def second_channel(session: RawClient, client: RawClient, **negotiation: Any) -> RawClient:
    """Negotiate on ``client`` and make it a channel of ``session``."""
    client.negotiate(**negotiation)
    reply = bind(client, session)
    if reply.status or reply.protection != Protection.SIGNED:
        raise AssertionError(f"bind: 0x{reply.status:08x}, {reply.protection.name}")
    return client
