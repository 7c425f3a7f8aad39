"""Sessions: who is logged in, and what it has open (MS-SMB2 3.3.1.8).

A session is apart from the connection it was made on: ``channels`` holds the connections it
is bound to and the keys on each. It ends with the last of them (3.3.7.1), or on all at once.
How a session begins is told in `meshfs.exporter.commands.session_setup`, and which there are in `sessions`.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.holdings import Holdings, Resource
from meshfs.exporter.state.open import Open
from meshfs.exporter.state.tree import OpenOfTree, Tree
from meshfs.model import IoClass
from meshfs.smb.auth import Acceptor
from meshfs.smb.connection import Connection, Role
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import FileId
from meshfs.smb.security import BindSecurity, ChannelSecurity, PreauthHash
from meshfs.smb.states import SESSION, Event, SessionState, next_state

#: States in which requests of the session are served.
SERVING: Final = frozenset((SessionState.VALID, SessionState.REAUTHENTICATING, SessionState.RECHALLENGED))


class BoundConnection(Protocol):
    """A connection, as far as a session knows it; `meshfs.exporter.state.peer.Peer` is one.

    remote       who is at its other end, for logs and the status
    connection   what the two ends negotiated, and the keys of its sessions
    closed       nothing is received or sent any more
    """

    remote: str
    connection: Connection
    closed: bool

    def send(self, frame: bytes | bytearray | memoryview) -> None:
        """Send a frame, at the latest when the batch under way ends."""

    def forget(self, session_id: int) -> None:
        """The session is not bound to this connection any more, nor about to be."""

    def abort(self) -> None:
        """Close it without an answer."""

    def log_info(self, text: str, *arguments: object) -> None:
        """Log a line for what its other end did, unless there were too many."""


class Session:
    """One login of one node."""

    __slots__ = (
        "bind_security", "binding", "channels", "closing", "encrypt", "holdings", "id", "last_tree_id", "logins",
        "negotiated", "no_more_channels", "opens", "peer", "preauth", "security", "serving", "signing_required",
        "state", "trees", "user",
    )  # fmt: skip

    def __init__(self, session_id: int, peer: BoundConnection, preauth: PreauthHash) -> None:
        self.id = session_id
        #: The connection it was made on, or when that is gone the oldest of the others.
        self.peer = peer
        #: What was agreed to there; every other channel has the same.
        self.negotiated = peer.connection.negotiated
        self.state = SessionState.NEW
        #: Whether its requests are served; follows ``state``, for the hot path.
        self.serving = False
        self.user = ""
        #: What its node has here, in this session and others; until the login it has nothing.
        self.holdings: Holdings
        #: Logins under way, by connection: the first, or once more on any channel.
        self.logins: dict[BoundConnection, Acceptor] = {}
        self.preauth = preauth
        #: The keys of its first login, whatever became of that channel; binds have their ciphers from there ...
        self.security: ChannelSecurity | None = None
        #: ... and are signed with its key (3.3.5.2.4).
        self.bind_security: BindSecurity | None = None
        #: Why no further connection may be bound to it; empty while that is allowed.
        self.no_more_channels = ""
        self.channels: dict[BoundConnection, ChannelSecurity] = {}
        #: Connections with a bind under way.
        self.binding: set[BoundConnection] = set()
        self.signing_required = True
        self.encrypt = False
        self.trees: dict[int, Tree] = {}
        self.last_tree_id = 0
        self.opens: dict[int, Open] = {}
        #: Closed, with I/O still at a disk.
        self.closing: dict[int, Open] = {}

    def happened(self, event: Event) -> None:
        self.state = next_state(SESSION, self.state, event, Role.EXPORTER)
        self.serving = self.state in SERVING

    def forget(self, connection: BoundConnection) -> None:
        """The session is not bound to the connection any more, nor about to be."""
        self.channels.pop(connection, None)
        connection.forget(self.id)

    def leave(self, connection: BoundConnection) -> None:
        """A channel is lost: take its requests back from the disks' queues. What is at a disk ends by itself."""
        self.logins.pop(connection, None)
        if self.peer is connection:
            self.peer = next(iter(self.channels))
        for opened in (*self.opens.values(), *self.closing.values()):
            opened.cancel_requests_of(connection)

    def find_closing(self, tree: Tree, file_id: FileId) -> Open | None:
        """An open that is closed already, and still has I/O at its disk."""
        opened = self.closing.get(file_id.volatile)
        if opened is None or opened.tree is not tree or file_id.persistent != file_id.volatile:
            return None
        return opened

    def add_tree(self, share: str, io_class: IoClass | None) -> Tree:
        """Raises StatusError INSUFFICIENT_RESOURCES."""
        if len(self.trees) >= limits.TREES_PER_SESSION_MAX:
            raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many trees")
        self.holdings.take(Resource.TREES)
        self.last_tree_id += 1
        tree = self.trees[self.last_tree_id] = Tree(self.last_tree_id, share, io_class)
        return tree

    def remove_tree(self, tree: Tree) -> None:
        """Nobody can use it from now on. Its opens are the caller's to end; CREATEs that wait are refused."""
        del self.trees[tree.id]
        self.holdings.give_back(Resource.TREES)
        for pending in list(tree.creates):
            pending.retry()

    def close_opens(self, opens: Sequence[OpenOfTree], then: Callable[[], object]) -> None:
        """End these opens; ``then`` when nothing of them is at a disk any more."""
        left = len(opens) + 1

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for opened in opens:
            opened.close(one_less)
        one_less()

    def end(self, then: Callable[[], object]) -> None:
        """Forget everything it has; ``then`` when nothing of it is at a disk any more."""
        self.serving = False
        for tree in list(self.trees.values()):
            self.remove_tree(tree)
        self.close_opens([*self.opens.values(), *self.closing.values()], then)
