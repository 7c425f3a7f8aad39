"""Make a range of a disk read as zeros, as cheaply as the file or device behind it allows.

    fallocate PUNCH_HOLE    an image gives its blocks back; a device is asked for WRITE ZEROES, which may unmap
    fallocate ZERO_RANGE    an image keeps its blocks and marks them as unwritten; a device's kernel driver
                            writes the zeros itself where the device has no command for it
    writes of zeros         where neither works

Both modes promise zeros to later reads, on images and on devices (fallocate(2); the kernel's
blkdev_fallocate). A fully allocated image is zeroed by ZERO_RANGE first, because an image that gave its
blocks back can find its file system full when they are written again.

fallocate works on whole blocks here (`Blocks.split`); what is left at the two ends is an ordinary write
of zeros, which reads, merges and waits for its turn like any other write.
"""

import ctypes
import errno
import itertools
import mmap
import os
import stat
from dataclasses import dataclass
from typing import Final, Protocol

from meshfs import limits
from meshfs.buffers import PAGE_BYTES
from meshfs.disk.base import Done, Engine
from meshfs.disk.file.transfer import Transfer

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
PUNCH: Final = _PUNCH_HOLE | _KEEP_SIZE
ZERO: Final = _ZERO_RANGE | _KEEP_SIZE

#: The mode does not work on this file or device, now or ever.
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
#: The mode does not work on this range now; a write of zeros may, and gives the true error otherwise.
_REFUSED: Final = (*_UNSUPPORTED, errno.EINVAL, errno.ENODEV, errno.ENOSPC)
_SECTOR_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's block is


def modes_of(status: os.stat_result) -> list[int]:
    """The modes of fallocate(2) to try on this file or device, the cheapest that keeps its promises first."""
    if stat.S_ISBLK(status.st_mode) or status.st_blocks * _SECTOR_BYTES < status.st_size:
        return [PUNCH, ZERO]
    return [ZERO, PUNCH]


def split(offset: int, length: int, block_bytes: int) -> list[tuple[int, int]]:
    """The range in at most three parts (offset, length), so that one of them has all its whole blocks."""
    stop = offset + length
    first = -(-offset // block_bytes) * block_bytes
    last = stop // block_bytes * block_bytes
    if first >= last:
        return [(offset, length)]
    cuts = sorted({offset, first, last, stop})
    return [(begin, end - begin) for begin, end in itertools.pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class _Zeros:
    """Memory that reads as zeros and is never written; ``address`` is page-aligned."""

    memory: mmap.mmap
    address: int


_shared: list[_Zeros] = []


def _zeros() -> _Zeros:
    """The process's zeros, made when they are first needed."""
    if not _shared:
        memory = mmap.mmap(-1, limits.ZERO_WRITE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _shared.append(_Zeros(memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))))
    return _shared[0]


class _Target(Protocol):
    """What is needed of the disk."""

    engine: Engine
    fd: int
    #: The modes of fallocate(2) that may still work; one that the kernel does not have is taken out.
    zero_modes: list[int]


class ZeroFill:
    """``start`` it; then ``done(length or -errno)`` once. The range is whole blocks inside the disk.

    The caller holds the range in the disk's WriteOrder meanwhile.
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
        """Try the next mode; with none left, write."""
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
        """Make the zeros stable where the request asks for it: fallocate(2) makes nothing stable by itself."""
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
            disk.engine, disk.fd, _zeros().address, length, self._offset + self._written, PAGE_BYTES - 1,
            write=True, dsync=self._dsync,
        )  # fmt: skip
        transfer.start(self._one_written)

    def _one_written(self, result: int) -> None:
        if result < 0:
            self._done(result)
            return
        self._written += result
        self._write()
