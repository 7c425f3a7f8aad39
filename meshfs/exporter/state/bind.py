"""A bind under way; `meshfs.exporter.commands.binding` tells how it goes on."""

from meshfs.smb.auth import Acceptor
from meshfs.smb.connection import Role
from meshfs.smb.security import PreauthHash
from meshfs.smb.states import SESSION, Event, SessionState, next_state


class Bind:
    """A connection on its way to become a channel of a session."""

    __slots__ = ("login", "preauth", "state")

    def __init__(self, login: Acceptor, preauth: PreauthHash) -> None:
        self.login = login
        self.preauth = preauth
        self.state = SessionState.NEW

    def happened(self, event: Event) -> None:
        self.state = next_state(SESSION, self.state, event, Role.EXPORTER)
