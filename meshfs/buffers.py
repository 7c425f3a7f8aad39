"""Page-aligned, pooled memory for payloads.

Layout of a buffer (``HEADROOM_BYTES`` = one page):

    |<---- headroom: message header ends here ---->|<---- payload, page-aligned ---->|
    0                                        HEADROOM_BYTES                    size_bytes

A READ reply is built in place: the disk writes the payload at HEADROOM_BYTES, the header
is packed right before it, and header and payload leave as one contiguous memory. A large
WRITE is received so that its payload lands at HEADROOM_BYTES, where O_DIRECT can take it.

Buffers come in a few size classes and go back to the pool they came from; memory fresh
from mmap is touched once and then stays warm (last in, first out).
"""

import bisect
import contextlib
import ctypes
import mmap
from collections.abc import Callable
from typing import Final

from meshfs import limits

PAGE_BYTES: Final = mmap.PAGESIZE
HEADROOM_BYTES: Final = PAGE_BYTES
# Room behind the payload: padding, and the block an unaligned O_DIRECT request is widened by.
TAILROOM_BYTES: Final = 2 * PAGE_BYTES

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_HUGE_PAGE_BYTES: Final = 2 << 20
_CLASSES_BYTES: Final = (4096, 16384, 65536, 262144, 1 << 20, 2 << 20, 4 << 20, limits.FRAME_MAX_BYTES)
#: Memory that a connection receives into, when it has nothing large to receive.
RECEIVE_MEMORY_BYTES: Final = 256 * limits.KIB + PAGE_BYTES
_RECEIVE_MEMORIES_IDLE_MAX: Final = 64


class Account:
    """What one owner holds of a pool."""

    __slots__ = ("used_bytes",)

    def __init__(self) -> None:
        self.used_bytes = 0


class Buffer:
    """Memory of one payload and its headroom; ``release()`` exactly once when done."""

    __slots__ = ("_memory", "_pool", "_size_class", "account", "address", "capacity_bytes", "held_bytes", "view")

    def __init__(self, pool: "BufferPool", size_class: int) -> None:
        #: Whose memory it is while it is handed out.
        self.account = pool.account
        self.capacity_bytes = _CLASSES_BYTES[size_class]
        self._pool = pool
        self._size_class = size_class
        self._memory = _map(HEADROOM_BYTES + self.capacity_bytes + TAILROOM_BYTES)
        #: What it counts as: huge pages are there as a whole, as soon as a byte of them is used.
        self.held_bytes = len(self._memory) if self.capacity_bytes > _HUGE_PAGE_BYTES // 4 else self.capacity_bytes
        #: All of the memory, headroom included; writable.
        self.view = memoryview(self._memory)
        #: Address of ``view[0]``; page-aligned.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def release(self) -> None:
        """Give the memory back to its pool; nothing may touch it afterwards."""
        self._pool.put_back(self, self._size_class)


def _map(size_bytes: int) -> mmap.mmap:
    """Private memory; large buffers in huge pages, which copying and pinning go through faster."""
    huge = size_bytes > _HUGE_PAGE_BYTES // 2
    if huge:
        size_bytes = -(-size_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    try:
        memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for a buffer of {size_bytes} bytes: {error.strerror}") from error
    if huge:
        # A kernel built without transparent huge pages refuses; small pages do as well.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, instead of giving it back to the kernel.

    Payloads that are Python's own objects (FUSE writes, sealed messages) come and go by the
    thousand; faulting a fresh MiB in costs several times what filling it does. mallopt(3),
    where the C library has it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 * limits.FRAME_MAX_BYTES)
        mallopt(_M_TRIM_THRESHOLD, limits.BUFFER_POOL_IDLE_MAX_BYTES)


class BufferPool:
    """Size-classed free lists; never refuses, and keeps at most ``idle_max_bytes`` unused."""

    def __init__(self, idle_max_bytes: int = limits.BUFFER_POOL_IDLE_MAX_BYTES) -> None:
        self._free: list[list[Buffer]] = [[] for _ in _CLASSES_BYTES]
        self._idle_bytes = 0
        self._idle_max_bytes = idle_max_bytes
        #: What was handed out and not yet released.
        self.used_bytes = 0
        self._receive_memories: list[memoryview] = []
        #: The owner of what is acquired in nobody's name.
        self.account = Account()
        #: Called when memory came back; None while nobody waits for that.
        self.on_room: Callable[[], None] | None = None

    def acquire(self, payload_bytes: int, account: Account | None = None) -> Buffer:
        """A buffer with room for ``payload_bytes`` behind its headroom, which ``account`` holds until its release.

        Raises ValueError above ``limits.FRAME_MAX_BYTES``: callers check sizes first. Raises MemoryError
        where the kernel gives no more memory.
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
        """RECEIVE_MEMORY_BYTES for one connection, until `give_receive_memory`.

        It is charged to nobody, as the number of connections is bounded. Memory of mmap(2) is there as far as it was
        used, and gone when it is freed; that of the heap is neither.
        """
        if self._receive_memories:
            return self._receive_memories.pop()
        return memoryview(_map(RECEIVE_MEMORY_BYTES))

    def give_receive_memory(self, memory: memoryview) -> None:
        if len(self._receive_memories) < _RECEIVE_MEMORIES_IDLE_MAX:
            self._receive_memories.append(memory)

    def charge(self, account: Account, more_bytes: int) -> None:
        """``account`` holds more memory that is not the pool's own (a frame that was built, say), or less."""
        account.used_bytes += more_bytes
        self.used_bytes += more_bytes
        if more_bytes < 0 and self.on_room is not None:
            self.on_room()
