"""A transport within one process: bytes pass through memory, without a socket.

    one end --send--> Pipe (bounded) --receive_into--> other end

The descriptor of each end is an eventfd. It is readable while the expected number of bytes is there to receive, and
after the end of the stream or an error.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

import trio

from meshfs.buffers import BufferPool
from meshfs.transport.base import Inlet, Memory
from meshfs.transport.inlet import StreamInlet

#: A sender has to wait while so many bytes of its direction are not received.
_PIPE_BYTES: Final = 256 * 1024


class Pipe:
    """One direction of a connection: the bytes in transit, and whether either end was closed."""

    def __init__(self, capacity_bytes: int) -> None:
        self.data = bytearray()
        self.capacity_bytes = capacity_bytes
        #: Set when the sending end is closed: the end of the stream follows the bytes.
        self.ended = False
        #: Set when the receiving end is closed: the pipe takes no more bytes.
        self.gone = False
        #: ``on_data`` is called when bytes or the end have arrived. ``on_room`` is called when there is room again, or
        #: when the receiving end is closed.
        self.on_data: Callable[[], None] = _nobody
        self.on_room: Callable[[], None] = _nobody


class MemoryTransport:
    """One of the two ends of a connection."""

    def __init__(self, name: str, other: str, incoming: Pipe, outgoing: Pipe) -> None:
        self.kind = "memory"
        self.local = name
        self.remote = other
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.send: Callable[[Sequence[Memory]], int] = self._send
        self.receive_into: Callable[[memoryview], int] = self._receive_into
        self.pending: Callable[[], int] = self._pending
        self.expect: Callable[[int], None] = self._expect
        self._incoming = incoming
        self._outgoing = outgoing
        self._mark = 1
        self._signalled = False
        self._reset = False
        self._closed = False
        self._room = trio.Event()
        incoming.on_data = self._signal
        outgoing.on_room = self._stir

    def _check(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _send(self, parts: Sequence[Memory]) -> int:
        self._check()
        pipe = self._outgoing
        if pipe.gone:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        room = pipe.capacity_bytes - len(pipe.data)
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        sent = 0
        for part in parts:
            piece = memoryview(part)[: room - sent]
            pipe.data += piece
            sent += len(piece)
        pipe.on_data()
        return sent

    def _receive_into(self, memory: memoryview) -> int:
        self._check()
        pipe = self._incoming
        if not pipe.data:
            if pipe.ended:
                return 0
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        count = min(len(memory), len(pipe.data))
        memory[:count] = pipe.data[:count]
        del pipe.data[:count]
        self._signal()
        pipe.on_room()
        return count

    def _pending(self) -> int:
        return len(self._incoming.data)

    def _expect(self, missing_bytes: int) -> None:
        # If the mark were above the pipe's capacity, the bytes in transit would never reach it.
        self._mark = max(1, min(missing_bytes, self._incoming.capacity_bytes))
        self._signal()

    def _signal(self) -> None:
        """Make the descriptor readable or unreadable, according to the state of the incoming pipe."""
        if self._closed:
            return
        wanted = len(self._incoming.data) >= self._mark or self._incoming.ended or self._reset
        if wanted is self._signalled:
            return
        self._signalled = wanted
        if wanted:
            os.eventfd_write(self.fd, 1)
        else:
            os.eventfd_read(self.fd)

    def _stir(self) -> None:
        room, self._room = self._room, trio.Event()
        room.set()

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        return StreamInlet(self, pool, payload_offset, frame_max_bytes)

    async def wait_readable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the transport is closed")
        await trio.lowlevel.wait_readable(self.fd)

    async def wait_writable(self) -> None:
        while not self._closed:
            pipe = self._outgoing
            if self._reset or pipe.gone or len(pipe.data) < pipe.capacity_bytes:
                await trio.lowlevel.checkpoint()
                return
            await self._room.wait()
        raise trio.ClosedResourceError("the transport is closed")

    def reset(self) -> None:
        """Break the connection: every later call at this end fails with ECONNRESET."""
        self._reset = True
        self._signal()
        self._stir()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self.fd)
        os.close(self.fd)
        self._incoming.on_data = self._outgoing.on_room = _nobody
        self._incoming.gone = self._outgoing.ended = True
        self._incoming.on_room()
        self._outgoing.on_data()
        self._stir()


def memory_pair(capacity_bytes: int = _PIPE_BYTES) -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a new connection. Each direction holds up to ``capacity_bytes`` in transit."""
    forth, back = Pipe(capacity_bytes), Pipe(capacity_bytes)
    return MemoryTransport("memory:1", "memory:2", back, forth), MemoryTransport("memory:2", "memory:1", forth, back)


def _nobody() -> None:
    """Do nothing: this side of the pipe has no transport yet, or no longer."""
