"""The table of all sessions of an exporter: new ids, and how a session ends (MS-SMB2 3.3.1.5, 3.3.7.1)."""

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
    """The sessions by id. ``count`` is told the name of a counter whenever one goes up."""

    def __init__(self, usage: UsageByNode, count: Callable[[str], None]) -> None:
        self._usage = usage
        self._count = count
        self._by_id: dict[int, Session] = {}
        #: Sessions that ended with I/O still at a disk, and who waits for that I/O.
        self._ending: dict[int, list[Callable[[], object]]] = {}
        #: The trees of the class system: the id of the session, and in the low 32 bits the tree's.
        self.system_trees: set[int] = set()

    def __getitem__(self, session_id: int) -> Session:
        return self._by_id[session_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session: Session) -> None:
        """Requests can name the session from now on, and a later login can end it."""
        self._by_id[session.id] = session

    def new_id(self) -> int:
        """An id that neither is 0 nor all ones, which have meanings, nor can be told from an id that exists.

        It is random, because the refusal of a bind tells whether a session of that id exists.
        """
        while (session_id := secrets.randbits(64)) in (0, SESSION_ID_RELATED) or session_id in self._by_id:
            pass
        return session_id

    def connect(self, session: Session, share: str, io_class: IoClass | None) -> Tree:
        """Connect the session to a share. Raises StatusError INSUFFICIENT_RESOURCES."""
        tree = session.add_tree(share, io_class)
        if io_class is IoClass.SYSTEM:
            self.system_trees.add(session.id << 32 | tree.id)
        return tree

    def disconnect(self, session: Session, tree: Tree) -> None:
        """Disconnect a tree: nobody can use it from now on. The caller closes its opens."""
        session.remove_tree(tree)
        self.system_trees.discard(session.id << 32 | tree.id)

    def end(self, session: Session, then: Callable[[], object]) -> None:
        """End the session on all its channels, and call ``then`` when nothing of it is at a disk any more.

        It may be called again while the session's I/O is still at a disk. Then this ``then`` waits for that I/O, too,
        because what a lost session left at a disk must have landed before anybody relies on its end.
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
        """Take a lost connection from the session, which goes on with its other channels or ends with its last one."""
        if not session.channels.keys() - {connection}:
            self.end(session, nobody)
            return
        session.forget(connection)
        self._count("channels_lost")
        left = len(session.channels)
        connection.log_info("channel of the session of node %s lost, %d left", session.user, left)
        session.leave(connection)
