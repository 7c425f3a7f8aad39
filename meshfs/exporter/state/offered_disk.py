"""Keeps a disk on offer with its opens, and decides which opens may exist at the same time.

The shares `disks` and `disks-system` show the same disks. They differ in the class of the I/O. So an open of a disk
excludes others by share access (MS-FSA 2.1.5.1.2.2) across both shares and all sessions. An open of a node that may
only read the disk excludes no other open, because a node with `ro` in the config must not disturb nodes that write.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from meshfs import bugs
from meshfs.disk.base import DiskRequest
from meshfs.exporter.rules.locks import Lockable
from meshfs.exporter.rules.share_access import ShareCounts
from meshfs.exporter.state.disk_request import PeerDiskRequest
from meshfs.model import Access, DiskInfo, DiskState
from meshfs.scheduler.runner import Runner

logger = logging.getLogger(__name__)


class OpenOfDisk(Protocol):
    """Declares what a disk needs of an open. `meshfs.exporter.kinds.disk.open.DiskOpen` implements it."""

    access: int
    closing: bool

    @property
    def node(self) -> str:
        """Return the node that has the disk open."""

    @property
    def is_left(self) -> bool:
        """Return whether the open still has I/O at the disk, although its session has ended."""

    def close(self, then: Callable[[], object]) -> None:
        """Close the open, and call ``then`` when nothing of it is at the disk any more."""

    def stop_excluding(self) -> None:
        """Release everything that keeps writers out, because the node may only read the disk from now on."""


class CreateOfDisk(Protocol):
    """Stands for a CREATE that waits for the disk, as `meshfs.exporter.kinds.pending_create.PendingCreate` does."""

    def retry(self) -> None:
        """Try the CREATE again. It is refused if the disk is no longer offered."""


class OfferedDisk(Lockable):
    """Represents one disk on offer. ``allow`` returns the access that the config gives to a node."""

    __slots__ = (
        "_closing",
        "_written_ns",
        "_written_s",
        "allow",
        "creates",
        "info",
        "opens",
        "path",
        "runner",
        "share_counts",
        "size_bytes",
        "takes_opens",
    )

    def __init__(self, info: DiskInfo, runner: Runner, allow: Callable[[str], Access], path: str = "") -> None:
        super().__init__()
        self.info = info
        self.runner = runner
        self.allow = allow
        self.path = path
        self.size_bytes = info.size_bytes
        #: Is unset while an administrator drains the disk. Then it cannot be opened for anything but its attributes.
        self.takes_opens = True
        #: All opens, the oldest first. An open that is closing stays until nothing of it is at the disk.
        self.opens: dict[OpenOfDisk, None] = {}
        #: The CREATEs that wait for I/O at the disk to end.
        self.creates: dict[CreateOfDisk, None] = {}
        #: The access and the share access of the opens that exclude others.
        self.share_counts = ShareCounts()
        #: The opens that are closing, by node.
        self._closing: dict[str, set[OpenOfDisk]] = {}
        runner.on_fault = self._fault
        # The time of the last write, and the runner's time from which that time was computed.
        self._written_ns = info.written_ns
        self._written_s = runner.written_s

    def _fault(self, request: DiskRequest, error: Exception) -> None:
        """End the connection of the request, because handling the answer of the disk has raised ``error``."""
        if isinstance(request, PeerDiskRequest):
            request.request.fault(request, error)
        else:
            bugs.report(logger, f"{request.op.name}, after the answer of disk {self.name},", error)

    @property
    def name(self) -> str:
        return self.info.name

    def access_of(self, node: str) -> Access:
        """Return the access that the config gives to the node, reduced to what the disk itself allows."""
        allowed = self.allow(node)
        if allowed is Access.READ_WRITE and self.info.access is not Access.READ_WRITE:
            return self.info.access
        return allowed

    def info_for(self, node: str) -> DiskInfo:
        """Return what is advertised of the disk to the node, with the current verifier."""
        return replace(
            self.info, access=self.access_of(node), verifier=self.runner.disk.verifier, written_ns=self.written_ns()
        )

    def written_ns(self) -> int:
        """Return the time of the last write to the disk, in ns since the epoch.

        The time increases with every write, even if the machine's clock was set back. It never increases without a
        write. At the mounts, the time is the mtime of the disk's file, by which programs notice writes of others.
        """
        written_s = self.runner.written_s
        if written_s is not None and written_s != self._written_s:
            self._written_s = written_s
            now_ns = time.time_ns() - int(self.runner.age_s(written_s) * 1e9)
            self._written_ns = max(now_ns, self._written_ns + 1)
        return self._written_ns

    def update(self, info: DiskInfo) -> None:
        """Take over another state or size. The caller must also call `OfferedDisks.modified`."""
        self.info = info
        self.size_bytes = info.size_bytes
        self._written_ns = max(self._written_ns, info.written_ns)

    @property
    def is_away(self) -> bool:
        """Return whether the disk has no device or image now, so that nothing can be read or written."""
        return self.info.state in (DiskState.GONE, DiskState.MISSING)

    def begin_closing(self, opened: OpenOfDisk) -> None:
        """Note that the open is closed, and that only its I/O is still at the disk."""
        self._closing.setdefault(opened.node, set()).add(opened)

    def remove_open(self, opened: OpenOfDisk) -> None:
        """Forget a closing open, because nothing of it is at the disk any more."""
        del self.opens[opened]
        mine = self._closing[opened.node]
        mine.discard(opened)
        if not mine:
            del self._closing[opened.node]

    def left_by(self, node: str) -> list[OpenOfDisk]:
        """Return the opens of the node's ended sessions that still have I/O at the disk."""
        closing = self._closing.get(node)
        return [opened for opened in closing if opened.is_left] if closing else []
