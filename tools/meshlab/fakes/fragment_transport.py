"""A transport that carries messages as SMB Direct does (MS-SMBD), within one process: no stream, no prefix, no socket.

    out queue --fragments, at most FRAGMENT_BYTES each--> Wire --> inlet

A fragment says how many bytes of its message follow it, so nothing stands in front of a message. The receiver has
memory for a bounded number of fragments. The sender needs a credit for each fragment, and gets the credit back when the
fragment was received. There is no descriptor: completions call back through the reactor.
"""

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from meshfs.buffers import FRAMING_BYTES, HEADROOM_BYTES, SMALL_FRAME_MAX_BYTES, Account, Buffer, BufferPool, Frame
from meshfs.errors import RemoteProtocolError
from meshfs.transport.base import EndOfStream, Inlet, OutQueue, Sent
from meshlab.fakes.bell import Bell

#: The payload of a fragment, as the kernel's ends negotiate it.
FRAGMENT_BYTES: Final = 1340
_CREDITS: Final = 255
_MESSAGE_MIN_BYTES: Final = 52


class Wire:
    """One direction of a connection."""

    def __init__(self, credits: int) -> None:
        #: The fragments in transit, each with how many bytes of its message follow it.
        self.fragments: deque[tuple[bytes, int]] = deque()
        self.credits = credits
        #: Tells whether the sending end is closed.
        self.ended = False
        #: Tells whether the receiving end is closed.
        self.gone = False
        self.on_fragment: Callable[[], None] = _nobody
        self.on_credit: Callable[[], None] = _nobody


class FragmentTransport:
    """One of the two ends of a connection."""

    def __init__(self, name: str, other: str, incoming: Wire, outgoing: Wire) -> None:
        self.kind = "fragments"
        self.local = name
        self.remote = other
        self.pending: Callable[[], int] = self._pending
        self.expect: Callable[[int], None] = _ignored
        self.incoming = incoming
        self.outgoing = outgoing
        self._is_reset = False
        self._is_closed = False
        self._comes = Bell(lambda: bool(self.incoming.fragments) or self.incoming.ended or self._is_reset)
        #: Rings for the sender.
        self.room = Bell(lambda: self.outgoing.credits > 0 or self.outgoing.gone or self._is_reset)
        incoming.on_fragment = self._comes.look
        outgoing.on_credit = self.room.look

    def check(self) -> None:
        """Raise OSError if the connection is closed or lost."""
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._is_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _pending(self) -> int:
        return sum(len(fragment) for fragment, _ in self.incoming.fragments)

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        return FragmentInlet(self, pool, payload_offset, frame_max_bytes)

    def out_queue(self) -> OutQueue:
        return FragmentOutQueue(self)

    def watch(self, callback: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
        if not self._is_closed:
            self._comes.on_failure = self.room.on_failure = on_failure
            self._comes.always(callback)

    def unwatch(self) -> None:
        self._comes.clear()

    def when_room(self, callback: Callable[[], None]) -> None:
        if not self._is_closed:
            self.room.once(callback)

    def reset(self) -> None:
        """Break the connection: every later call at this end fails with ECONNRESET."""
        self._is_reset = True
        self._comes.look()
        self.room.look()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._comes.clear()
        self.room.clear()
        self.incoming.on_fragment = self.outgoing.on_credit = _nobody
        self.incoming.gone = self.outgoing.ended = True
        self.incoming.on_credit()
        self.outgoing.on_fragment()


class FragmentInlet:
    """Joins fragments to messages, each in memory of its own."""

    def __init__(
        self, transport: FragmentTransport, pool: BufferPool, payload_offset: int, frame_max_bytes: int
    ) -> None:
        self.account: Account = pool.account
        self.frame_max_bytes = frame_max_bytes
        self.received_bytes = 0
        self.is_drained = False
        self._transport = transport
        self._pool = pool
        self._start = HEADROOM_BYTES - payload_offset
        #: The message that is received in part.
        self._buffer: Buffer | None = None
        self._length = 0
        self._filled = 0
        self._number = 0
        self._lent: list[Frame] = []

    def receive(self, most_bytes: int | None = None) -> list[Frame]:
        self._recycle()
        self._transport.check()
        wire = self._transport.incoming
        if not wire.fragments:
            if wire.ended:
                raise EndOfStream(errno.ECONNRESET, "closed by the peer")
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        taken = 0
        frames: list[Frame] = []
        while wire.fragments and (most_bytes is None or taken + len(wire.fragments[0][0]) <= most_bytes):
            fragment, following = wire.fragments.popleft()
            taken += len(fragment)
            self._take(fragment, following, frames)
            wire.credits += 1
        self.received_bytes += taken
        self.is_drained = not wire.fragments
        wire.on_credit()
        return frames

    def _take(self, fragment: bytes, following: int, frames: list[Frame]) -> None:
        if self._buffer is None:
            self._length = len(fragment) + following
            if not _MESSAGE_MIN_BYTES <= self._length <= self.frame_max_bytes:
                raise RemoteProtocolError(f"a message of {self._length} bytes is announced")
            self._buffer = self._pool.acquire(self._length, self.account)
            self._filled = 0
            self._number += self._length > SMALL_FRAME_MAX_BYTES
        if self._filled + len(fragment) + following != self._length:
            raise RemoteProtocolError("a fragment belongs to another message")
        at = self._start + self._filled
        self._buffer.view[at : at + len(fragment)] = fragment
        self._filled += len(fragment)
        if not following:
            frame = Frame(self._buffer.view, self._start, self._length, self._buffer)
            self._buffer = None
            self._lent.append(frame)
            frames.append(frame)

    @property
    def large_progress(self) -> tuple[int, int] | None:
        if self._buffer is None or self._length <= SMALL_FRAME_MAX_BYTES:
            return None
        return self._number, self._filled

    @property
    def holds_large(self) -> bool:
        if self.large_progress is not None:
            return True
        return any(frame.buffer is not None and len(frame.view) > SMALL_FRAME_MAX_BYTES for frame in self._lent)

    @property
    def missing_bytes(self) -> int:
        return 0 if self.large_progress is None else self._length - self._filled

    def lend(self, frame: Frame) -> None:
        self._lent.append(frame)

    def _recycle(self) -> None:
        for frame in self._lent:
            if (buffer := frame.take()) is not None:
                buffer.release()
        self._lent.clear()

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._recycle()
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None


class FragmentOutQueue:
    """Cuts messages into fragments, and sends as many as there are credits. The room for a framing stays unused."""

    def __init__(self, transport: FragmentTransport) -> None:
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.unpooled_bytes = 0
        self._transport = transport
        self._messages: deque[tuple[memoryview, Buffer | None]] = deque()
        #: How much of the first message was sent.
        self._sent = 0
        self._waits = False

    def __len__(self) -> int:
        return len(self._messages)

    def add(
        self, frame: bytearray | memoryview, data: bytes | memoryview | None = None, buffer: Buffer | None = None
    ) -> int:
        message = memoryview(frame)[FRAMING_BYTES:]
        if data is not None:
            message = memoryview(b"".join((message, data)))
        self._messages.append((message, buffer))
        self.unsent_bytes += len(message)
        if buffer is None:
            self.unpooled_bytes += len(message)
        return len(self._messages)

    def send(self, most_bytes: int | None = None) -> Sent:
        if self._waits:
            return Sent.FULL
        self._transport.check()
        wire = self._transport.outgoing
        while self._messages:
            if wire.gone:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            if most_bytes is not None and most_bytes <= 0:
                return Sent.SOME
            if not wire.credits:
                return Sent.FULL
            message, buffer = self._messages[0]
            size = min(FRAGMENT_BYTES, len(message) - self._sent, most_bytes or FRAGMENT_BYTES)
            wire.credits -= 1
            end = self._sent + size
            wire.fragments.append((bytes(message[self._sent : end]), len(message) - end))
            wire.on_fragment()
            self._count_sent(size, buffer)
            if most_bytes is not None:
                most_bytes -= size
            if end == len(message):
                self._messages.popleft()
                self._sent = 0
                if buffer is not None:
                    buffer.release()
        return Sent.ALL

    def _count_sent(self, size: int, buffer: Buffer | None) -> None:
        self._sent += size
        self.sent_bytes += size
        self.unsent_bytes -= size
        if buffer is None:
            self.unpooled_bytes -= size

    def when_room(self, callback: Callable[[], None]) -> None:
        self._waits = True

        def has_room() -> None:
            if self._waits:
                self._waits = False
                callback()

        self._transport.when_room(has_room)

    def drop(self) -> None:
        self._waits = False
        messages, self._messages = self._messages, deque()
        self._sent = self.unsent_bytes = self.unpooled_bytes = 0
        for _, buffer in messages:
            if buffer is not None:
                buffer.release()


def fragment_pair(credits: int = _CREDITS) -> tuple[FragmentTransport, FragmentTransport]:
    """Return the two ends of a new connection. Each direction holds up to ``credits`` fragments in transit."""
    forth, back = Wire(credits), Wire(credits)
    ours = FragmentTransport("fragments:1", "fragments:2", back, forth)
    return ours, FragmentTransport("fragments:2", "fragments:1", forth, back)


def _nobody() -> None:
    """Do nothing: this side of the wire has no transport yet, or no longer."""


def _ignored(_: int) -> None:
    """Each fragment completes by itself, so a receiver cannot be woken later."""
