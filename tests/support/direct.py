"""Calls that return their errno instead of raising OSError, among them single reads and writes past the page cache."""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def errno_of(call: Callable[[], object]) -> int:
    """Return the errno that the call fails with, or 0 if the call succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def read_errno(disk: Path | int, offset: int, size: int = 4096) -> int:
    """Return the errno of the open or of the read, 0 if both succeed, or -1 for a short read.

    A descriptor must be opened with O_DIRECT.
    """
    try:
        with _opened(disk, os.O_RDONLY) as fd:
            return 0 if os.preadv(fd, [mmap.mmap(-1, size)], offset) == size else -1
    except OSError as error:
        return error.errno or -1


def write_errno(disk: Path | int, offset: int, size: int = 4096, *, flush: bool = True) -> int:
    """Return the errno of the open, write or fsync, whichever fails first, 0 if none does, or -1 for a short write."""
    try:
        with _opened(disk, os.O_WRONLY) as fd:
            buffer = mmap.mmap(-1, size)
            buffer[:] = os.urandom(size)
            if os.pwritev(fd, [buffer], offset) != size:
                return -1
            if flush:
                os.fsync(fd)
    except OSError as error:
        return error.errno or -1
    return 0


@contextmanager
def _opened(disk: Path | int, flags: int) -> Iterator[int]:
    if isinstance(disk, int):
        yield disk
        return
    fd = os.open(disk, flags | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)
