"""Complete one read or write of a file: continue after short results, and retry after EAGAIN.

The kernel may transfer less than requested (because of a signal, of memory, or of the end of a device's queue). The
hot path passes on a complete result by itself, and uses this module only when a part is left to do.
"""

import errno

from meshfs import limits
from meshfs.disk.base import Done, Engine


class Transfer:
    """Performs one transfer. `start` begins it, or `go_on` continues it after a first result.

    ``done(bytes or -errno)`` is called once at the end. A read is complete with ``needed`` bytes, which leaves out
    bytes past the end of the file. If the kernel gives fewer, the result is -EIO. Otherwise a file that another process
    truncated, or a device that accepts nothing, would look like a success.
    """

    __slots__ = (
        "_address",
        "_again",
        "_done",
        "_done_bytes",
        "_dsync",
        "_engine",
        "_fd",
        "_length",
        "_mask",
        "_needed",
        "_offset",
        "_write",
    )

    def __init__(
        self,
        engine: Engine,
        fd: int,
        address: int,
        length: int,
        offset: int,
        mask: int,
        *,
        needed: int | None = None,
        write: bool = False,
        dsync: bool = False,
    ) -> None:
        self._engine = engine
        self._fd = fd
        self._address = address
        self._length = length
        self._offset = offset
        # Direct I/O can only continue at a block boundary.
        self._mask = mask
        self._needed = length if needed is None else needed
        self._write = write
        self._dsync = dsync
        self._done_bytes = 0
        self._again = 0
        self._done: Done

    def start(self, done: Done) -> None:
        self._done = done
        self._queue()

    def go_on(self, done: Done, result: int) -> None:
        self._done = done
        self._step(result)

    def _queue(self) -> None:
        engine, skip = self._engine, self._done_bytes
        address, length, offset = self._address + skip, self._length - skip, self._offset + skip
        if self._write:
            engine.queue_write(self._fd, address, length, offset, self._step, dsync=self._dsync)
        else:
            engine.queue_read(self._fd, address, length, offset, self._step)
        engine.flush()

    def _step(self, result: int) -> None:
        if result in (-errno.EAGAIN, -errno.EINTR):
            self._again += 1
            if self._again > limits.DISK_AGAIN_MAX:
                self._done(result)
            else:
                self._queue()
            return
        if result < 0:
            self._done(result)
            return
        reached = self._done_bytes + result
        if reached >= self._needed:
            self._done(reached)
            return
        whole = reached & ~self._mask
        if whole <= self._done_bytes:
            self._done(-errno.EIO)
            return
        self._done_bytes = whole
        self._queue()
