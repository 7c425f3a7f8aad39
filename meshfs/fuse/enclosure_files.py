"""Open files of enclosures: reading gives SES pages, and each write carries one control page.

A program uses an enclosure's file as follows:

    open to read            It reads all pages from the enclosure. Every read of this open then sees these pages, as in
                            /proc. The kernel caches nothing of them (direct I/O).
    open to write           It needs the right to control the enclosure, or it gives EROFS. If the owner has taken the
                            right away and the mount does not know yet, the write gives EACCES.
    write(2)                It carries one whole enclosure control page (SES-3 6.1.3) at offset 0. Any other offset or
                            length gives EINVAL, so a file opened with O_APPEND cannot be written to. A page that was
                            made for another configuration of the enclosure gives ESTALE.
    read after a write      It reads the pages again, so it sees what the write has changed.
    O_TRUNC, (f)truncate    They are accepted and change nothing, because `cp` and shells open files that way.
    fsync, O_SYNC           They do nothing, because a write returns only when the page was carried out.
    mmap                    Only a private mapping is possible, as with any direct I/O.

While an owner is away, calls wait for it within the bound, as those of its disks. If the enclosure is removed, or its
device goes away, I/O of an open file gives ENODEV at once.
"""

import errno
import os
from collections.abc import Callable
from typing import Final, Protocol

from meshfs.enclosure_info import EnclosureInfo
from meshfs.fuse.errors import FuseError
from meshfs.fuse.handles import OpenFile
from meshfs.model import Access
from meshfs.namespace.entries import EnclosureFile

#: A control page is never cut at the end of the file, because its length has nothing to do with the size of the pages.
_NO_END_BYTES: Final = (1 << 63) - 1


class EnclosurePort(Protocol):
    """Declares the methods of an enclosure's port that a mount uses.

    ``read`` and ``control`` end within the mount's I/O timeout. All methods raise only OSErrors.
    """

    def check(self) -> None:
        """Raise OSError ENODEV if the enclosure was removed, or its device went away."""

    async def read(self) -> bytes:
        """Return all pages of the enclosure as they are now."""

    async def control(self, page: bytes) -> None:
        """Let the enclosure carry out a control page."""


#: Returns the port of an enclosure. Raises OSError ENODEV if its node has left the cluster.
EnclosurePortOf = Callable[[EnclosureInfo], EnclosurePort]


async def open_enclosure(file: EnclosureFile, flags: int, port_of: EnclosurePortOf) -> OpenFile:
    """Open the file of an enclosure, and read its pages if it is opened to read. Raises OSError."""
    info = file.enclosure.info
    check_writable(file, flags & os.O_ACCMODE)
    handle = EnclosureHandle(port_of(info))
    if flags & os.O_ACCMODE != os.O_WRONLY:
        await handle.renew()
    opened = OpenFile(handle, None, write_through=False)
    opened.size_bytes = _NO_END_BYTES
    return opened


def check_writable(file: EnclosureFile, mode: int) -> None:
    """Raise EROFS if ``mode`` (O_RDONLY, O_WRONLY, O_RDWR) is to write, and the node may not control the enclosure."""
    if mode != os.O_RDONLY and file.enclosure.info.access is not Access.READ_WRITE:
        raise FuseError(errno.EROFS)


class EnclosureHandle:
    """Gives one opener the pages of an enclosure, and takes its control pages."""

    def __init__(self, port: EnclosurePort) -> None:
        self._port = port
        #: The pages that the opener reads. They are None before the first reading, and after a write.
        self._content: bytes | None = None
        self._writes = 0

    async def renew(self) -> bytes:
        """Read the pages from the enclosure, and keep them for later reads."""
        writes = self._writes
        content = await self._port.read()
        if self._content is None and writes == self._writes:
            self._content = content
        return content

    async def read(self, offset: int, size: int) -> bytes:
        self._port.check()
        content = self._content
        if content is None:
            content = await self.renew()
        return content[offset : offset + size]

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int:
        if offset:
            raise FuseError(errno.EINVAL)
        try:
            await self._port.control(bytes(data))
        finally:
            # Even a page that failed may have been carried out. A reading that began before must not be kept.
            self._writes += 1
            self._content = None
        return len(data)

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int:
        raise FuseError(errno.EOPNOTSUPP)

    async def flush(self) -> None:
        return

    async def close(self) -> None:
        return
