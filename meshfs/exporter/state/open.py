"""`Open` is the base of everything that a client can open. It has an identity and rights, and ends in two steps.

Which requests an open can answer (READ, WRITE, LOCK and so on) depends on its kind (`meshfs.exporter.kinds`).

An open ends in two steps, because I/O that is at a disk cannot be taken back:

    close(then)   The open leaves its session, its waiting requests are answered, and its queued I/O is cancelled.
    gone          Nothing of the open is at a disk any more. Only now ``then`` is called, and the share access and the
                  locks of the open let others in. Until now the session has the open in ``closing``.

`close` may be called again at any time, and calls its ``then`` in the same way. From its beginning until it is gone, an
open counts among the opens of its node (`Holdings`), and its tree has it in ``opens``.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from meshfs.disk.base import DiskRequest
from meshfs.exporter.rules.channel_sequence import EarlierRequests
from meshfs.exporter.rules.holdings import Holdings, Resource
from meshfs.exporter.rules.lock_sequence import LockSequences
from meshfs.exporter.rules.locks import ByteRange, Lockable
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import NtStatus
from meshfs.smb.info import OpenFacts

O_contra = TypeVar("O_contra", contravariant=True)


class OwningSession(Protocol[O_contra]):
    """Declares what an open needs of its session.

    user       the node that is logged in
    holdings   what the node holds at this exporter
    serving    tells whether requests of the session are served
    """

    user: str
    holdings: Holdings
    serving: bool

    def forget_open(self, opened: O_contra) -> None:
        """Let no further request name the open, which is being closed."""

    def keep_closing(self, opened: O_contra) -> None:
        """Remember the open, which is closed and still has I/O at a disk."""

    def forget_closing(self, opened: O_contra) -> None:
        """Drop the open from those that `keep_closing` remembers, because nothing of it is at a disk any more."""


class WaitingRequest(Protocol):
    """Stands for an asynchronous request that waits for something to happen to an open."""

    @property
    def channel_sequence(self) -> int:
        """Return the ChannelSequence of the request."""

    def end(self, status: int) -> None:
        """Give up waiting, and answer with ``status``."""


class Open:
    """Is the base of all kinds of opens. Both halves of the SMB2_FILEID are ``file_id``."""

    __slots__ = (
        "_counted_at",
        "access",
        "allowed",
        "channel_sequence",
        "closing",
        "directory",
        "earlier",
        "file_id",
        "gone",
        "lock_sequences",
        "mode",
        "name",
        "session",
        "tree",
        "waits",
    )

    def __init__(
        self,
        session: OwningSession["Open"],
        tree: Tree,
        file_id: int,
        access: int,
        name: str,
        counted_at: object = None,
    ) -> None:
        """Count the open. Raise StatusError if the node has too many opens, in all or at ``counted_at``."""
        session.holdings.take(Resource.OPENS, counted_at)
        self._counted_at = counted_at
        self.session = session
        self.tree = tree
        self.file_id = file_id
        self.access = access
        #: The most access that this user could have had. CREATE sets this value.
        self.allowed = access
        self.name = name
        #: FileModeInformation, which CREATE and SET_INFO set.
        self.mode = 0
        #: Open.ChannelSequence: the newest sequence that was seen, beginning with that of the CREATE.
        self.channel_sequence = 0
        #: Open.LockSequenceArray, or None until a LOCK with a sequence has succeeded.
        self.lock_sequences: LockSequences | None = None
        #: The state of listings and change notifications, if this is an open of a directory.
        self.directory: DirectoryState | None = None
        self.earlier = EarlierRequests()
        self.closing = False
        #: Tells whether nothing of the open is left.
        self.gone = False
        #: The asynchronous requests that wait for something to happen to the open.
        self.waits: set[WaitingRequest] = set()
        tree.opens[self] = None

    def close(self, then: Callable[[], object]) -> None:
        """Close the open, and call ``then`` when nothing of it is at a disk any more."""
        if not self.gone:
            self._end_waits(NtStatus.CANCELLED)
            self._end()
        then()

    def answered(self, request: DiskRequest) -> None:
        """Forget a request that is no longer at the disk of the open. Only opens of disks have such requests."""

    def facts(self) -> OpenFacts:
        """Return the facts of the open itself for QUERY_INFO. The facts of the file come from its kind."""
        return OpenFacts(self.access, mode=self.mode)

    def set_mode(self, mode: int) -> None:
        """Set FileModeInformation, for CREATE or SET_INFO."""
        self.mode = mode

    def outstanding(self) -> Iterator[tuple[object, int]]:
        """Yield the requests that name the open and were not answered yet, except the request being handled.

        Each request is an object that `is_outstanding` knows, and comes with its ChannelSequence.
        """
        for waiting in self.waits:
            yield waiting, waiting.channel_sequence

    def is_outstanding(self, each: object) -> bool:
        """Return whether a request that `outstanding` has yielded is still not answered."""
        return each in self.waits

    def cancel_requests_of(self, peer: object) -> None:
        """Cancel the queued requests of the connection ``peer``. It is lost, so they must not reach a disk any more."""

    def _end(self) -> None:
        """End the open, because nothing of it is left. Its node may have another open in its place."""
        self.gone = True
        del self.tree.opens[self]
        self.session.holdings.give_back(Resource.OPENS, self._counted_at)

    def _release_locks(self, target: Lockable) -> ByteRange | None:
        """Release all locks of the open. Return the smallest range that contains them, or None if it had none."""
        count = target.locks.count(self)
        if count:
            self.session.holdings.give_back(Resource.LOCKS, target, count)
        return target.locks.release(self)

    def _end_waits(self, status: int) -> None:
        """Take the open out of its session, and answer the requests that wait for it."""
        self.closing = True
        self.session.forget_open(self)
        for waiting in list(self.waits):
            waiting.end(status)
