"""An open of a disk, and how it waits for its I/O when it ends."""

import errno
from collections.abc import Callable, Iterator

from meshfs.disk.base import DiskRequest
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.rules.turns import ProcessorFlow
from meshfs.exporter.state.open import Owner
from meshfs.exporter.state.shares import OfferedDisk
from meshfs.exporter.state.tree import Tree
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, CreateOptions, NtStatus


class DiskOpen(Kind):
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
        session: Owner,
        tree: Tree,
        file_id: int,
        access: int,
        share_access: int,
        disk: OfferedDisk,
        turn: ProcessorFlow,
    ) -> None:
        super().__init__(session, tree, file_id, access, disk.name, disk)
        self.disk = disk
        self.share_access = share_access
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.write_through = False
        assert tree.io_class is not None, "disks are in shares of a class"
        self.flow = (session.user, tree.io_class)
        #: The replies to its requests are given in turns of this flow.
        self.turn = turn
        self.requests: set[DiskRequest] = set()
        self._then: list[Callable[[], object]] = []
        self.excludes = disk.access_of(session.user) is Access.READ_WRITE
        disk.opens[self] = None
        if self.excludes:
            disk.share_counts.add(access, share_access)

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

    def outstanding(self) -> Iterator[tuple[object, int]]:
        yield from super().outstanding()
        for request in self.requests:
            yield request, request.context.message.channel_sequence

    def is_outstanding(self, each: object) -> bool:
        return each in self.requests or super().is_outstanding(each)

    def cancel_requests_of(self, peer: object) -> None:
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
