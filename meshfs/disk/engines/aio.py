"""The engine that uses Linux AIO (io_submit) through ctypes, for direct I/O where io_uring is forbidden.

    queue_*  ->  _backlog  ->  flush(): struct iocb in a table, one io_submit
    eventfd (IOCB_FLAG_RESFD)  ->  run(): io_getevents without waiting

io_submit blocks on I/O through the page cache. ``buffered`` is therefore a ThreadEngine.

Layouts: linux/include/uapi/linux/aio_abi.h (struct iocb, struct io_event), with key and rw_flags in little-endian
order; io_submit(2), io_getevents(2).
"""

import ctypes
import errno
import os
import platform
import struct
from collections import deque
from typing import Final

from meshfs import limits
from meshfs.disk.base import Done, report_fault
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.linux import libc
from meshfs.loop import reactor

# io_setup, io_destroy, io_getevents, io_submit
_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}

_CMD_PREAD: Final = 0
_CMD_PWRITE: Final = 1
_CMD_FDSYNC: Final = 3
_FLAG_RESFD: Final = 1
_RWF_DSYNC: Final = 2

# data, key, rw_flags, opcode, reqprio, fd, buf, nbytes, offset, reserved2, flags, resfd
_IOCB: Final = struct.Struct("<QIIHhIQQqQII")
# data, obj, res, res2
_EVENT: Final = struct.Struct("<QQqq")
_EVENTS_MAX: Final = 128

_syscall = libc.syscall

# (opcode, fd, address, length, offset, flags, done)
_Request = tuple[int, int, int, int, int, int, Done]


class AioEngine:
    """Does direct I/O by Linux AIO. Raises OSError if the kernel refuses a context (fs.aio-max-nr, seccomp)."""

    name = "aio"

    def __init__(self, in_flight_max: int = limits.AIO_IN_FLIGHT_MAX) -> None:
        if platform.machine() not in _CALLS:
            raise OSError(errno.ENOSYS, f"the system calls of Linux AIO are not known for {platform.machine()}")
        setup, self._sys_destroy, self._sys_getevents, self._sys_submit = _CALLS[platform.machine()]
        context = ctypes.c_ulong(0)
        if _syscall(setup, in_flight_max, ctypes.byref(context)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"io_setup: {os.strerror(code)}")
        self._context = context
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._table = ctypes.create_string_buffer(_IOCB.size * in_flight_max)
        self._table_address = ctypes.addressof(self._table)
        self._batch = (ctypes.c_uint64 * in_flight_max)()
        self._events = ctypes.create_string_buffer(_EVENT.size * _EVENTS_MAX)
        self._slots: list[Done | None] = [None] * in_flight_max
        self._free = list(range(in_flight_max))
        self._backlog: deque[_Request] = deque()
        self._busy = False
        self._threads = ThreadEngine()

    @property
    def buffered(self) -> ThreadEngine:
        return self._threads

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None:
        self._backlog.append((_CMD_PREAD, fd, address, length, offset, 0, done))

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None:
        self._backlog.append((_CMD_PWRITE, fd, address, length, offset, _RWF_DSYNC if dsync else 0, done))

    def queue_fdatasync(self, fd: int, done: Done) -> None:
        self._backlog.append((_CMD_FDSYNC, fd, 0, 0, 0, 0, done))

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        # Linux AIO has no fallocate.
        self._threads.queue_fallocate(fd, mode, offset, length, done)

    def queue_discard(self, fd: int, offset: int, length: int, done: Done) -> None:
        # Linux AIO has no ioctl either.
        self._threads.queue_discard(fd, offset, length, done)

    def flush(self) -> None:
        """Submit as much of the backlog as the kernel accepts. The next completion submits the rest."""
        self._threads.flush()
        if self._busy:
            return
        self._busy = True
        try:
            while self._backlog and self._free and self._submit(self._fill()):
                pass
        finally:
            self._busy = False

    def _fill(self) -> list[tuple[int, _Request]]:
        """Fill iocbs from the backlog. Return the slots that were used, and their requests, in order of submission."""
        filled: list[tuple[int, _Request]] = []
        while self._backlog and self._free:
            request = self._backlog.popleft()
            opcode, fd, address, length, offset, flags, done = request
            slot = self._free.pop()
            position = slot * _IOCB.size
            _IOCB.pack_into(
                self._table,
                position,
                slot,
                0,
                flags,
                opcode,
                0,
                fd,
                address,
                length,
                offset,
                0,
                _FLAG_RESFD,
                self._eventfd,
            )
            self._slots[slot] = done
            self._batch[len(filled)] = self._table_address + position
            filled.append((slot, request))
        return filled

    def _submit(self, filled: list[tuple[int, _Request]]) -> bool:
        """Submit all of ``filled``. If the kernel has no room now, put the rest back and return False."""
        start = 0
        while start < len(filled):
            pointer = ctypes.byref(self._batch, start * 8)
            taken: int = _syscall(self._sys_submit, self._context, ctypes.c_long(len(filled) - start), pointer)
            if taken > 0:
                start += taken
                continue
            code = ctypes.get_errno() if taken < 0 else errno.EAGAIN
            if code == errno.EINTR:
                continue
            if code == errno.EAGAIN and len(self._free) + len(filled) - start < len(self._slots):
                for slot, request in reversed(filled[start:]):
                    self._take(slot)
                    self._backlog.appendleft(request)
                return False
            # The kernel refuses this iocb itself, or nothing is in flight whose completion could make room.
            self._take(filled[start][0])(-(errno.ENOMEM if code == errno.EAGAIN else code))
            start += 1
        return True

    def _take(self, slot: int) -> Done:
        done = self._slots[slot]
        self._slots[slot] = None
        self._free.append(slot)
        assert done is not None
        return done

    async def run(self) -> None:
        """Deliver completions until cancelled."""
        with reactor.current().watching(self._eventfd, self._signalled):
            await self._threads.run()

    def _signalled(self) -> None:
        os.eventfd_read(self._eventfd)
        self._deliver()

    def _deliver(self) -> None:
        """Call ``done`` for each completion, then submit the requests that the callbacks queued, in one batch."""
        self._busy = True
        try:
            count = _EVENTS_MAX
            while count == _EVENTS_MAX:
                count = _syscall(
                    self._sys_getevents,
                    self._context,
                    ctypes.c_long(0),
                    ctypes.c_long(_EVENTS_MAX),
                    self._events,
                    None,
                )
                # The events are copied first, so that a nested call cannot overwrite the buffer that this loop reads.
                data = self._events.raw[: max(count, 0) * _EVENT.size]
                for slot, _, result, _ in _EVENT.iter_unpack(data):
                    done = self._take(slot)
                    try:
                        done(result)
                    except Exception as error:
                        report_fault(done, error)
        finally:
            self._busy = False
        self.flush()

    def close(self) -> None:
        """Free the context. No request may be in flight."""
        self._threads.close()
        _syscall(self._sys_destroy, self._context)
        os.close(self._eventfd)
