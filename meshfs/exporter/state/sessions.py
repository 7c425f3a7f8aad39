"""Keeps all sessions of an exporter, gives them ids, and ends them (MS-SMB2 3.3.1.5, 3.3.7.1)."""

import secrets
from collections.abc import Callable, Iterator, Mapping

from meshfs.exporter.rules.node_usage import UsageByNode
from meshfs.exporter.state.closing import nobody
from meshfs.exporter.state.session import BoundConnection, Session
from meshfs.exporter.state.tree import Tree
from meshfs.model import IoClass
from meshfs.smb.constants import SESSION_ID_RELATED
from meshfs.smb.states import SessionState, SmbEvent


class Sessions(Mapping[int, Session]):
    """Holds the sessions by id. ``count`` adds one to the counter of a name."""

    def __init__(self, usage: UsageByNode, count: Callable[[str], None]) -> None:
        self._usage = usage
        self._count = count
        self._by_id: dict[int, Session] = {}
        #: The sessions that have ended with I/O still at a disk, and the calls that wait for the end of that I/O.
        self._ending: dict[int, list[Callable[[], object]]] = {}
        #: The trees of the class system. An entry has the id of the session, and the tree's id in the low 32 bits.
        self.system_trees: set[int] = set()

    def __getitem__(self, session_id: int) -> Session:
        return self._by_id[session_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session: Session) -> None:
        """Add a session. From now on requests can name it, and a later login can end it."""
        self._by_id[session.id] = session

    def new_id(self) -> int:
        """Return an id that no session has. The id is neither 0 nor all ones, which have meanings.

        The id is random, so that a peer cannot guess the ids of other sessions: the refusal of a bind reveals whether
        a session with that id exists.
        """
        while (session_id := secrets.randbits(64)) in (0, SESSION_ID_RELATED) or session_id in self._by_id:
            pass
        return session_id

    def connect(self, session: Session, share: str, io_class: IoClass | None) -> Tree:
        """Connect the session to a share. Raise StatusError INSUFFICIENT_RESOURCES if there are too many trees."""
        tree = session.add_tree(share, io_class)
        if io_class is IoClass.SYSTEM:
            self.system_trees.add(session.id << 32 | tree.id)
        return tree

    def disconnect(self, session: Session, tree: Tree) -> None:
        """Disconnect a tree, so that no request can use it from now on. The caller closes the opens of the tree."""
        session.remove_tree(tree)
        self.system_trees.discard(session.id << 32 | tree.id)

    def end(self, session: Session, then: Callable[[], object]) -> None:
        """End the session on all its channels, and call ``then`` when nothing of it is at a disk any more.

        This function may be called again while I/O of the session is still at a disk. Then each ``then`` waits for that
        I/O, because a caller relies on the end of the session: no write of it may land later.
        """
        if self._by_id.pop(session.id, None) is None:
            ending = self._ending.get(session.id)
            if ending is None:
                then()
            else:
                ending.append(then)
            return
        waiting = self._ending[session.id] = [then]

        def ended() -> None:
            del self._ending[session.id]
            for call in waiting:
                call()

        if session.user:
            self._usage.of(session.user).sessions -= 1
        if session.state not in (SessionState.LOGGING_OFF, SessionState.ENDED):
            session.happened(SmbEvent.LOST)
        for connection in {session.peer, *session.channels, *session.binding}:
            session.forget(connection)
        self.system_trees.difference_update(session.id << 32 | tree_id for tree_id in session.trees)
        session.end(ended)

    def unbind(self, session: Session, connection: BoundConnection) -> None:
        """Take a lost connection from the session. If that was the last channel, end the session."""
        if not session.channels.keys() - {connection}:
            self.end(session, nobody)
            return
        session.forget(connection)
        self._count("channels_lost")
        left = len(session.channels)
        connection.log_info("channel of the session of node %s lost, %d left", session.user, left)
        session.leave(connection)
