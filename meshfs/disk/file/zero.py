"""Make a range of a disk read as zeros, as cheaply as the file or device behind it allows.

    fallocate PUNCH_HOLE    an image releases its blocks; a device gets WRITE ZEROES, which may unmap blocks
    fallocate ZERO_RANGE    an image keeps its blocks and marks them as unwritten; for a device without a
                            command for zeroing, the kernel writes the zeros
    writes of zeros         if neither mode works

Both modes guarantee that later reads return zeros, on images and on devices (fallocate(2); the kernel's
blkdev_fallocate). For a fully allocated image, ZERO_RANGE is tried first. If such an image released its blocks, its
file system might be full when they are written again.

fallocate gets whole blocks only (`split`). The parts of blocks at the two ends are ordinary writes of zeros, which
read, merge and wait for their turn like any other write.
"""

import ctypes
import errno
import itertools
import mmap
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from meshfs import limits
from meshfs.buffers import PAGE_BYTES
from meshfs.disk.base import Done, Engine
from meshfs.disk.file.transfer import Transfer
from meshfs.linux import libc

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
PUNCH: Final = _PUNCH_HOLE | _KEEP_SIZE
ZERO: Final = _ZERO_RANGE | _KEEP_SIZE

_fallocate: Final = libc.function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

#: The errnos of a mode that does not work on this file or device, now or ever.
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
#: The errnos of a mode that does not work on this range now. A write of zeros may work. If it fails, its error counts.
_REFUSED: Final = (*_UNSUPPORTED, errno.EINVAL, errno.ENODEV, errno.ENOSPC)
_SECTOR_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's block is


def modes_of(status: os.stat_result) -> list[int]:
    """Return the modes of fallocate(2) to try on this file or device, in order. The header of this module says why."""
    if stat.S_ISBLK(status.st_mode) or status.st_blocks * _SECTOR_BYTES < status.st_size:
        return [PUNCH, ZERO]
    return [ZERO, PUNCH]


def can_punch(fd: int, size_bytes: int) -> bool:
    """Return whether the file system of an image can free its blocks. ``fd`` must be open for writing.

    A hole is punched past the end of the image, where it changes no data. It moves the time of the last change, which
    is set back, because the disk would seem to be written at each start of the exporter.
    """
    past = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
    status = os.fstat(fd)
    punched = bool(_fallocate(fd, PUNCH, past, PAGE_BYTES) == 0)
    # The image may belong to another user.
    with suppress(PermissionError):
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return punched


def split(offset: int, length: int, block_bytes: int) -> list[tuple[int, int]]:
    """Split a range into at most three parts (offset, length), so that one part has all whole blocks of the range.

    Example: with blocks of 4096 bytes, the range of 8192 bytes from offset 1024 becomes (1024, 3072), (4096, 4096),
    (8192, 1024).
    """
    stop = offset + length
    first = -(-offset // block_bytes) * block_bytes
    last = stop // block_bytes * block_bytes
    if first >= last:
        return [(offset, length)]
    cuts = sorted({offset, first, last, stop})
    return [(begin, end - begin) for begin, end in itertools.pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class _Zeros:
    """Holds memory that reads as zeros and is never written. ``address`` is page-aligned."""

    memory: mmap.mmap
    address: int


_shared: list[_Zeros] = []


def _zeros() -> _Zeros:
    """Return the zeros that the whole process shares. The first call allocates them."""
    if not _shared:
        memory = mmap.mmap(-1, limits.ZERO_WRITE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _shared.append(_Zeros(memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))))
    return _shared[0]


class _Target(Protocol):
    """Lists the parts of a disk that a zeroing uses."""

    engine: Engine
    fd: int
    #: The modes of fallocate(2) that may still work. An unsupported mode is removed at the first attempt.
    zero_modes: list[int]


class ZeroFill:
    """Zeroes whole blocks inside the disk. `start` begins, and ``done(length or -errno)`` is called once at the end.

    Until then the caller holds the range in the disk's WriteOrder.
    """

    __slots__ = ("_again", "_disk", "_done", "_dsync", "_length", "_modes", "_offset", "_written")

    def __init__(self, disk: _Target, offset: int, length: int, *, dsync: bool) -> None:
        self._disk = disk
        self._offset = offset
        self._length = length
        self._dsync = dsync
        self._modes = list(disk.zero_modes)
        self._again = 0
        self._written = 0
        self._done: Done

    def start(self, done: Done) -> None:
        self._done = done
        self._next()

    def _next(self) -> None:
        """Try the next mode of fallocate. If no mode is left, write zeros."""
        if not self._modes:
            self._write()
            return
        disk = self._disk
        disk.engine.queue_fallocate(disk.fd, self._modes[0], self._offset, self._length, self._allocated)
        disk.engine.flush()

    def _allocated(self, result: int) -> None:
        if result >= 0:
            self._settle()
        elif result in (-errno.EAGAIN, -errno.EINTR) and self._again < limits.DISK_AGAIN_MAX:
            self._again += 1
            self._next()
        elif -result in _REFUSED:
            mode = self._modes.pop(0)
            if -result in _UNSUPPORTED and mode in self._disk.zero_modes:
                self._disk.zero_modes.remove(mode)
            self._next()
        else:
            self._done(result)

    def _settle(self) -> None:
        """Put the zeros on stable storage if the request asks for that. fallocate(2) does not do so by itself."""
        if not self._dsync:
            self._done(self._length)
            return
        self._disk.engine.queue_fdatasync(self._disk.fd, self._synced)
        self._disk.engine.flush()

    def _synced(self, result: int) -> None:
        self._done(self._length if result >= 0 else result)

    def _write(self) -> None:
        if self._written == self._length:
            self._done(self._length)
            return
        disk = self._disk
        length = min(self._length - self._written, limits.ZERO_WRITE_BYTES)
        transfer = Transfer(
            disk.engine,
            disk.fd,
            _zeros().address,
            length,
            self._offset + self._written,
            PAGE_BYTES - 1,
            write=True,
            dsync=self._dsync,
        )
        transfer.start(self._one_written)

    def _one_written(self, result: int) -> None:
        if result < 0:
            self._done(result)
            return
        self._written += result
        self._write()
