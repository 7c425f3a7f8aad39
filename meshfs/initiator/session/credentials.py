"""What the first channel's login gives a session, and what its further channels are bound by."""

from dataclasses import dataclass
from typing import Final

from meshfs.smb.connection import Negotiated
from meshfs.smb.constants import SigningAlgorithm
from meshfs.smb.security import BindSecurity, ChannelSecurity
from meshfs.smb.states import SessionState, StateMachine

#: The most SESSION_SETUP rounds of one bind, and so the message ids it may use: NTLM takes two, Kerberos one or two.
BIND_ROUNDS_MAX: Final = 3


@dataclass(slots=True)
class Credentials:
    """The session's id, what its first channel agreed on, and its keys."""

    session_id: int
    settled: Negotiated
    security: ChannelSecurity
    #: The first channel's key, as the session's binds are signed with it.
    bind_security: BindSecurity
    seal: bool
    #: The session's state, which is VALID after the login.
    machine: StateMachine[SessionState]
    #: The first message id that no bind has used.
    next_bind_id: int = 1

    def take_bind_ids(self) -> int | None:
        """The first of as many message ids as one bind may use; None when there are none left."""
        first = self.next_bind_id
        ids = range(first, first + BIND_ROUNDS_MAX)
        if not all(map(self.bind_security.reserve, ids)):
            return None
        if self.settled.signing_algorithm is SigningAlgorithm.AES_GMAC:
            self.next_bind_id = ids.stop
        return first
