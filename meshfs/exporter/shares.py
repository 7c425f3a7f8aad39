"""What an exporter offers: its disks, who has them open, and which opens may stand together.

The shares `disks` and `disks-system` show the same disks; they differ in the class of the
I/O. An open of a disk excludes others by share access (MS-FSA 2.1.5.1.2.2) across both shares
and all sessions.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from sortedcontainers import SortedDict

from meshfs import bugs
from meshfs.disk.base import DiskRequest
from meshfs.exporter.locks import Lockable
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM, Access, DiskInfo, DiskState, IoClass
from meshfs.scheduler.runner import Runner
from meshfs.smb.constants import AccessMask, ShareAccess
from meshfs.smb.info import short_name

logger = logging.getLogger(__name__)

SHARE_IPC: Final = "IPC$"
#: Files in memory (`meshfs.exporter.scratch`), where one is configured.
SHARE_SCRATCH: Final = "scratch"
#: Share name (in lower case, as they are found without regard to case) -> class of its I/O.
CLASS_OF_SHARE: Final[Mapping[str, IoClass]] = {
    SHARE_DISKS: IoClass.APP,
    SHARE_DISKS_SYSTEM: IoClass.SYSTEM,
}
#: FILE_NOTIFY_INFORMATION actions (MS-FSCC 2.7.1).
NOTIFY_ADDED: Final = 1
NOTIFY_REMOVED: Final = 2
NOTIFY_MODIFIED: Final = 3

_M = AccessMask
ATTRIBUTE_RIGHTS: Final = _M.READ_ATTRIBUTES | _M.READ_EA | _M.READ_CONTROL | _M.SYNCHRONIZE
READ_RIGHTS: Final = ATTRIBUTE_RIGHTS | _M.READ_DATA | _M.EXECUTE
#: Attributes may be "written" (copying tools do) without effect.
WRITE_RIGHTS: Final = _M.WRITE_DATA | _M.APPEND_DATA | _M.WRITE_ATTRIBUTES | _M.WRITE_EA
DISK_RIGHTS: Final[Mapping[Access, int]] = {
    Access.NONE: 0,
    Access.READ_ONLY: int(READ_RIGHTS),
    Access.READ_WRITE: int(READ_RIGHTS | WRITE_RIGHTS),
}
_GENERIC: Final[tuple[tuple[int, int], ...]] = (
    (_M.GENERIC_READ, READ_RIGHTS & ~_M.EXECUTE),
    (_M.GENERIC_WRITE, WRITE_RIGHTS | _M.READ_CONTROL | _M.SYNCHRONIZE),
    (_M.GENERIC_EXECUTE, _M.EXECUTE | _M.READ_ATTRIBUTES | _M.READ_CONTROL | _M.SYNCHRONIZE),
    # What a disk has; a disk cannot be deleted and has no owner to change.
    (_M.GENERIC_ALL, READ_RIGHTS | WRITE_RIGHTS),
)
_READS: Final = int(_M.READ_DATA | _M.EXECUTE)
_WRITES: Final = int(_M.WRITE_DATA | _M.APPEND_DATA)


def expand_access(desired: int, allowed: int) -> int:
    """Desired access without generic rights and MAXIMUM_ALLOWED (MS-SMB2 2.2.13.1)."""
    granted = desired
    for generic, rights in _GENERIC:
        if granted & generic:
            granted = granted & ~generic | rights
    if granted & _M.MAXIMUM_ALLOWED:
        granted = granted & ~_M.MAXIMUM_ALLOWED | allowed
    return int(granted)


def shares_conflict(access: int, share: int, held: Iterable[tuple[int, int]]) -> bool:
    """Whether an open (access, share) cannot stand beside those held.

    Opens that touch no data (attributes only) neither exclude nor are excluded.
    """
    if not access & (_READS | _WRITES | _M.DELETE):
        return False
    for held_access, held_share in held:
        if not held_access & (_READS | _WRITES | _M.DELETE):
            continue
        if not _permits(held_share, access) or not _permits(share, held_access):
            return True
    return False


def _permits(share: int, access: int) -> bool:
    return not (
        (access & _READS and not share & ShareAccess.READ)
        or (access & _WRITES and not share & ShareAccess.WRITE)
        or (access & _M.DELETE and not share & ShareAccess.DELETE)
    )


class OpenOfDisk(Protocol):
    """What share access looks at; `meshfs.exporter.opens.DiskOpen` is one."""

    access: int
    share_access: int

    def is_left_by(self, node: str) -> bool:
        """Whether a session of the node has ended and this open of it still has I/O at the disk."""

    def close(self, then: Callable[[], object]) -> None:
        """Call ``then`` when nothing of it is at the disk any more."""


class OfferedDisk(Lockable):
    """One disk as it is offered; ``allow`` tells what a node may do with it."""

    __slots__ = ("_written_ns", "_written_s", "allow", "info", "opens", "path", "runner", "size_bytes")

    def __init__(self, info: DiskInfo, runner: Runner, allow: Callable[[str], Access], path: str = "") -> None:
        super().__init__()
        self.info = info
        self.runner = runner
        self.allow = allow
        self.path = path
        self.size_bytes = info.size_bytes
        self.opens: list[OpenOfDisk] = []
        runner.on_fault = self._fault
        # The time of the last write, and what the runner said when it was made of that.
        self._written_ns = info.written_ns
        self._written_s = runner.written_s

    def _fault(self, request: DiskRequest, error: Exception) -> None:
        """The disk has answered, and a fault of ours came after it: end the connection that asked."""
        bugs.report(logger, f"{request.op.name}, after the answer of disk {self.name},", error)
        if request.context is not None:
            request.context.fault(request)

    @property
    def name(self) -> str:
        return self.info.name

    def access_of(self, node: str) -> Access:
        """What the node may do, at most what the disk itself lets anybody do."""
        allowed = self.allow(node)
        if allowed is Access.READ_WRITE and self.info.access is not Access.READ_WRITE:
            return self.info.access
        return allowed

    def info_for(self, node: str) -> DiskInfo:
        """What the node is told of the disk, with the verifier as it is now."""
        return replace(
            self.info, access=self.access_of(node), verifier=self.runner.disk.verifier, written_ns=self.written_ns()
        )  # fmt: skip

    def written_ns(self) -> int:
        """When anybody last wrote to the disk, in ns of the epoch.

        It moves with every write, also when the machine's clock was set back, and stays without one.
        """
        written_s = self.runner.written_s
        if written_s is not None and written_s != self._written_s:
            self._written_s = written_s
            now_ns = time.time_ns() - int(self.runner.age_s(written_s) * 1e9)
            self._written_ns = max(now_ns, self._written_ns + 1)
        return self._written_ns

    def update(self, info: DiskInfo) -> None:
        """The disk has another state or size, or became known; `Shares.modified` has to be called as well."""
        self.info = info
        self.size_bytes = info.size_bytes
        self._written_ns = max(self._written_ns, info.written_ns)

    @property
    def is_away(self) -> bool:
        """Whether there is no device or image behind it now: nothing of it can be read or written."""
        return self.info.state in (DiskState.GONE, DiskState.MISSING)

    def left_by(self, node: str) -> list[OpenOfDisk]:
        """The opens of the node's ended sessions that still have I/O at the disk."""
        return [opened for opened in self.opens if opened.is_left_by(node)]

    def shares_with(self, access: int, share: int) -> bool:
        return not shares_conflict(access, share, ((held.access, held.share_access) for held in self.opens))


class Shares:
    """The disks on offer, by name; names are found without regard to case, as SMB does."""

    def __init__(self) -> None:
        # In the order listings have, which is that of the names as they are found.
        self._disks: SortedDict[str, OfferedDisk] = SortedDict()
        #: Called with (action, disk) after every change of the list.
        self.on_change: list[Callable[[int, OfferedDisk], None]] = []

    def __len__(self) -> int:
        return len(self._disks)

    def add(self, disk: OfferedDisk) -> None:
        self._disks[disk.name.casefold()] = disk
        self._changed(NOTIFY_ADDED, disk)

    def remove(self, name: str) -> OfferedDisk:
        """Stop offering it. Its opens are the caller's to end."""
        disk: OfferedDisk = self._disks.pop(name.casefold())
        self._changed(NOTIFY_REMOVED, disk)
        return disk

    def modified(self, disk: OfferedDisk) -> None:
        """Its state, its size, or who may do what with it changed."""
        self._changed(NOTIFY_MODIFIED, disk)

    def find(self, name: str, node: str) -> OfferedDisk | None:
        """The disk, or None when it is not there or the node may not know of it."""
        disk: OfferedDisk | None = self._disks.get(name.casefold())
        if disk is None and "~" in name:
            # A disk's own name has no such character. Two disks of one short name have none.
            same = [each for each in self.visible(node) if short_name(each.name) == name.upper()]
            disk = same[0] if len(same) == 1 else None
        return disk if disk is not None and disk.access_of(node) is not Access.NONE else None

    def visible(self, node: str) -> list[OfferedDisk]:
        """The disks the node may know of, by name."""
        return [disk for disk in self.all() if disk.access_of(node) is not Access.NONE]

    def all(self) -> list[OfferedDisk]:
        return list(self._disks.values())

    def _changed(self, action: int, disk: OfferedDisk) -> None:
        for call in list(self.on_change):
            call(action, disk)
