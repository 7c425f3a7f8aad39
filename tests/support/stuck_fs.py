"""A FUSE file system of one file, which a test stops by a signal. Its arguments are FOLDER SIZE_BYTES.

The process ends when the file system is unmounted.
"""

import errno
import os
import stat
import sys

import pyfuse3
import trio

FILE = 2


class OneFile(pyfuse3.Operations):
    """The file `stuck.img`, whose data is in memory."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.data = bytearray(size_bytes)

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        # Nothing is cached, and therefore every stat(2) sends a request.
        entry.attr_timeout = entry.entry_timeout = 0
        entry.st_mode = stat.S_IFREG | 0o600 if inode == FILE else stat.S_IFDIR | 0o700
        entry.st_size = len(self.data) if inode == FILE else 0
        return entry

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name != b"stuck.img":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._entry(FILE)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=1)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self.data[offset : offset + len(data)] = data
        return len(data)


def main() -> None:
    folder, size_bytes = sys.argv[1], int(sys.argv[2])
    options = set(pyfuse3.default_options) | {"fsname=stuck"}
    pyfuse3.init(OneFile(size_bytes), folder, options)
    trio.run(pyfuse3.main)
    os._exit(0)


main()
