"""Keeps the result of the first login, which is the id and the keys by which further channels are bound."""

from dataclasses import dataclass
from typing import Final

from meshfs.smb.connection import Negotiated
from meshfs.smb.constants import SigningAlgorithm
from meshfs.smb.security import BindSecurity, ChannelSecurity
from meshfs.smb.states import SessionState, StateMachine

#: The most SESSION_SETUP rounds, and so the most message ids, of one bind. NTLM takes two, Kerberos one or two.
BIND_ROUNDS_MAX: Final = 3


@dataclass(slots=True)
class Credentials:
    """Holds the session's id, what its first channel negotiated, its keys and its state."""

    session_id: int
    settled: Negotiated
    security: ChannelSecurity
    #: Signs and checks binds with the first channel's key.
    bind_security: BindSecurity
    seal: bool
    #: The session's state, which is VALID after the login.
    machine: StateMachine[SessionState]
    #: The first message id that no bind has used.
    next_bind_id: int = 1

    def take_bind_ids(self) -> int | None:
        """Return the first of the message ids that one bind may use, or None if too few are left."""
        first = self.next_bind_id
        ids = range(first, first + BIND_ROUNDS_MAX)
        if not all(map(self.bind_security.reserve, ids)):
            return None
        if self.settled.signing_algorithm is SigningAlgorithm.AES_GMAC:
            self.next_bind_id = ids.stop
        return first
