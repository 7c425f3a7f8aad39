"""What O_DIRECT asks of a file: alignment of offset and length, and of the memory.

Linux 6.1 tells by statx(STATX_DIOALIGN); before that, and on file systems that don't tell,
a block device's alignment is its logical block, and a file's is found by trying.

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
    """Powers of two."""

    offset_bytes: int
    memory_bytes: int


#: What the page cache takes.
ANY: Final = Alignment(1, 1)
_SAFE: Final = Alignment(4096, 4096)


def alignment_of(fd: int, logical_block_size_bytes: int) -> Alignment:
    """What direct I/O on ``fd``, opened with O_DIRECT, must be aligned to."""
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
    # Zero: no direct I/O at this file; the open succeeded, so the kernel falls back to the cache.
    if not memory_bytes or not offset_bytes:
        return _SAFE
    return Alignment(offset_bytes, memory_bytes)


def _probe(fd: int) -> Alignment:
    """512 where an odd sector can be read (a read at the end of the file proves nothing)."""
    if os.fstat(fd).st_size < 1024:
        return _SAFE
    with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as view:
        try:
            os.preadv(fd, [view[512:1024]], 512)
        except OSError:
            return _SAFE
    return Alignment(512, 512)
