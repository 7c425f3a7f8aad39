"""What a client has open: a disk, the root of a share of disks, a pipe of IPC$, or a scratch file.

close(then)   ends it for good: waiting requests are answered, queued I/O is cancelled, and
              ``then`` is called when nothing of it is at the disk any more. Until that
              moment its share access and its locks hold others off, and its session has it in
              ``closing``. It may be called again at any time.

An open counts among its node's opens (`Holdings`) from its beginning to that moment, and its tree has it in
``opens``.
"""

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from meshfs.disk.base import DiskRequest
from meshfs.errors import StatusError
from meshfs.exporter.commands import oplock_break
from meshfs.exporter.exchange.request import Request, Waiting
from meshfs.exporter.kinds.scratch import ScratchVolume
from meshfs.exporter.kinds.scratch_tree import ScratchFile
from meshfs.exporter.rules.channel_sequence import EarlierRequests
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.rules.lock_sequence import LockSequences
from meshfs.exporter.rules.locks import ByteRange, Lockable
from meshfs.exporter.rules.oplock import Oplock
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.shares import OfferedDisk
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, CreateOptions, NtStatus
from meshfs.smb.info import OpenFacts

if TYPE_CHECKING:
    from meshfs.exporter.serving.peer import Peer
    from meshfs.exporter.state.session import Session
    from meshfs.exporter.state.tree import Tree


class Open:
    """What all opens have. ``file_id`` is both halves of the SMB2_FILEID."""

    __slots__ = (
        "_counted_at", "access", "allowed", "channel_sequence", "closing", "directory", "earlier", "file_id", "gone",
        "lock_sequences", "mode", "name", "session", "tree", "waits",
    )  # fmt: skip

    def __init__(
        self,
        session: "Session",
        tree: "Tree",
        file_id: int,
        access: int,
        name: str,
        disk: OfferedDisk | None = None,
    ) -> None:
        """Raises StatusError INSUFFICIENT_RESOURCES where its node has too many opens, of the disk or in all."""
        session.holdings.take(Resource.OPENS, disk)
        self._counted_at = disk
        self.session = session
        self.tree = tree
        self.file_id = file_id
        self.access = access
        #: The most that this user could have opened it with; CREATE sets it.
        self.allowed = access
        self.name = name
        #: FileModeInformation; CREATE sets it.
        self.mode = 0
        #: Open.ChannelSequence: the newest one seen, at first that of its CREATE.
        self.channel_sequence = 0
        #: Open.LockSequenceArray, once a LOCK with a sequence has succeeded.
        self.lock_sequences: LockSequences | None = None
        #: What an open of a directory keeps for listings and change notifications.
        self.directory: Directory | None = None
        self.earlier = EarlierRequests()
        self.closing = False
        #: Nothing of it is left.
        self.gone = False
        #: Asynchronous requests that wait for something to happen to it.
        self.waits: set[Waiting] = set()
        tree.opens[self] = None

    def close(self, then: Callable[[], object]) -> None:
        if not self.gone:
            self._end_waits(NtStatus.CANCELLED)
            self._end()
        then()

    def answered(self, request: DiskRequest) -> None:
        """Only a disk is asked with such requests."""

    def as_listable(self) -> Directory:
        """The directory that it is an open of. Raises StatusError where it is of none, or has no right to list it."""
        if self.directory is None:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")
        if not self.access & AccessMask.READ_DATA:
            raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to list")
        return self.directory

    def as_disk(self) -> "DiskOpen":
        """This open, for what only disks can do. Raises StatusError INVALID_DEVICE_REQUEST for all others."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} is no disk")

    def facts(self) -> OpenFacts:
        """What QUERY_INFO tells of the open itself."""
        return OpenFacts(self.access, mode=self.mode)

    def set_mode(self, mode: int) -> None:
        """FileModeInformation was set, after CREATE or by SET_INFO."""
        self.mode = mode

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes in the directory from now on. Raises StatusError; a later call changes nothing."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")

    def outstanding(self) -> Iterator[tuple[object, Request]]:
        """The requests that name it and were not answered yet, without the one being handled.

        Each with what `is_outstanding` can be asked about.
        """
        for waiting in self.waits:
            yield waiting, waiting.request

    def is_outstanding(self, each: object) -> bool:
        return each in self.waits

    def cancel_requests_of(self, peer: "Peer") -> None:
        """A connection is lost: nothing of it may begin any more."""

    def _end(self) -> None:
        """It is gone: its node may have another one in its place."""
        self.gone = True
        del self.tree.opens[self]
        self.session.holdings.give_back(Resource.OPENS, self._counted_at)

    def _release_locks(self, target: Lockable) -> ByteRange | None:
        """Let go all its locks. Returns the smallest range with all of them in it, None for none."""
        count = target.locks.count(self)
        if count:
            self.session.holdings.give_back(Resource.LOCKS, target, count)
        return target.locks.release(self)

    def _end_waits(self, status: int) -> None:
        self.closing = True
        self.session.opens.pop(self.file_id, None)
        for waiting in list(self.waits):
            waiting.end(status)


class DiskOpen(Open):
    """An open of a disk; ``requests`` are those at its queue or disk.

    ``excludes``: it keeps out other opens that it does not share with. Where its node may only read the disk it keeps
    out nobody, and has no locks (`locking`), so that `ro` never stops a writer.
    """

    __slots__ = (
        "_then", "disk", "excludes", "flow", "readable", "requests", "share_access", "turn", "writable",
        "write_through",
    )  # fmt: skip

    def __init__(
        self,
        session: "Session",
        tree: "Tree",
        file_id: int,
        access: int,
        share_access: int,
        disk: OfferedDisk,
    ) -> None:
        super().__init__(session, tree, file_id, access, disk.name, disk)
        self.disk = disk
        self.share_access = share_access
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.write_through = False
        assert tree.io_class is not None, "disks are in shares of a class"
        self.flow = (session.user, tree.io_class)
        #: In whose turns its replies are given.
        self.turn = session.peer.exporter.processor.turns.flow(self.flow)
        self.requests: set[DiskRequest] = set()
        self._then: list[Callable[[], object]] = []
        self.excludes = disk.access_of(session.user) is Access.READ_WRITE
        disk.opens[self] = None
        if self.excludes:
            disk.share_counts.add(access, share_access)

    def as_disk(self) -> "DiskOpen":
        return self

    def set_mode(self, mode: int) -> None:
        super().set_mode(mode)
        self.write_through = bool(mode & CreateOptions.WRITE_THROUGH)

    @property
    def node(self) -> str:
        return self.session.user

    def close(self, then: Callable[[], object]) -> None:
        if self.gone:
            then()
            return
        self._end_waits(NtStatus.RANGE_NOT_LOCKED)
        self._then.append(then)
        self.session.closing[self.file_id] = self
        self.disk.begin_closing(self)
        for request in list(self.requests):
            self.cancel(request)
        if not self.requests:
            self.drained()

    @property
    def is_left(self) -> bool:
        return self.closing and not self.session.serving

    def stop_excluding(self) -> None:
        """Let go what could stop writers: locks, LOCK requests that wait, and its part in share access."""
        if self.gone:
            return
        for waiting in list(self.waits):
            waiting.end(NtStatus.ACCESS_DENIED)
        if self.excludes:
            self.excludes = False
            self.disk.share_counts.remove(self.access, self.share_access)
        freed = self._release_locks(self.disk)
        if freed is not None:
            self.disk.wake_lock_waiters(freed)

    def cancel(self, request: DiskRequest) -> bool:
        """Answer a request with CANCELLED, if it is not at the disk yet."""
        if not self.disk.runner.cancel(request):
            return False
        request.result = -errno.ECANCELED
        request.on_done(request)
        return True

    def answered(self, request: DiskRequest) -> None:
        """The request is at the disk no longer."""
        self.requests.discard(request)
        if self.closing and not self.requests:
            self.drained()

    def outstanding(self) -> Iterator[tuple[object, Request]]:
        yield from super().outstanding()
        for request in self.requests:
            yield request, request.context

    def is_outstanding(self, each: object) -> bool:
        return each in self.requests or super().is_outstanding(each)

    def cancel_requests_of(self, peer: "Peer") -> None:
        for request in list(self.requests):
            if request.context.peer is peer:
                self.cancel(request)

    def drained(self) -> None:
        """Nothing is at the disk, and the open is closing."""
        then, self._then = self._then, []
        if not then:
            return
        disk = self.disk
        del self.session.closing[self.file_id]
        disk.remove_open(self)
        if self.excludes:
            disk.share_counts.remove(self.access, self.share_access)
        freed = self._release_locks(disk)
        self._end()
        for call in then:
            call()
        if freed is not None:
            disk.wake_lock_waiters(freed)


class RootOpen(Open):
    """An open of the root of a share of disks; ``roots`` has all of them."""

    __slots__ = ("_roots",)
    directory: Directory

    def __init__(
        self, session: "Session", tree: "Tree", file_id: int, access: int, roots: "dict[RootOpen, None]"
    ) -> None:
        super().__init__(session, tree, file_id, access, "")
        self.directory = Directory()
        self._roots = roots
        roots[self] = None

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        if not self.directory.watched:
            self.directory.watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)

    def close(self, then: Callable[[], object]) -> None:
        if not self.gone:
            del self._roots[self]
            self._end_waits(NtStatus.NOTIFY_CLEANUP)
            self._end()
        then()


class PipeOpen(Open):
    """An open of a named pipe of IPC$; ``answer`` makes the reply to what was written."""

    __slots__ = ("_answer", "_output")

    def __init__(
        self, session: "Session", tree: "Tree", file_id: int, name: str, answer: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(session, tree, file_id, int(AccessMask.READ_DATA | AccessMask.WRITE_DATA), name)
        self._answer = answer
        self._output = b""

    def write(self, data: bytes) -> None:
        self._output = self._answer(data)

    def read(self, length: int) -> tuple[bytes, bool]:
        """Up to ``length`` bytes, and whether there are more."""
        data, self._output = self._output[:length], self._output[length:]
        return data, bool(self._output)


class ScratchOpen(Open):
    """An open of a scratch file or directory; ``directory`` is None of a file.

    delete_on_close   the file is to go with this open
    position          behind the last byte read or written
    keeps_times       what it writes does not count as the file's last write (MS-FSCC 2.4.7)
    """

    __slots__ = (
        "delete_on_close", "file", "keeps_times", "now", "oplock", "position", "readable",
        "share_access", "volume", "writable",
    )  # fmt: skip

    def __init__(
        self,
        session: "Session",
        tree: "Tree",
        file_id: int,
        access: int,
        share_access: int,
        volume: ScratchVolume,
        file: ScratchFile,
        *,
        delete_on_close: bool,
        now: Callable[[], int],
    ) -> None:
        super().__init__(session, tree, file_id, access, file.path)
        self.volume = volume
        self.file = file
        self.share_access = share_access
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.delete_on_close = delete_on_close
        self.position = 0
        self.keeps_times = False
        self.directory = Directory() if file.is_directory else None
        self.oplock: Oplock | None = None
        self.now = now
        file.add_open(self)

    def facts(self) -> OpenFacts:
        return OpenFacts(self.access, self.position, self.mode, delete_pending=self.file.delete_pending)

    def time_of_writing(self) -> int | None:
        return None if self.keeps_times else self.now()

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        if self.directory is None:
            super().watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)
            return
        if self.file.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"{self.file.path!r} is being deleted")
        if not self.directory.watched:
            self.session.holdings.take_for(lambda: self.volume.watch(self.file, self), Resource.WATCHES)
            self.directory.watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)

    def changed(self, what: int, action: int, name: str, *, below: bool) -> None:
        if self.directory is not None:
            self.directory.changed(what, action, name, below=below)

    def deleted(self) -> None:
        """The directory is about to be deleted: CHANGE_NOTIFY requests that wait for a change wait in vain."""
        for waiting in list(self.waits):
            waiting.end(NtStatus.DELETE_PENDING)

    def close(self, then: Callable[[], object]) -> None:
        if self.closing:
            then()
            return
        self._end_waits(NtStatus.RANGE_NOT_LOCKED if self.directory is None else NtStatus.NOTIFY_CLEANUP)
        file = self.file
        freed = self._release_locks(file)
        self.volume.close(file, self, delete=self.delete_on_close, now=self.now())
        if self.directory is not None and self.directory.watched:
            self.session.holdings.give_back(Resource.WATCHES)
        self._end()
        then()
        if freed is not None:
            file.wake_lock_waiters(freed)
        self.drop_oplock()

    # --- its oplock --------------------------------------------------------------------

    def grant_oplock(self, level: int) -> None:
        self.oplock = self.file.oplock = Oplock(self, level)

    def oplock_broken(self) -> None:
        """Tell the initiator that it may cache no more (MS-SMB2 3.3.4.6)."""
        oplock_break.notify(self.session, self.file_id)

    def drop_oplock(self) -> None:
        """It was acknowledged, or took too long, or goes with the open; those that wait go on."""
        oplock, self.oplock = self.oplock, None
        if oplock is not None:
            self.file.oplock = None
            self.volume.breaking.pop(oplock, None)
            oplock.wake()


AnyOpen = DiskOpen | RootOpen | PipeOpen | ScratchOpen
