"""`Open` is what a client has opened: its identity, its rights, and the way in which it ends.

What can be done with an open (READ, WRITE, LOCK and so on) depends on its kind; `meshfs.exporter.kinds` has the kinds.

An open ends in two steps, because I/O that is at a disk cannot be taken back:

    close(then)   The open leaves its session, its waiting requests are answered, and its queued I/O is cancelled.
    gone          Nothing of it is at a disk any more. Only then ``then`` is called, and its share access and its locks
                  let others in. Until then its session has it in ``closing``.

`close` may be called again at any time, and calls its ``then`` in the same way. An open counts among the opens of its
node (`Holdings`) from its beginning until it is gone, and its tree has it in ``opens`` for as long.
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
    """The session of an open, as far as the open knows it.

    user       the node that is logged in
    holdings   what the node has at this exporter
    serving    whether requests of the session are served
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
    """An asynchronous request that waits for something to happen to an open."""

    @property
    def channel_sequence(self) -> int:
        """The ChannelSequence that it was sent with."""

    def end(self, status: int) -> None:
        """Give up waiting, and answer with ``status``."""


class Open:
    """The base of all kinds of opens. Both halves of its SMB2_FILEID are ``file_id``."""

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
        """Raises StatusError INSUFFICIENT_RESOURCES where the node has too many opens, in all or at ``counted_at``."""
        session.holdings.take(Resource.OPENS, counted_at)
        self._counted_at = counted_at
        self.session = session
        self.tree = tree
        self.file_id = file_id
        self.access = access
        #: The most that this user could have opened it with; CREATE sets it.
        self.allowed = access
        self.name = name
        #: FileModeInformation; CREATE sets it.
        self.mode = 0
        #: Open.ChannelSequence: the newest that was seen, at first that of its CREATE.
        self.channel_sequence = 0
        #: Open.LockSequenceArray, once a LOCK with a sequence has succeeded.
        self.lock_sequences: LockSequences | None = None
        #: What an open of a directory keeps for listings and change notifications.
        self.directory: DirectoryState | None = None
        self.earlier = EarlierRequests()
        self.closing = False
        #: Whether nothing of it is left.
        self.gone = False
        #: The asynchronous requests that wait for something to happen to it.
        self.waits: set[WaitingRequest] = set()
        tree.opens[self] = None

    def close(self, then: Callable[[], object]) -> None:
        """End it for good, and call ``then`` when nothing of it is at a disk any more."""
        if not self.gone:
            self._end_waits(NtStatus.CANCELLED)
            self._end()
        then()

    def answered(self, request: DiskRequest) -> None:
        """A request of it is at its disk no longer. Only opens with a disk have such requests."""

    def facts(self) -> OpenFacts:
        """Return what QUERY_INFO tells of the open itself, not of what it opened."""
        return OpenFacts(self.access, mode=self.mode)

    def set_mode(self, mode: int) -> None:
        """CREATE or SET_INFO sets FileModeInformation."""
        self.mode = mode

    def outstanding(self) -> Iterator[tuple[object, int]]:
        """The requests that name it and were not answered yet, without the one that is being handled.

        Each comes with its ChannelSequence, and is an object that `is_outstanding` can be asked about.
        """
        for waiting in self.waits:
            yield waiting, waiting.channel_sequence

    def is_outstanding(self, each: object) -> bool:
        """Return whether what `outstanding` yielded was not answered meanwhile."""
        return each in self.waits

    def cancel_requests_of(self, peer: object) -> None:
        """The connection ``peer`` is lost, so no queued request of it may reach a disk any more."""

    def _end(self) -> None:
        """Nothing of it is left, so its node may have another open in its place."""
        self.gone = True
        del self.tree.opens[self]
        self.session.holdings.give_back(Resource.OPENS, self._counted_at)

    def _release_locks(self, target: Lockable) -> ByteRange | None:
        """Release all its locks. Returns the smallest range that contains them all, or None where it had none."""
        count = target.locks.count(self)
        if count:
            self.session.holdings.give_back(Resource.LOCKS, target, count)
        return target.locks.release(self)

    def _end_waits(self, status: int) -> None:
        """Take it out of its session, and answer the requests that wait for it."""
        self.closing = True
        self.session.forget_open(self)
        for waiting in list(self.waits):
            waiting.end(status)
