"""A disk as an exporter offers it: who has it open, and which opens may stand together.

The shares `disks` and `disks-system` show the same disks; they differ in the class of the I/O. So an open of a disk
excludes others by share access (MS-FSA 2.1.5.1.2.2) across both shares and all sessions. An open of a node that may
only read the disk excludes nobody: `ro` in the config means that a node changes nothing for those that write.
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
from meshfs.model import Access, DiskInfo, DiskState
from meshfs.scheduler.runner import Runner

logger = logging.getLogger(__name__)


class OpenOfDisk(Protocol):
    """What a disk knows of its opens; `meshfs.exporter.kinds.disk.open.DiskOpen` is one."""

    access: int
    closing: bool

    @property
    def node(self) -> str:
        """Whose it is."""

    @property
    def is_left(self) -> bool:
        """Whether its session has ended, and I/O of it is at the disk still."""

    def close(self, then: Callable[[], object]) -> None:
        """Call ``then`` when nothing of it is at the disk any more."""

    def stop_excluding(self) -> None:
        """Its node may only read the disk from now on."""


class CreateOfDisk(Protocol):
    """A CREATE that waits for the disk; `meshfs.exporter.kinds.pending_create.PendingCreate` is one."""

    def retry(self) -> None:
        """Find out whether the disk is offered still."""


class OfferedDisk(Lockable):
    """One disk as it is offered; ``allow`` tells what a node may do with it."""

    __slots__ = (
        "_closing", "_written_ns", "_written_s", "allow", "creates", "info", "opens", "path", "runner", "share_counts",
        "size_bytes",
    )  # fmt: skip

    def __init__(self, info: DiskInfo, runner: Runner, allow: Callable[[str], Access], path: str = "") -> None:
        super().__init__()
        self.info = info
        self.runner = runner
        self.allow = allow
        self.path = path
        self.size_bytes = info.size_bytes
        #: All of them, the oldest first; closing ones too, until nothing of them is at the disk.
        self.opens: dict[OpenOfDisk, None] = {}
        self.creates: dict[CreateOfDisk, None] = {}
        #: Those that exclude others.
        self.share_counts = ShareCounts()
        #: Of the opens those that are closing, by node.
        self._closing: dict[str, set[OpenOfDisk]] = {}
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
        """The disk has another state or size, or became known; `OfferedDisks.modified` has to be called as well."""
        self.info = info
        self.size_bytes = info.size_bytes
        self._written_ns = max(self._written_ns, info.written_ns)

    @property
    def is_away(self) -> bool:
        """Whether there is no device or image behind it now: nothing of it can be read or written."""
        return self.info.state in (DiskState.GONE, DiskState.MISSING)

    def begin_closing(self, opened: OpenOfDisk) -> None:
        """From now on the open has nothing but I/O at the disk."""
        self._closing.setdefault(opened.node, set()).add(opened)

    def remove_open(self, opened: OpenOfDisk) -> None:
        """Nothing of a closing open is at the disk any more."""
        del self.opens[opened]
        mine = self._closing[opened.node]
        mine.discard(opened)
        if not mine:
            del self._closing[opened.node]

    def left_by(self, node: str) -> list[OpenOfDisk]:
        """The opens of the node's ended sessions that still have I/O at the disk."""
        closing = self._closing.get(node)
        return [opened for opened in closing if opened.is_left] if closing else []
