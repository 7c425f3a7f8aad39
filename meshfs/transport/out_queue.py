"""Sends over a stream. Writes the length of each message in front, and keeps what the stream leaves.

One call of the stream's ``send`` carries all that is unsent, up to IOV_MAX parts. If a part was sent in part, its rest
stays at the head of the queue. Each wing decides when and how much to send: the exporter sends in turns
(exporter/serving/outlet.py), and the initiator sends together what one round starts (initiator/channel/outbox.py).
"""

import os
from collections.abc import Callable
from typing import Final

from meshfs.buffers import FRAMING_BYTES, Buffer
from meshfs.transport.base import Memory, Sent
from meshfs.transport.byte_stream import ByteStream
from meshfs.transport.framing import pack_length

#: The number of parts that one call of ``send`` may have (IOV_MAX of writev(2)).
_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
#: The memory of an unsent part besides its bytes: the object, and its place in a list.
_PART_BYTES: Final = 200
# These names are looked up for each message. Looking up the member of an enum costs as much as a call.
_ALL: Final = Sent.ALL
_FULL: Final = Sent.FULL
_SOME: Final = Sent.SOME


class StreamOutQueue:
    """Sends the messages of a transport that carries a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self.sent_bytes = 0
        self.unsent_bytes = 0
        self.unpooled_bytes = 0
        self._stream = stream
        self._parts: list[Memory] = []
        #: The buffer that each part lies in, or None.
        self._buffers: list[Buffer | None] = []
        #: Tells whether a part may lie in memory that is lent only until the next `send` has returned.
        self._lends = False
        self._on_room: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._parts)

    def add(
        self, frame: bytearray | memoryview, data: bytes | memoryview | None = None, buffer: Buffer | None = None
    ) -> int:
        parts = self._parts
        size = len(frame)
        parts.append(frame)
        self._buffers.append(buffer)
        if buffer is None:
            self.unpooled_bytes += size + _PART_BYTES
        if data is not None:
            parts.append(data)
            self._buffers.append(None)
            if type(data) is memoryview and type(data.obj) is not bytes:
                self._lends = True
            more = len(data)
            self.unpooled_bytes += more + _PART_BYTES
            size += more
        pack_length(frame, 0, size - FRAMING_BYTES)
        self.unsent_bytes += size
        return len(parts)

    def send(self, most_bytes: int | None = None) -> Sent:
        parts = self._parts
        left = _ALL if self._on_room is None else _FULL
        while parts and left is _ALL:
            if most_bytes is None and len(parts) <= _IOV_MAX:
                offered, offered_bytes = parts, self.unsent_bytes
            else:
                offered, offered_bytes = _first_parts(parts, most_bytes)
            try:
                sent = self._stream.send(offered)
            except BlockingIOError:
                left = _FULL
                break
            self.sent_bytes += sent
            self.unsent_bytes -= sent
            if self.unsent_bytes:
                buffers = self._take_off(sent)
            else:
                buffers, self._buffers = self._buffers, []
                self.unpooled_bytes = 0
                parts.clear()
            # A release may call a connection that waits for memory, and so may lead to new messages.
            for buffer in buffers:
                if buffer is not None:
                    buffer.release()
            if sent < offered_bytes:
                # The stream is full. Another call would only say so.
                left = _FULL
            elif most_bytes is not None:
                most_bytes -= sent
                if most_bytes <= 0 and parts:
                    left = _SOME
        if self._lends:
            self._lends = False
            if parts:
                self._keep_lent()
        return left

    def _take_off(self, sent: int) -> list[Buffer | None]:
        """Remove what was sent from the head. Return the buffers of the removed parts."""
        parts, buffers = self._parts, self._buffers
        done = 0
        while sent >= len(parts[done]):
            sent -= len(parts[done])
            if buffers[done] is None:
                self.unpooled_bytes -= len(parts[done]) + _PART_BYTES
            done += 1
        if sent:
            parts[done] = memoryview(parts[done])[sent:]
            if buffers[done] is None:
                self.unpooled_bytes -= sent
        released = buffers[:done]
        del parts[:done], buffers[:done]
        return released

    def _keep_lent(self) -> None:
        """Copy the unsent parts that may lie in lent memory: all views outside of the pool whose memory can change."""
        for index, (part, buffer) in enumerate(zip(self._parts, self._buffers, strict=True)):
            if buffer is None and type(part) is memoryview and type(part.obj) is not bytes:
                self._parts[index] = bytes(part)

    def when_room(self, callback: Callable[[], None]) -> None:
        if self._on_room is None:
            self._stream.when_writable(self._has_room)
        self._on_room = callback

    def _has_room(self) -> None:
        callback, self._on_room = self._on_room, None
        if callback is not None:
            callback()

    def drop(self) -> None:
        self._on_room = None
        self.unsent_bytes = self.unpooled_bytes = 0
        self._parts.clear()
        self._lends = False
        buffers, self._buffers = self._buffers, []
        for buffer in buffers:
            if buffer is not None:
                buffer.release()


def _first_parts(parts: list[Memory], most_bytes: int | None) -> tuple[list[Memory], int]:
    """Return the first parts, up to ``most_bytes`` if given, and their bytes. Cut the last part if it is too long."""
    first: list[Memory] = []
    total = 0
    for part in parts[:_IOV_MAX]:
        if most_bytes is not None and total + len(part) >= most_bytes:
            first.append(memoryview(part)[: most_bytes - total])
            return first, most_bytes
        first.append(part)
        total += len(part)
    return first, total
