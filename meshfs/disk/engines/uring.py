"""The engine that uses io_uring without a compiler or a package: ctypes for the system calls, mmap for the rings.

    queue_*  ->  _backlog  ->  flush(): SQEs packed into the mapped array, one io_uring_enter
    CQ ring  ->  flush() itself (cached reads complete inside the enter call), or
    eventfd readable -> run() -> flush()

Setup flags and memory order. All calls are made in one thread. On x86 the ring is set up with COOP_TASKRUN (Linux
5.19). The thread itself then posts the completions of direct I/O when it enters the kernel. Of all flags COOP_TASKRUN
was the cheapest at depth 1, and no worse at depth 16. (DEFER_TASKRUN wakes the thread twice per request, once for the
work and once for the entry.) The kernel's workers may still post completions from other CPUs while Python reads the
ring. Python's plain loads and stores are correct then only because x86 keeps loads in order and stores in order (total
store order, TSO). On other machines DEFER_TASKRUN (Linux 6.1) is required. The kernel then posts completions only
inside this thread's own io_uring_enter(GETEVENTS).

Wake-ups. While nothing is in flight, the eventfd is switched off. A cached read is complete when io_uring_enter
returns, and so costs no wake-up. Before a request stays in flight, the eventfd is switched on, and the ring is read
once more. That read finds every entry that was posted before the switch, and an entry posted after the switch
signals the eventfd. For this, the store (the switch) must be visible before the load (the ring's tail). TSO may
reorder just this pair, so a lock is taken in between, which is a full barrier.

Full rings. At most ``cq_entries`` requests are in the kernel, and the rest waits in the backlog. So the CQ ring
never overflows, and no completion is lost.

Discards. io_uring has no ioctl, and no discard before Linux 6.12. So a ThreadEngine discards.

Layouts: linux/include/uapi/linux/io_uring.h (struct io_uring_params, io_uring_sqe,
io_uring_cqe); io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
"""

import ctypes
import errno
import mmap
import os
import platform
import struct
import threading
from collections import deque
from typing import Final, Self

from meshfs import limits
from meshfs.disk.base import Done, report_fault
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.linux import libc
from meshfs.loop import reactor

_SYS_SETUP: Final = 425
_SYS_ENTER: Final = 426
_SYS_REGISTER: Final = 427

_SETUP_CQSIZE: Final = 1 << 3
_SETUP_CLAMP: Final = 1 << 4
_SETUP_COOP_TASKRUN: Final = 1 << 8
_SETUP_SINGLE_ISSUER: Final = 1 << 12
_SETUP_DEFER_TASKRUN: Final = 1 << 13
_FEATURE_SINGLE_MMAP: Final = 1 << 0
_ENTER_GETEVENTS: Final = 1 << 0
_REGISTER_EVENTFD: Final = 4
_CQ_EVENTFD_DISABLED: Final = 1 << 0
_OFFSET_SQES: Final = 0x10000000

_OP_FSYNC: Final = 3
_OP_FALLOCATE: Final = 17
_OP_READ: Final = 22
_OP_WRITE: Final = 23
_FSYNC_DATASYNC: Final = 1
_RWF_DSYNC: Final = 2

# struct io_uring_params: 10 words, then sq_off and cq_off of 8 words and a u64 each.
_PARAMS: Final = struct.Struct("<10I 8IQ 8IQ")
# opcode, flags, ioprio, fd, off, addr, len, rw_flags, user_data; the other 24 bytes stay zero.
_SQE: Final = struct.Struct("<BBHiQQIIQ")
_SQE_BYTES: Final = 64
_CQE: Final = struct.Struct("<QiI")

_DEFERRED: Final = _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN
_SETUPS: Final = (_SETUP_COOP_TASKRUN, 0) if platform.machine() == "x86_64" else (_DEFERRED,)

_syscall = libc.syscall

# (opcode, fd, address, length, offset, flags, done)
_Request = tuple[int, int, int, int, int, int, Done]


class UringEngine:
    """Does I/O by io_uring. Raises OSError if the kernel has no io_uring, or forbids it."""

    name = "io_uring"

    def __init__(self, entries: int = limits.URING_SQ_ENTRIES, in_flight_max: int = limits.URING_CQ_ENTRIES):
        fd, parameters, self._deferred = _set_up(entries, in_flight_max)
        self._fd = fd
        try:
            self._map(parameters)
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                events = (ctypes.c_int * 1)(self._eventfd)
                libc.check(_syscall(_SYS_REGISTER, fd, _REGISTER_EVENTFD, ctypes.byref(events), 1))
            except BaseException:
                os.close(self._eventfd)
                raise
        except BaseException:
            os.close(fd)
            raise
        self._backlog: deque[_Request] = deque()
        # The user_data of a request is its index here.
        self._slots: list[Done | None] = [None] * self._cq_entries
        self._free = list(range(self._cq_entries))
        self._busy = False
        self._quiet = False
        self._barrier = threading.Lock()
        self._threads = ThreadEngine()

    @property
    def buffered(self) -> Self:
        """Return this engine itself, because io_uring passes a request that would block to the kernel's workers."""
        return self

    def _map(self, parameters: tuple[int, ...]) -> None:
        """Map the rings, and compute the indices of their words from the kernel's offsets, which are in bytes."""
        self._sq_entries, self._cq_entries = parameters[0], parameters[1]
        sq_head, sq_tail, sq_mask, _, _, _, sq_array = parameters[10:17]
        cq_head, cq_tail, cq_mask, _, _, cq_entries, cq_flags = parameters[19:26]
        size_bytes = max(sq_array + 4 * self._sq_entries, cq_entries + _CQE.size * self._cq_entries)
        self._ring = mmap.mmap(self._fd, size_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._sqes = mmap.mmap(
            self._fd, _SQE_BYTES * self._sq_entries, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFFSET_SQES
        )
        words = memoryview(self._ring)[: size_bytes & ~3].cast("I")
        self._words = words
        self._sq_head, self._sq_tail = sq_head // 4, sq_tail // 4
        self._cq_head, self._cq_tail = cq_head // 4, cq_tail // 4
        self._sq_mask, self._cq_mask = words[sq_mask // 4], words[cq_mask // 4]
        self._cq_flags = cq_flags // 4
        self._cqes_offset = cq_entries
        # Entry i of the indirection array always names SQE i.
        for index in range(self._sq_entries):
            words[sq_array // 4 + index] = index

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None:
        self._backlog.append((_OP_READ, fd, address, length, offset, 0, done))

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None:
        self._backlog.append((_OP_WRITE, fd, address, length, offset, _RWF_DSYNC if dsync else 0, done))

    def queue_fdatasync(self, fd: int, done: Done) -> None:
        self._backlog.append((_OP_FSYNC, fd, 0, 0, 0, _FSYNC_DATASYNC, done))

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        # The SQE of a fallocate has the length where others have an address, and the mode where they have a length.
        self._backlog.append((_OP_FALLOCATE, fd, length, mode, offset, 0, done))

    def queue_discard(self, fd: int, offset: int, length: int, done: Done) -> None:
        # The threads are started here, and not in `flush`, which every READ and WRITE calls.
        self._threads.queue_discard(fd, offset, length, done)
        self._threads.flush()

    def flush(self) -> None:
        """Submit the backlog and deliver the completions that have arrived.

        A call from inside a ``done`` returns at once. The loop of the outer call goes on until the backlog is empty,
        or until only a later completion can make room.
        """
        if self._busy:
            return
        self._busy = True
        try:
            if not self._quiet and len(self._free) == self._cq_entries:
                self._words[self._cq_flags] = _CQ_EVENTFD_DISABLED
                self._quiet = True
            self._fill()
            while True:
                submitted = self._enter()
                delivered = self._deliver()
                if self._fill() or (self._unsubmitted() and (submitted or delivered)):
                    continue
                if not self._quiet or len(self._free) == self._cq_entries:
                    break
                self._listen()
        finally:
            self._busy = False

    def _listen(self) -> None:
        """Switch the eventfd on. The caller must then read the ring once more (see the header of this module)."""
        self._words[self._cq_flags] = 0
        self._quiet = False
        with self._barrier:
            pass

    def _fill(self) -> bool:
        """Move requests from the backlog into SQEs while there is room. Return whether a request was moved."""
        backlog, free, slots, words = self._backlog, self._free, self._slots, self._words
        if not backlog:
            return False
        tail = words[self._sq_tail]
        room = self._sq_entries - ((tail - words[self._sq_head]) & 0xFFFFFFFF)
        count = min(room, len(free), len(backlog))
        for _ in range(count):
            opcode, fd, address, length, offset, flags, done = backlog.popleft()
            slot = free.pop()
            slots[slot] = done
            position = (tail & self._sq_mask) * _SQE_BYTES
            _SQE.pack_into(self._sqes, position, opcode, 0, 0, fd, offset, address, length, flags, slot)
            tail = (tail + 1) & 0xFFFFFFFF
        words[self._sq_tail] = tail
        return count > 0

    def _unsubmitted(self) -> int:
        return (self._words[self._sq_tail] - self._words[self._sq_head]) & 0xFFFFFFFF

    def _enter(self) -> int:
        """Call io_uring_enter once, without waiting. Return how many SQEs the kernel took."""
        count = self._unsubmitted()
        if not count and not self._deferred:
            return 0
        flags = _ENTER_GETEVENTS if self._deferred else 0
        taken: int = _syscall(_SYS_ENTER, self._fd, count, 0, flags, None, 0)
        if taken >= 0:
            return taken
        code = ctypes.get_errno()
        if code == errno.EINTR:
            return 0 if count == 0 else self._enter()
        if code not in (errno.EAGAIN, errno.EBUSY):
            raise OSError(code, f"io_uring_enter: {os.strerror(code)}")
        # The kernel is out of memory. A completion will free some. If no request is in flight, the requests must fail.
        if len(self._free) + count == self._cq_entries:
            self._refuse(count)
        return 0

    def _refuse(self, count: int) -> None:
        """Take the unsubmitted SQEs back and complete them with -ENOMEM.

        This is safe because the kernel reads the ring's tail only inside io_uring_enter.
        """
        tail = self._words[self._sq_tail]
        self._words[self._sq_tail] = (tail - count) & 0xFFFFFFFF
        for index in range(count):
            position = ((tail - count + index) & self._sq_mask) * _SQE_BYTES
            self._complete(_SQE.unpack_from(self._sqes, position)[8], -errno.ENOMEM)

    def _deliver(self) -> int:
        """Call ``done`` for every completion in the CQ ring. Return how many there were."""
        words, ring, slots, free = self._words, self._ring, self._slots, self._free
        head, tail = words[self._cq_head], words[self._cq_tail]
        count = 0
        while head != tail:
            slot, result, _ = _CQE.unpack_from(ring, self._cqes_offset + (head & self._cq_mask) * _CQE.size)
            head = (head + 1) & 0xFFFFFFFF
            words[self._cq_head] = head
            done = slots[slot]
            slots[slot] = None
            free.append(slot)
            count += 1
            try:
                done(result)
            except Exception as error:
                report_fault(done, error)
            if head == tail:
                tail = words[self._cq_tail]
        return count

    def _complete(self, slot: int, result: int) -> None:
        done = self._slots[slot]
        self._slots[slot] = None
        self._free.append(slot)
        assert done is not None
        done(result)

    async def run(self) -> None:
        """Deliver completions until cancelled. Requests in flight stay unanswered after that."""
        # The eventfd is edge-triggered. Each signal is a new event, so the eventfd need not be read.
        with reactor.current().watching(self._eventfd, self.flush, edge=True):
            await self._threads.run()

    def close(self) -> None:
        """Free the rings. No request may be in flight."""
        self._threads.close()
        self._words.release()
        self._ring.close()
        self._sqes.close()
        os.close(self._eventfd)
        os.close(self._fd)


def _set_up(entries: int, in_flight_max: int) -> tuple[int, tuple[int, ...], bool]:
    """Create the ring. Return its fd, the io_uring_params that the kernel filled, and True if DEFER_TASKRUN is on.

    Raises OSError if the kernel has no io_uring, forbids it, or is too old.
    """
    for flags in _SETUPS:
        parameters = bytearray(_PARAMS.size)
        request = flags | _SETUP_CQSIZE | _SETUP_CLAMP
        _PARAMS.pack_into(parameters, 0, 0, in_flight_max, request, *[0] * 25)
        memory = (ctypes.c_char * _PARAMS.size).from_buffer(parameters)
        try:
            fd = libc.check(_syscall(_SYS_SETUP, entries, ctypes.byref(memory)))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue
        filled = _PARAMS.unpack(parameters)
        if not filled[5] & _FEATURE_SINGLE_MMAP:
            os.close(fd)
            break
        return fd, filled, flags == _DEFERRED
    raise OSError(errno.ENOSYS, "this kernel's io_uring is too old")
