"""What a client has open: a disk, the root of a share, or a pipe of IPC$.

close(then)   ends it for good: waiting requests are answered, queued I/O is cancelled, and
              ``then`` is called when nothing of it is at the disk any more. Until that
              moment its share access and its locks hold others off, and its session has it in
              ``closing``. It may be called again meanwhile.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from meshfs.disk.base import DiskRequest
from meshfs.exporter.request import Request, Waiting
from meshfs.exporter.shares import OfferedDisk
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.info import FileFacts, NamePattern
from meshfs.smb.messages import ChangeNotifyResponse, pack_notifications

if TYPE_CHECKING:
    from meshfs.exporter.peer import Peer
    from meshfs.exporter.session import Session, Tree

# Changes kept for a watcher between two of its requests; past that it is told to look again.
_CHANGES_MAX = 64


class Open:
    """What all opens have. ``file_id`` is both halves of the SMB2_FILEID."""

    __slots__ = ("access", "channel_sequence", "closing", "file_id", "name", "session", "tree", "waits")

    def __init__(self, session: "Session", tree: "Tree", file_id: int, access: int, name: str) -> None:
        self.session = session
        self.tree = tree
        self.file_id = file_id
        self.access = access
        self.name = name
        #: Open.ChannelSequence: the newest one seen, at first that of its CREATE.
        self.channel_sequence = 0
        self.closing = False
        #: Asynchronous requests that wait for something to happen to it.
        self.waits: set[Waiting] = set()

    def close(self, then: Callable[[], object]) -> None:
        self._end_waits(NtStatus.CANCELLED)
        then()

    def outstanding(self) -> Iterator[Request]:
        """The requests that name it and were not answered yet, without the one being handled."""
        for waiting in self.waits:
            yield waiting.request

    def cancel_requests_of(self, peer: "Peer") -> None:
        """A connection is lost: nothing of it may begin any more."""

    def _end_waits(self, status: int) -> None:
        self.closing = True
        self.session.opens.pop(self.file_id, None)
        for waiting in list(self.waits):
            waiting.end(status)


class DiskOpen(Open):
    """An open of a disk; ``requests`` are those at its queue or disk."""

    __slots__ = ("_then", "disk", "flow", "readable", "requests", "share_access", "writable", "write_through")

    def __init__(
        self,
        session: "Session",
        tree: "Tree",
        file_id: int,
        access: int,
        share_access: int,
        disk: OfferedDisk,
        *,
        write_through: bool,
    ) -> None:
        super().__init__(session, tree, file_id, access, disk.name)
        self.disk = disk
        self.share_access = share_access
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.write_through = write_through
        self.flow = (session.user, tree.io_class)
        self.requests: set[DiskRequest] = set()
        self._then: list[Callable[[], object]] = []
        disk.opens.append(self)

    def close(self, then: Callable[[], object]) -> None:
        self._end_waits(NtStatus.RANGE_NOT_LOCKED)
        self._then.append(then)
        self.session.closing.add(self)
        for request in list(self.requests):
            self.cancel(request)
        if not self.requests:
            self.drained()

    def cancel(self, request: DiskRequest) -> bool:
        """Answer a request with CANCELLED, if it is not at the disk yet."""
        if not self.disk.runner.cancel(request):
            return False
        request.result = -errno.ECANCELED
        request.on_done(request)
        return True

    def outstanding(self) -> Iterator[Request]:
        yield from super().outstanding()
        for request in self.requests:
            yield request.context

    def cancel_requests_of(self, peer: "Peer") -> None:
        for request in list(self.requests):
            if request.context.peer is peer:
                self.cancel(request)

    def drained(self) -> None:
        """Nothing is at the disk, and the open is closing."""
        then, self._then = self._then, []
        if not then:
            return
        self.session.closing.discard(self)
        self.disk.opens.remove(self)
        had_locks = self.disk.locks.release(self)
        for call in then:
            call()
        if had_locks:
            self.disk.wake_lock_waiters()


class RootOpen(Open):
    """An open of a share's root: a listing under way, and changes to tell."""

    __slots__ = ("_changes", "_lost", "_watched", "listing", "pattern", "watchers")

    def __init__(self, session: "Session", tree: "Tree", file_id: int, access: int) -> None:
        super().__init__(session, tree, file_id, access, "")
        self.pattern: NamePattern | None = None
        self.listing: list[FileFacts] = []
        #: Of the waiting CHANGE_NOTIFY requests, the oldest first; each takes itself out.
        self.watchers: list[Callable[[], object]] = []
        self._changes: deque[tuple[int, str]] = deque()
        self._lost = False
        self._watched = False

    def close(self, then: Callable[[], object]) -> None:
        self._end_waits(NtStatus.NOTIFY_CLEANUP)
        then()

    def changed(self, action: int, disk: OfferedDisk) -> None:
        """The list of disks changed; tells the waiting watcher, or keeps it for the next."""
        if not self._watched:
            return
        if len(self._changes) >= _CHANGES_MAX:
            self._lost = True
        else:
            self._changes.append((action, disk.name))
        for tell in self.watchers[:1]:
            tell()

    def has_changes(self) -> bool:
        """Whether there is something to tell at once; from now on changes are kept."""
        self._watched = True
        return bool(self._changes) or self._lost

    def tell(self, request: Request, output_bytes_max: int) -> None:
        """Answer a CHANGE_NOTIFY with what changed (MS-SMB2 3.3.4.4)."""
        output = pack_notifications(tuple(self._changes))
        lost, self._lost = self._lost, False
        self._changes.clear()
        if lost or len(output) > output_bytes_max:
            request.reply(ChangeNotifyResponse(b"").pack(), NtStatus.NOTIFY_ENUM_DIR)
        else:
            request.reply(ChangeNotifyResponse(output).pack())


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


AnyOpen = DiskOpen | RootOpen | PipeOpen
