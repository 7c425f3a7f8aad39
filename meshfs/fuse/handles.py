"""Open files: what a mount needs of a disk's port and handle, and what it keeps of each open.

An open file has a number, which the answer to OPEN tells the kernel, and by which READ, WRITE, FSYNC and RELEASE name
the file. No number is given twice, so that a late request cannot meet another open.
"""

import errno
from collections import Counter
from typing import Protocol

from meshfs.fuse.errors import FuseError
from meshfs.fuse.truncated import TruncatedOpener
from meshfs.model import DiskInfo, IoClass


class OpenDisk(Protocol):
    """An open disk. Every method ends within the mount's I/O timeout; errors are OSError.

    ``zero`` makes the beginning of a range read as zeros and returns the count of bytes done; ``length`` is positive.
    """

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview: ...

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int: ...

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int: ...

    async def flush(self) -> None: ...

    async def close(self) -> None: ...


class DiskPort(Protocol):
    """One disk as the initiator sees it."""

    async def open(self, io_class: IoClass, *, writable: bool) -> OpenDisk: ...

    async def written_ns(self) -> int:
        """Return when anybody last wrote to the disk, in ns of the epoch. It is bounded in time and never raises."""


class OpenFile:
    """One open file. ``info`` is None for the status file; ``truncated`` is set from the first truncation on."""

    __slots__ = ("handle", "info", "opened_by", "size_bytes", "truncated", "write_through")

    def __init__(self, handle: OpenDisk, info: DiskInfo | None, *, write_through: bool) -> None:
        self.handle = handle
        self.info = info
        self.size_bytes = 0 if info is None else info.size_bytes
        self.write_through = write_through
        self.truncated: TruncatedOpener | None = None
        #: The inode, and the thread that opened it.
        self.opened_by = (0, 0)


class OpenFiles:
    """The open files of a mount. READ and WRITE look into ``by_number`` itself, which costs them no call."""

    def __init__(self) -> None:
        self.by_number: dict[int, OpenFile] = {}
        #: How many there are of each disk, by its id.
        self.of_disk: Counter[str] = Counter()


class StatusHandle:
    """The status file holds what it was at open and for that opener, so that a reader in pieces gets one document."""

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
