"""The engine that makes blocking calls in a few threads. It works everywhere and costs the most CPU time.

    queue_*  ->  _backlog  ->  flush(): one SimpleQueue for all threads
    threads: pread, pwrite, fdatasync, fallocate, ioctl  ->  _finished (deque)  ->  eventfd  ->  run()

A thread that waits for a hanging disk serves no other disk until that disk answers. If all threads wait for hanging
disks, every disk of the process waits. Therefore this engine is the last choice.
"""

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections import deque
from queue import SimpleQueue
from typing import Final, Self

import trio

from meshfs import limits
from meshfs.disk.base import Done, report_fault
from meshfs.linux import libc
from meshfs.loop import reactor

_READ: Final = 0
_WRITE: Final = 1
_SYNC: Final = 2
_ALLOCATE: Final = 3
_DISCARD: Final = 4

_BLKDISCARD: Final = 0x1277
# The first byte and the number of bytes (blkdev.h)
_RANGE: Final = struct.Struct("QQ")


class _Iovec(ctypes.Structure):
    """Has the layout of struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_TRANSFER: Final = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int)
_preadv2 = libc.function("preadv2", *_TRANSFER, result=ctypes.c_ssize_t)
_pwritev2 = libc.function("pwritev2", *_TRANSFER, result=ctypes.c_ssize_t)
_fallocate = libc.function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

# (kind, fd, address, length, offset, RWF_* flags or fallocate's mode, done)
_Request = tuple[int, int, int, int, int, int, Done]


class ThreadEngine:
    """Does I/O by blocking calls. The first request starts ``threads`` threads, and ``close`` ends them."""

    name = "threads"

    def __init__(self, threads: int = limits.DISK_THREADS_MAX) -> None:
        self._thread_count = threads
        self._threads: list[threading.Thread] = []
        self._backlog: list[_Request] = []
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._finished: deque[tuple[Done, int]] = deque()
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def buffered(self) -> Self:
        return self

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None:
        self._backlog.append((_READ, fd, address, length, offset, 0, done))

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None:
        self._backlog.append((_WRITE, fd, address, length, offset, os.RWF_DSYNC if dsync else 0, done))

    def queue_fdatasync(self, fd: int, done: Done) -> None:
        self._backlog.append((_SYNC, fd, 0, 0, 0, 0, done))

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        self._backlog.append((_ALLOCATE, fd, 0, length, offset, mode, done))

    def queue_discard(self, fd: int, offset: int, length: int, done: Done) -> None:
        self._backlog.append((_DISCARD, fd, 0, length, offset, 0, done))

    def flush(self) -> None:
        if self._backlog and not self._threads:
            self._start()
        for request in self._backlog:
            self._requests.put(request)
        self._backlog.clear()

    def _start(self) -> None:
        for number in range(self._thread_count):
            # The threads are daemonic, so that a disk that never answers cannot keep the process from ending.
            thread = threading.Thread(target=self._work, name=f"disk-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self) -> None:
        """Perform requests until `close`. No lock is needed: deque.append and a write to an eventfd are atomic."""
        while (request := self._requests.get()) is not None:
            self._finished.append((request[6], _perform(request)))
            os.eventfd_write(self._eventfd, 1)

    async def run(self) -> None:
        """Deliver completions until cancelled."""
        with reactor.current().watching(self._eventfd, self._signalled):
            await trio.sleep_forever()

    def _signalled(self) -> None:
        os.eventfd_read(self._eventfd)
        finished = self._finished
        while finished:
            done, result = finished.popleft()
            try:
                done(result)
            except Exception as error:
                report_fault(done, error)

    def close(self) -> None:
        """End the threads. No request may be in flight."""
        for _ in self._threads:
            self._requests.put(None)
        for thread in self._threads:
            thread.join()
        os.close(self._eventfd)


def _perform(request: _Request) -> int:
    """Make the blocking call. Return the bytes done, or -errno."""
    kind, fd, address, length, offset, flags, _ = request
    if kind == _SYNC:
        try:
            os.fdatasync(fd)
        except OSError as error:
            return -(error.errno or errno.EIO)
        return 0
    if kind == _ALLOCATE:
        return 0 if _fallocate(fd, flags, offset, length) == 0 else -ctypes.get_errno()
    if kind == _DISCARD:
        try:
            fcntl.ioctl(fd, _BLKDISCARD, _RANGE.pack(offset, length))
        except OSError as error:
            return -(error.errno or errno.EIO)
        return 0
    iovec = _Iovec(address, length)
    call = _preadv2 if kind == _READ else _pwritev2
    result: int = call(fd, ctypes.addressof(iovec), 1, offset, flags)
    return result if result >= 0 else -ctypes.get_errno()
