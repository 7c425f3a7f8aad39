"""Keeps the state of a bind under way. `meshfs.exporter.commands.binding` has the steps of a bind."""

from meshfs.smb.auth import Acceptor
from meshfs.smb.connection import Role
from meshfs.smb.security import PreauthHash
from meshfs.smb.states import SESSION, SessionState, SmbEvent, next_state


class Bind:
    """Represents a bind in progress. The bind runs the states of a login, although its session is logged in already."""

    __slots__ = ("login", "preauth", "state")

    def __init__(self, login: Acceptor, preauth: PreauthHash) -> None:
        self.login = login
        self.preauth = preauth
        self.state = SessionState.NEW

    def happened(self, event: SmbEvent) -> None:
        """Go on to the state after ``event``. Raise RemoteProtocolError if the state does not allow the event."""
        self.state = next_state(SESSION, self.state, event, Role.EXPORTER)
