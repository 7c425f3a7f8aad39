"""Keeps a session, the login of a node, with everything that the node has opened in it (MS-SMB2 3.3.1.8).

A session may outlive the connection on which it was made. ``channels`` maps each connection of the session to the keys
that are used there. The session ends when its last channel is lost (3.3.7.1), or on all channels at once.

`meshfs.exporter.commands.session_setup` begins sessions, `meshfs.exporter.commands.binding` binds them to further
connections, and the table of all sessions (`sessions.py`) ends them.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.holdings import Holdings, Resource
from meshfs.exporter.state.closing import close_all
from meshfs.exporter.state.open import Open
from meshfs.exporter.state.tree import Tree
from meshfs.mesh_view import MountView
from meshfs.model import IoClass
from meshfs.smb.auth import Acceptor
from meshfs.smb.connection import Connection, Role
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import FileId
from meshfs.smb.security import BindSecurity, ChannelSecurity, PreauthHash
from meshfs.smb.states import SESSION, SessionState, SmbEvent, next_state

#: The states in which requests of a session are served.
SERVING: Final = frozenset((SessionState.VALID, SessionState.REAUTHENTICATING, SessionState.RECHALLENGED))


class SessionView(NamedTuple):
    """Holds the view of a mount, and the time at which it was received, by the exporter's clock."""

    view: MountView
    received_s: float


class BoundConnection(Protocol):
    """Declares what a session needs of a connection. `meshfs.exporter.state.peer.Peer` implements it.

    remote       names the other end in logs and in the status
    connection   has what the two ends negotiated, and the keys of the sessions on it
    closed       is set when nothing can be received or sent any more
    """

    remote: str
    connection: Connection
    closed: bool

    def send(self, frame: bytearray | memoryview) -> None:
        """Queue a frame. It is sent at the latest at the end of the batch under way."""

    def forget(self, session_id: int) -> None:
        """Forget the session, which is not bound to the connection any more. End a bind to it that is under way."""

    def abort(self) -> None:
        """Close the connection when the answers that are queued were sent. No more requests are handled."""

    def log_info(self, text: str, *arguments: object) -> None:
        """Log something that the peer did and may do. Lines beyond the limit are counted and not logged."""


class Session:
    """Represents one login of one node."""

    __slots__ = (
        "bind_security",
        "binding",
        "channels",
        "closing",
        "encrypt",
        "holdings",
        "id",
        "last_tree_id",
        "logins",
        "negotiated",
        "no_more_channels",
        "opens",
        "peer",
        "preauth",
        "security",
        "serving",
        "signing_required",
        "state",
        "trees",
        "user",
        "view",
    )

    def __init__(self, session_id: int, peer: BoundConnection, preauth: PreauthHash) -> None:
        self.id = session_id
        #: The connection on which the session was made. When it is lost, this is the oldest other channel.
        self.peer = peer
        #: The result of the negotiation on that connection. A bind is refused if its connection differs too much.
        self.negotiated = peer.connection.negotiated
        self.state = SessionState.NEW
        #: Tells whether requests of the session are served. It follows ``state``, and saves a look-up on the hot path.
        self.serving = False
        self.user = ""
        #: The resources that the node holds at this exporter in all its sessions. The login sets this.
        self.holdings: Holdings
        #: The logins under way, by connection: the first login, or a reauthentication on any channel.
        self.logins: dict[BoundConnection, Acceptor] = {}
        self.preauth = preauth
        #: The keys of the first channel. They outlive that channel, because all channels encrypt with them.
        self.security: ChannelSecurity | None = None
        #: Checks and signs the messages of binds with the session's own key (3.3.5.2.4).
        self.bind_security: BindSecurity | None = None
        #: The reason why no further connection may be bound to the session, or "" if one may.
        self.no_more_channels = ""
        self.channels: dict[BoundConnection, ChannelSecurity] = {}
        #: The connections on which a bind to this session is under way.
        self.binding: set[BoundConnection] = set()
        self.signing_required = True
        self.encrypt = False
        self.trees: dict[int, Tree] = {}
        self.last_tree_id = 0
        self.opens: dict[int, Open] = {}
        #: What the mount of this session sees of the mesh, or None until the mount has told.
        self.view: SessionView | None = None
        #: The opens that are closed and still have I/O at a disk.
        self.closing: dict[int, Open] = {}

    def happened(self, event: SmbEvent) -> None:
        """Go on to the state after ``event``. Raise RemoteProtocolError if the state does not allow the event."""
        self.state = next_state(SESSION, self.state, event, Role.EXPORTER)
        self.serving = self.state in SERVING

    def forget(self, connection: BoundConnection) -> None:
        """Unbind the session from the connection, or end the bind that is under way there."""
        self.channels.pop(connection, None)
        connection.forget(self.id)

    def leave(self, connection: BoundConnection) -> None:
        """Go on without a channel that is lost.

        Requests of the channel that are queued at a disk are cancelled, because the initiator sends them again on
        another channel. I/O that is at a disk already cannot be taken back, and ends by itself.
        """
        self.logins.pop(connection, None)
        if self.peer is connection:
            self.peer = next(iter(self.channels))
        for opened in (*self.opens.values(), *self.closing.values()):
            opened.cancel_requests_of(connection)

    def find_closing(self, tree: Tree, file_id: FileId) -> Open | None:
        """Return the open of that id if it is closed already but still has I/O at its disk, or None."""
        opened = self.closing.get(file_id.volatile)
        if opened is None or opened.tree is not tree or file_id.persistent != file_id.volatile:
            return None
        return opened

    def forget_open(self, opened: Open) -> None:
        """Let no further request name the open, which is being closed."""
        self.opens.pop(opened.file_id, None)

    def keep_closing(self, opened: Open) -> None:
        """Remember the open, which is closed and still has I/O at a disk."""
        self.closing[opened.file_id] = opened

    def forget_closing(self, opened: Open) -> None:
        """Drop the open from those that `keep_closing` remembers, because nothing of it is at a disk any more."""
        del self.closing[opened.file_id]

    def add_tree(self, share: str, io_class: IoClass | None) -> Tree:
        """Connect the session to a share. Raise StatusError INSUFFICIENT_RESOURCES if there are too many trees."""
        if len(self.trees) >= limits.TREES_PER_SESSION_MAX:
            raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many trees")
        self.holdings.take(Resource.TREES)
        self.last_tree_id += 1
        tree = self.trees[self.last_tree_id] = Tree(self.last_tree_id, share, io_class)
        return tree

    def remove_tree(self, tree: Tree) -> None:
        """Disconnect a tree, and refuse the CREATEs that wait in it. The caller closes the opens of the tree."""
        del self.trees[tree.id]
        self.holdings.give_back(Resource.TREES)
        for pending in list(tree.creates):
            pending.retry()

    def end(self, then: Callable[[], object]) -> None:
        """Give up all trees and opens of the session. Call ``then`` when nothing of them is at a disk any more."""
        self.serving = False
        for tree in list(self.trees.values()):
            self.remove_tree(tree)
        close_all([*self.opens.values(), *self.closing.values()], then)
