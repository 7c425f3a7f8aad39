"""Defines the open of a disk. The open excludes other opens, reports facts, and ends only after its I/O has ended."""

from collections.abc import Callable

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk.facts import disk_facts, with_disk
from meshfs.exporter.kinds.disk.io import DiskIo
from meshfs.exporter.kinds.disk.trimming import file_level_trim
from meshfs.exporter.kinds.disk.zeroing import set_zero_data
from meshfs.exporter.kinds.kind import reply_to_ioctl
from meshfs.exporter.rules.locks import Lockable
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.exporter.state.open import Open, OwningSession
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.tree import Tree
from meshfs.model import Access
from meshfs.smb.constants import Fsctl, NtStatus
from meshfs.smb.info import Change, FileFacts, FilesystemFacts, SetAllocation, SetEndOfFile
from meshfs.smb.messages import IoctlRequest


class DiskOpen(DiskIo):
    """Represents an open of a disk.

    ``excludes`` says whether the open excludes others by its share access. If its node may only read the disk, the open
    excludes no other and has no locks. Therefore a node with `ro` in the config never stops a writer.
    """

    __slots__ = ("_then", "excludes", "share_access")

    def __init__(
        self,
        session: OwningSession[Open],
        tree: Tree,
        file_id: int,
        access: int,
        share_access: int,
        disk: OfferedDisk,
        processor: Processor,
    ) -> None:
        super().__init__(session, tree, file_id, access, disk, processor)
        self.share_access = share_access
        self._then: list[Callable[[], object]] = []
        self.excludes = disk.access_of(session.user) is Access.READ_WRITE
        disk.opens[self] = None
        if self.excludes:
            disk.share_counts.add(access, share_access)

    @property
    def node(self) -> str:
        return self.session.user

    # --- the end of the open -----------------------------------------------------------

    def close(self, then: Callable[[], object]) -> None:
        """Cancel the queued requests. When the last request at the disk is answered, `drained` calls ``then``.

        If the open has ended already, ``then`` is called at once.
        """
        if self.gone:
            then()
            return
        self._end_waits(NtStatus.RANGE_NOT_LOCKED)
        self._then.append(then)
        self.session.keep_closing(self)
        self.disk.begin_closing(self)
        for request in list(self.requests):
            self.cancel(request)
        if not self.requests:
            self.drained()

    @property
    def is_left(self) -> bool:
        """Return whether the open still has I/O at the disk, although its session has ended."""
        return self.closing and not self.session.serving

    def stop_excluding(self) -> None:
        """Release the locks and the share access, and refuse the waiting LOCKs, because these could stop writers."""
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

    def drained(self) -> None:
        """End the open, because it has no more I/O at the disk. Call each ``then`` of `close`, and let other opens in.

        Without a `close`, do nothing.
        """
        then, self._then = self._then, []
        if not then:
            return
        disk = self.disk
        self.session.forget_closing(self)
        disk.remove_open(self)
        if self.excludes:
            disk.share_counts.remove(self.access, self.share_access)
        freed = self._release_locks(disk)
        self._end()
        for call in then:
            call()
        if freed is not None:
            disk.wake_lock_waiters(freed)

    # --- answers to requests -----------------------------------------------------------

    def lockable(self) -> Lockable:
        if not self.readable and not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read or write data")
        return self.disk

    def check_may_lock(self) -> None:
        """Raise StatusError if the node may only read the disk. A lock would stop the writers of other nodes.

        A lock that stops no writer cannot be granted instead, because the program would rely on it.
        """
        if self.disk.access_of(self.node) is not Access.READ_WRITE:
            raise StatusError(NtStatus.ACCESS_DENIED, f"node {self.node} may only read disk {self.name}, and not lock")

    def file_facts(self, request: Request) -> FileFacts:
        return disk_facts(request, self.disk)

    def volume_facts(self, request: Request) -> FilesystemFacts:
        return with_disk(super().volume_facts(request), self.disk, self.node)

    def set_info(self, request: Request, change: Change) -> None:
        match change:
            case SetEndOfFile(size_bytes):
                self._check_size(size_bytes, exact=True)
            case SetAllocation(allocation_bytes):
                self._check_size(allocation_bytes, exact=False)
            case _:
                super().set_info(request, change)

    def _check_size(self, size_bytes: int, *, exact: bool) -> None:
        """Check a new size. As on a block device, a truncation to 0 is accepted and does nothing."""
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        if size_bytes > self.disk.size_bytes:
            raise StatusError(NtStatus.DISK_FULL, "a disk cannot grow")
        if exact and size_bytes not in (0, self.disk.size_bytes):
            raise StatusError(NtStatus.ACCESS_DENIED, "a disk cannot shrink")

    def disks(self, request: Request, name: bytes) -> list[OfferedDisk]:
        """Return this disk, whatever the name is."""
        return [self.disk]

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code == Fsctl.SET_ZERO_DATA:
            set_zero_data(request, self, body)
        elif body.ctl_code == Fsctl.FILE_LEVEL_TRIM:
            file_level_trim(request, self, body)
        elif body.ctl_code == Fsctl.SET_SPARSE:
            self._set_sparse(request, body)
        else:
            super().ioctl(request, body)

    def _set_sparse(self, request: Request, body: IoctlRequest) -> None:
        """Accept that the disk may be sparse, which changes nothing: zeroing frees blocks wherever that is possible.

        The kernel's cifs client sets a file sparse before it punches a hole. Without input, the disk shall be sparse
        (MS-FSCC 2.3.79).
        """
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        if body.input and not body.input[0]:
            raise StatusError(NtStatus.INVALID_PARAMETER, "a disk cannot be made to keep its blocks")
        reply_to_ioctl(request, body, b"")
