"""Page-aligned, pooled memory for payloads.

Layout of a buffer (``HEADROOM_BYTES`` = one page):

    |<---- headroom: message header ends here ---->|<---- payload, page-aligned ---->|
    0                                        HEADROOM_BYTES                    size_bytes

A READ reply is built in place: the disk writes the payload at HEADROOM_BYTES, and the header is packed right before
it. So header and payload are sent as one contiguous block, without a copy. A large WRITE is received so that its
payload lands at HEADROOM_BYTES, where it is aligned as O_DIRECT requires.

Buffers come in a few size classes and return to the pool that they came from. The buffer that was returned last is used
next, because its pages are mapped and in the processor's cache.
"""

import bisect
import contextlib
import ctypes
import mmap
from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.linux import libc

PAGE_BYTES: Final = mmap.PAGESIZE
#: The room in front of each outgoing message. The transport's framing fills it (TCP writes the length of the message
#: there), or skips it. It is as long as the longest framing.
FRAMING_BYTES: Final = 4
#: A message up to this size is received into shared memory, and its payload is copied if it is kept: copying is cheap.
SMALL_FRAME_MAX_BYTES: Final = 32 * limits.KIB
HEADROOM_BYTES: Final = PAGE_BYTES
# The room after the payload holds padding, and the block by which an unaligned O_DIRECT request is widened.
TAILROOM_BYTES: Final = 2 * PAGE_BYTES

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_HUGE_PAGE_BYTES: Final = 2 << 20
_CLASSES_BYTES: Final = (4096, 16384, 65536, 262144, 1 << 20, 2 << 20, 4 << 20, limits.FRAME_MAX_BYTES)
#: A connection receives into memory of this size, unless it receives a large frame.
RECEIVE_MEMORY_BYTES: Final = 256 * limits.KIB + PAGE_BYTES
_RECEIVE_MEMORIES_IDLE_MAX: Final = 64


class Account:
    """Counts the memory that one owner holds of a pool."""

    __slots__ = ("used_bytes",)

    def __init__(self) -> None:
        self.used_bytes = 0


class Buffer:
    """Holds memory for one payload and its headroom. Its user must call ``release()`` exactly once."""

    __slots__ = ("_memory", "_pool", "_size_class", "account", "address", "capacity_bytes", "held_bytes", "view")

    def __init__(self, pool: "BufferPool", size_class: int) -> None:
        #: The account that the memory is charged to while the buffer is in use.
        self.account = pool.account
        self.capacity_bytes = _CLASSES_BYTES[size_class]
        self._pool = pool
        self._size_class = size_class
        self._memory = _map(HEADROOM_BYTES + self.capacity_bytes + TAILROOM_BYTES)
        #: The bytes that are charged. The kernel allocates a huge page as a whole when one byte of it is used.
        self.held_bytes = len(self._memory) if self.capacity_bytes > _HUGE_PAGE_BYTES // 4 else self.capacity_bytes
        #: The whole memory, including the headroom. It can be written.
        self.view = memoryview(self._memory)
        #: The address of ``view[0]``, which is page-aligned.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def release(self) -> None:
        """Return the memory to its pool. Nothing may use it afterwards, because the pool gives it to the next user."""
        self._pool.put_back(self, self._size_class)


def _map(size_bytes: int) -> mmap.mmap:
    """Map private memory. Large buffers get huge pages, which are faster to copy and to pin."""
    huge = size_bytes > _HUGE_PAGE_BYTES // 2
    if huge:
        size_bytes = -(-size_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    try:
        memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for a buffer of {size_bytes} bytes: {error.strerror}") from error
    if huge:
        # A kernel without transparent huge pages refuses this call. Small pages work, too.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def keep_freed_memory() -> None:
    """Have the C library keep the memory that this process frees, instead of returning it to the kernel.

    Thousands of payloads are objects of Python (FUSE writes, sealed messages), which are allocated and freed all the
    time. Faulting in a fresh MiB costs several times as much as filling it. A C library without mallopt(3) is left as
    it is.
    """
    mallopt = libc.find("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 * limits.FRAME_MAX_BYTES)
        mallopt(_M_TRIM_THRESHOLD, limits.BUFFER_POOL_IDLE_MAX_BYTES)


class BufferPool:
    """Hands out buffers of a few size classes, and keeps at most ``idle_max_bytes`` of unused ones for reuse.

    The pool itself has no upper bound. An exporter's memory budget bounds what its peers make it hold.
    """

    def __init__(self, idle_max_bytes: int = limits.BUFFER_POOL_IDLE_MAX_BYTES) -> None:
        self._free: list[list[Buffer]] = [[] for _ in _CLASSES_BYTES]
        self._idle_bytes = 0
        self._idle_max_bytes = idle_max_bytes
        #: The bytes that were handed out and have not been released yet.
        self.used_bytes = 0
        self._receive_memories: list[memoryview] = []
        #: The account for memory that is acquired without naming an account.
        self.account = Account()
        #: A function to call after memory was released, or None while no connection waits for memory.
        self.on_room: Callable[[], None] | None = None

    def acquire(self, payload_bytes: int, account: Account | None = None) -> Buffer:
        """Return a buffer with room for ``payload_bytes`` behind its headroom. Charge ``account`` until its release.

        Raises ValueError above ``limits.FRAME_MAX_BYTES``, because callers must check sizes first. Raises MemoryError
        if the kernel gives no more memory.
        """
        size_class = bisect.bisect_left(_CLASSES_BYTES, payload_bytes)
        if size_class == len(_CLASSES_BYTES):
            raise ValueError(f"no buffer holds {payload_bytes} bytes (at most {_CLASSES_BYTES[-1]})")
        free = self._free[size_class]
        if free:
            buffer = free.pop()
            held_bytes = buffer.held_bytes
            self._idle_bytes -= held_bytes
        else:
            buffer = Buffer(self, size_class)
            held_bytes = buffer.held_bytes
        buffer.account = account = account or self.account
        account.used_bytes += held_bytes
        self.used_bytes += held_bytes
        return buffer

    def put_back(self, buffer: Buffer, size_class: int) -> None:
        held_bytes = buffer.held_bytes
        self.used_bytes -= held_bytes
        buffer.account.used_bytes -= held_bytes
        if self._idle_bytes + held_bytes <= self._idle_max_bytes:
            self._idle_bytes += held_bytes
            self._free[size_class].append(buffer)
        if self.on_room is not None:
            self.on_room()

    def take_receive_memory(self) -> memoryview:
        """Return RECEIVE_MEMORY_BYTES for one connection, which returns them by `give_receive_memory`.

        No account is charged, because the number of connections is bounded. The memory comes from mmap(2), and not from
        the heap: only used pages take memory, and unmapping returns them to the kernel.
        """
        if self._receive_memories:
            return self._receive_memories.pop()
        return memoryview(_map(RECEIVE_MEMORY_BYTES))

    def give_receive_memory(self, memory: memoryview) -> None:
        if len(self._receive_memories) < _RECEIVE_MEMORIES_IDLE_MAX:
            self._receive_memories.append(memory)

    def charge(self, account: Account, more_bytes: int) -> None:
        """Charge ``account`` for memory outside the pool, such as a frame that was built.

        If ``more_bytes`` is negative, an earlier charge is taken back.
        """
        account.used_bytes += more_bytes
        self.used_bytes += more_bytes
        if more_bytes < 0 and self.on_room is not None:
            self.on_room()


class Frame:
    """Holds one received message, without anything that its transport put around it."""

    __slots__ = ("buffer", "memory", "start", "view")

    def __init__(self, memory: memoryview, start: int, length: int, buffer: Buffer | None) -> None:
        #: The whole memory that contains the frame. ``view`` is ``memory[start:start + length]``.
        self.memory = memory
        self.start = start
        self.view = memory[start : start + length]
        #: The frame's own memory, or None if the frame is in the shared buffer.
        self.buffer = buffer

    def take(self) -> Buffer | None:
        """Return the frame's own memory, which the caller must release, or None if the frame has no own memory."""
        buffer, self.buffer = self.buffer, None
        return buffer
