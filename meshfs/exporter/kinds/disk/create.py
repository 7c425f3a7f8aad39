"""Answers CREATE of a disk, now or when the I/O of the node's earlier sessions at that disk has ended.

No CREATE makes, removes or truncates a disk. A CREATE that overwrites a disk keeps its size and content, as O_TRUNC on
a block device does.

A session ends when its connections are lost, or when a login names it in PreviousSessionId (MS-SMB2 3.3.5.5.3). It may
leave requests at a disk. These must land before the node's next session writes there. Otherwise an old write would
overwrite a newer one. Neither the login nor other disks wait for these requests, because a disk that hangs would then
keep its node from all other disks. So the new session is granted at once, and only its opens of that disk wait,
asynchronously. An open that touches no data does not wait.
"""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import Creator, answer, check_not_deleted, takes_all
from meshfs.exporter.kinds.disk.open import DiskOpen
from meshfs.exporter.kinds.offered_file import find_offered
from meshfs.exporter.kinds.pending_create import PendingCreate
from meshfs.exporter.rules.access import ATTRIBUTE_RIGHTS, DISK_RIGHTS, WRITE_RIGHTS, expand_access
from meshfs.exporter.rules.dispositions import OVERWRITES, action_on_existing
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.messages import CreateRequest


def create(request: Request, body: CreateRequest) -> None:
    """Answer a CREATE of a disk, now or later. Raise StatusError if it is refused now."""
    check_not_deleted(body)
    disk = _find(request, body)
    granted = _granted(request, body, disk)
    if granted & ~int(ATTRIBUTE_RIGHTS) and disk.left_by(request.session.user):
        _Pending(request, body, disk)
    else:
        _open(request, body, disk, granted)


class _Pending(PendingCreate):
    """Represents a CREATE that is tried again when the I/O that earlier sessions left at the disk has ended."""

    __slots__ = ("_body", "_disk", "_left")

    def __init__(self, request: Request, body: CreateRequest, disk: OfferedDisk) -> None:
        super().__init__(request)
        self._body = body
        request.peer.exporter.count("opens_delayed")
        self._wait_for(disk)

    def _wait_for(self, disk: OfferedDisk) -> None:
        self._disk = disk
        disk.creates[self] = None
        opens = disk.left_by(self.request.session.user)
        self._left = len(opens)
        for opened in opens:
            opened.close(self._one_less)

    def _one_less(self) -> None:
        self._left -= 1
        if not self._left:
            self.retry()

    def end(self) -> None:
        super().end()
        self._disk.creates.pop(self, None)

    def _try(self) -> None:
        request, body = self.request, self._body
        disk = _find(request, body)
        granted = _granted(request, body, disk)
        if disk is self._disk and self._left:
            # The I/O has not ended yet. The CREATE would not be refused, so it goes on waiting.
            return
        if disk.left_by(request.session.user):
            self._disk.creates.pop(self, None)
            self._wait_for(disk)
        else:
            self.end()
            _open(request, body, disk, granted)


def _granted(request: Request, body: CreateRequest, disk: OfferedDisk) -> int:
    """Return the access that the open gets. Raise StatusError if the node may not have all the access it asks for."""
    allowed = DISK_RIGHTS[disk.access_of(request.session.user)]
    wanted = body.desired_access
    if body.disposition in OVERWRITES:
        wanted |= AccessMask.WRITE_DATA
    granted = expand_access(wanted, allowed)
    if granted & ~allowed:
        if granted & ~allowed & ~int(WRITE_RIGHTS) == 0 and disk.info.access is Access.READ_ONLY:
            raise StatusError(NtStatus.MEDIA_WRITE_PROTECTED, f"disk {disk.name} is read-only")
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x} to disk {disk.name} is not allowed")
    if not disk.takes_opens and granted & ~int(ATTRIBUTE_RIGHTS):
        raise StatusError(NtStatus.DEVICE_NOT_READY, f"disk {disk.name} is {disk.info.state}: {disk.info.why}")
    if disk.is_away and granted & ~int(ATTRIBUTE_RIGHTS):
        raise StatusError(NtStatus.NO_SUCH_DEVICE, f"disk {disk.name} is {disk.info.state}: {disk.info.why}")
    return granted


def _open(request: Request, body: CreateRequest, disk: OfferedDisk, granted: int) -> None:
    """Open the disk and answer. Raise StatusError if an existing open excludes this one."""
    if disk.share_counts.conflicts(granted, body.share_access):
        raise StatusError(NtStatus.SHARING_VIOLATION, f"an open of disk {disk.name} does not share this access")
    exporter, session, tree = request.peer.exporter, request.session, request.tree
    opened = DiskOpen(session, tree, exporter.new_file_id(), granted, body.share_access, disk, exporter.processor)
    allowed = DISK_RIGHTS[disk.access_of(request.session.user)]
    answer(request, body, opened, allowed=allowed, action=action_on_existing(body.disposition))


def _find(request: Request, body: CreateRequest) -> OfferedDisk:
    return find_offered(request.peer.exporter.disks, request.session.user, body, "disk")


CREATOR: Final = Creator(takes_all, create)
