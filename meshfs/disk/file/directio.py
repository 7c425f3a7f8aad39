"""Find the alignment that O_DIRECT requires of a file: for offset and length, and for the memory.

Since Linux 6.1, statx(STATX_DIOALIGN) reports the alignment. Older kernels, and some file systems, do not. A block
device then needs the alignment of its logical block, and the alignment of a file is found by a trial read.

Layout: statx(2), struct statx in linux/stat.h (stx_dio_mem_align at byte 152).
"""

import mmap
import os
import stat
import struct
from dataclasses import dataclass
from typing import Final

from meshfs.linux.statx import statx

_STATX_DIOALIGN: Final = 0x2000
_DIO_MEM_ALIGN_OFFSET: Final = 152


@dataclass(frozen=True, slots=True)
class Alignment:
    """Holds the alignment of offset and length, and of the memory's address. Both are powers of two."""

    offset_bytes: int
    memory_bytes: int


#: The page cache accepts any alignment.
ANY: Final = Alignment(1, 1)
_SAFE: Final = Alignment(4096, 4096)


def alignment_of(fd: int, logical_block_size_bytes: int) -> Alignment:
    """Return the alignment that direct I/O on ``fd``, opened with O_DIRECT, must have."""
    told = _statx(fd)
    if told is not None:
        return told
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return Alignment(logical_block_size_bytes, logical_block_size_bytes)
    return _probe(fd)


def _statx(fd: int) -> Alignment | None:
    filled = statx(fd, _STATX_DIOALIGN)
    if filled is None:
        return None
    memory_bytes, offset_bytes = struct.unpack_from("<II", filled, _DIO_MEM_ALIGN_OFFSET)
    # Zero means that this file has no direct I/O. The open succeeded, so the kernel falls back to the page cache.
    if not memory_bytes or not offset_bytes:
        return _SAFE
    return Alignment(offset_bytes, memory_bytes)


def _probe(fd: int) -> Alignment:
    """Try to read the sector at offset 512. If the read succeeds, return an alignment of 512 bytes, otherwise 4096.

    A file of less than 1024 bytes is not tried, because a read at the end of a file proves nothing.
    """
    if os.fstat(fd).st_size < 1024:
        return _SAFE
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as view:
        try:
            os.preadv(fd, [view[512:1024]], 512)
        except OSError:
            return _SAFE
    return Alignment(512, 512)
