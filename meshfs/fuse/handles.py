"""Keep the state of each open file, and declare the methods of a disk's port and handle that a mount uses.

The answer to OPEN gives the open file a number. READ, WRITE, FSYNC and RELEASE name the file by this number. No number
is used twice, so a late request cannot reach a later open.
"""

import errno
from collections import Counter
from typing import Protocol

from meshfs.fuse.errors import FuseError
from meshfs.fuse.truncated_opener import TruncatedOpener
from meshfs.model import DiskInfo, IoClass


class OpenDisk(Protocol):
    """Declares the methods of an open disk that a mount uses.

    Every method ends within the mount's I/O timeout, and raises only OSErrors. ``zero`` makes the first bytes of a
    range read as zeros, and returns how many. The ``length`` of the range must be positive.
    """

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview: ...

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int: ...

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int: ...

    async def flush(self) -> None: ...

    async def close(self) -> None: ...


class DiscardableDisk(OpenDisk, Protocol):
    """Declares the methods of an open disk of the mesh.

    ``discard`` tells the disk that the data of the first bytes of a range is not needed, and returns how many.
    """

    async def discard(self, offset: int, length: int) -> int: ...


class DiskPort(Protocol):
    """Declares the methods of a disk's port that a mount uses."""

    async def open(self, io_class: IoClass, *, writable: bool) -> DiscardableDisk: ...

    async def written_ns(self) -> int:
        """Return when any node last wrote to the disk, in ns since the epoch. Never raises; has a time limit."""


class OpenFile:
    """Holds one open file. ``info`` is None for the status file. ``truncated`` is None before the first truncation."""

    __slots__ = ("handle", "info", "opened_by", "size_bytes", "truncated", "write_through")

    def __init__(self, handle: OpenDisk, info: DiskInfo | None, *, write_through: bool) -> None:
        self.handle = handle
        self.info = info
        self.size_bytes = 0 if info is None else info.size_bytes
        self.write_through = write_through
        self.truncated: TruncatedOpener | None = None
        #: The inode, and the id of the thread that opened it.
        self.opened_by = (0, 0)


class OpenFiles:
    """Holds the open files of a mount. READ and WRITE read ``by_number`` directly, which saves a call per request."""

    def __init__(self) -> None:
        self.by_number: dict[int, OpenFile] = {}
        #: The number of open files of each disk, by the disk's id.
        self.of_disk: Counter[str] = Counter()


class StatusHandle:
    """Holds the content that the status file had for its opener at open.

    A program that reads the file in several pieces thus gets one document.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int:
        raise FuseError(errno.EACCES)

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int:
        raise FuseError(errno.EACCES)

    async def flush(self) -> None:
        return

    async def close(self) -> None:
        return
