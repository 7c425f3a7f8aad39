"""A transport within one process: bytes pass through memory, without a socket.

    one end --send--> Pipe (bounded) --receive_into--> other end

Each end has an eventfd, which the reactor watches. It is readable while the expected number of bytes is there to
receive, and after the end of the stream or an error.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

from meshfs.buffers import BufferPool
from meshfs.loop import reactor
from meshfs.transport.base import Inlet, Memory, OutQueue
from meshfs.transport.inlet import StreamInlet
from meshfs.transport.out_queue import StreamOutQueue
from meshlab.fakes.bell import Bell

#: A sender has to wait while so many bytes of its direction are not received.
_PIPE_BYTES: Final = 256 * 1024


class Pipe:
    """One direction of a connection: the bytes in transit, and whether either end was closed."""

    def __init__(self, capacity_bytes: int) -> None:
        self.data = bytearray()
        self.capacity_bytes = capacity_bytes
        #: Tells whether the sending end is closed. Then the end of the stream follows the bytes.
        self.ended = False
        #: Tells whether the receiving end is closed. Then the pipe accepts no more bytes.
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
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
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
        self._reactor = reactor.current()
        #: Rings for the sender.
        self._room = Bell(self._is_writable)
        incoming.on_data = self._signal
        outgoing.on_room = self._room.look

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
            os.eventfd_write(self._fd, 1)
        else:
            os.eventfd_read(self._fd)

    def _is_writable(self) -> bool:
        pipe = self._outgoing
        return self._reset or pipe.gone or len(pipe.data) < pipe.capacity_bytes

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        return StreamInlet(self, pool, payload_offset, frame_max_bytes)

    def out_queue(self) -> OutQueue:
        return StreamOutQueue(self)

    def watch(self, callback: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
        if not self._closed:
            self._room.on_failure = on_failure
            self._reactor.add(self._fd, callback, on_failure=on_failure)

    def unwatch(self) -> None:
        if not self._closed:
            self._reactor.remove(self._fd)

    def when_writable(self, callback: Callable[[], None]) -> None:
        if not self._closed:
            self._room.once(callback)

    def reset(self) -> None:
        """Break the connection: every later call at this end fails with ECONNRESET."""
        self._reset = True
        self._signal()
        self._room.look()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._room.clear()
        self._reactor.forget(self._fd)
        os.close(self._fd)
        self._incoming.on_data = self._outgoing.on_room = _nobody
        self._incoming.gone = self._outgoing.ended = True
        self._incoming.on_room()
        self._outgoing.on_data()


def memory_pair(capacity_bytes: int = _PIPE_BYTES) -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a new connection. Each direction holds up to ``capacity_bytes`` in transit."""
    forth, back = Pipe(capacity_bytes), Pipe(capacity_bytes)
    return MemoryTransport("memory:1", "memory:2", back, forth), MemoryTransport("memory:2", "memory:1", forth, back)


def _nobody() -> None:
    """Do nothing: this side of the pipe has no transport yet, or no longer."""
