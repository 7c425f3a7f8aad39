"""Does the framing of direct TCP (MS-SMB2 2.1), in which each message has its length in front. Does no I/O.

What is sent gets its length by `pack_length`. `FrameReceiver` splits a received stream into frames, and decides where
the next bytes are received to.

The caller receives into ``get_buffer()`` and reports the number of bytes by ``received(n)``, which returns the frames
that are complete:

    small frames   are received into one shared buffer, many per call. Their views are valid until the next
                   ``get_buffer()``.
    large frames   get pooled memory of their own. It is placed so that the payload of a READ response or of a WRITE
                   request lands page-aligned at ``HEADROOM_BYTES``, where the disk can use it without a copy:

        |.......|message header and body|payload ...................|
        0       HEADROOM - payload_offset  HEADROOM

The length prefix of a frame comes from the peer, so it must not make this end allocate at will. It is accepted only up
to ``frame_max_bytes``, which is small until the peer is authenticated. A large frame gets its memory only with the
receive after the one that brought its prefix: a peer that sends only prefixes costs nothing.
"""

import struct
from typing import Final

from meshfs.buffers import (
    FRAMING_BYTES,
    HEADROOM_BYTES,
    PAGE_BYTES,
    RECEIVE_MEMORY_BYTES,
    SMALL_FRAME_MAX_BYTES,
    Account,
    Buffer,
    BufferPool,
    Frame,
)
from meshfs.errors import RemoteProtocolError

#: A zero byte, and the length of the message in 24 bits, big-endian.
_PREFIX: Final = struct.Struct(">I")
PREFIX_BYTES: Final = _PREFIX.size
assert PREFIX_BYTES == FRAMING_BYTES, "the prefix fills the room in front of a message"
#: The length of the shortest message, which is the header of an encrypted message (MS-SMB2 2.2.41).
_FRAME_MIN_BYTES: Final = 52
#: The last page stays free, because decrypting in place puts an authentication tag after the last frame for a while.
_RECEIVE_BYTES: Final = RECEIVE_MEMORY_BYTES - PAGE_BYTES
#: After a large frame, another large one is likely. Receive little more than its header into the shared buffer, so that
#: the rest is received into its own memory without a copy.
_RECEIVE_BEFORE_LARGE_BYTES: Final = 512


#: (frame, 0, length of its message, which is below 2**24) -> None. Fills the room in front of the message.
pack_length: Final = _PREFIX.pack_into


class FrameReceiver:
    """Receives the frames of the direct TCP transport (MS-SMB2 2.1)."""

    def __init__(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> None:
        self._pool = pool
        #: The account that is charged for the memory of large frames.
        self.account: Account = pool.account
        self._payload_offset = payload_offset
        #: The longest frame that is accepted. It is raised once the peer is authenticated.
        self.frame_max_bytes = frame_max_bytes
        #: The shared buffer. An idle connection has none, so that it holds no memory.
        self._memory: memoryview | None = None
        self._start = 0
        self._end = 0
        self._large: Buffer | None = None
        #: The length of a large frame whose prefix was received and which has no memory yet, or 0.
        self._announced = 0
        self._large_length = 0
        self._large_filled = 0
        #: The number of large frames so far, by which one is told from the next.
        self._large_number = 0
        self._expect_large = False
        self._lent: list[Frame] = []

    def get_buffer(self) -> memoryview:
        """Return the memory for the next bytes, which is never empty. All frames that were not taken become invalid."""
        if self._lent:
            self._recycle()
        if self._announced:
            self._begin_large()
        if self._large is not None:
            start = HEADROOM_BYTES - self._payload_offset
            return self._large.view[start + self._large_filled : start + self._large_length]
        memory, start, end = self._memory, self._start, self._end
        if memory is None:
            memory = self._memory = self._pool.take_receive_memory()
        if start == end:
            self._start = self._end = start = end = 0
        elif start:
            rest = bytes(memory[start:end])
            memory[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
            end = len(rest)
        if self._expect_large:
            return memory[end : end + _RECEIVE_BEFORE_LARGE_BYTES]
        return memory[end:_RECEIVE_BYTES]

    def rest(self) -> None:
        """Return the shared buffer to the pool if it is empty.

        The caller has received nothing for a while, and handles no frame.
        """
        if self._memory is not None and self._start == self._end and not self._announced:
            self._give_memory()

    def _give_memory(self) -> None:
        if self._memory is not None:
            self._recycle()
            self._pool.give_receive_memory(self._memory)
            self._memory = None

    @property
    def missing_bytes(self) -> int:
        """Return the bytes that a partly received large frame still needs, or 0 without such a frame."""
        if self._announced:
            return self._announced - (self._end - self._start)
        return 0 if self._large is None else self._large_length - self._large_filled

    @property
    def large_progress(self) -> tuple[int, int] | None:
        """Return the number of the partly received large frame and its received bytes, or None without such a frame."""
        return None if self._large is None else (self._large_number, self._large_filled)

    @property
    def holds_large(self) -> bool:
        """Return whether a large frame that is partly received, or not handled yet, holds memory.

        Such a connection must be allowed to continue, because that returns the memory.
        """
        if self._large is not None:
            return True
        return any(frame.buffer is not None and len(frame.view) > SMALL_FRAME_MAX_BYTES for frame in self._lent)

    def received(self, count: int) -> list[Frame]:
        """Take the ``count`` bytes that were received into ``get_buffer()``, and return the frames that are complete.

        Raises RemoteProtocolError if the length in a prefix is too small or too large.
        """
        frames: list[Frame] = []
        large = self._large
        if large is not None:
            self._large_filled += count
            if self._large_filled == self._large_length:
                self._large = None
                self._expect_large = True
                start = HEADROOM_BYTES - self._payload_offset
                frame = Frame(large.view, start, self._large_length, large)
                frames.append(frame)
                self._lent.append(frame)
            return frames
        self._end += count
        memory, start, end = self._memory, self._start, self._end
        assert memory is not None, "it was received into"
        while end - start >= PREFIX_BYTES:
            length = int.from_bytes(memory[start : start + PREFIX_BYTES], "big")
            if not _FRAME_MIN_BYTES <= length <= self.frame_max_bytes:
                raise RemoteProtocolError(
                    f"a frame of {length} bytes is announced, not {_FRAME_MIN_BYTES} to {self.frame_max_bytes}"
                )
            body = start + PREFIX_BYTES
            if end - body < length:
                if length > SMALL_FRAME_MAX_BYTES:
                    self._announced, start = length, body
                break
            frames.append(Frame(memory, body, length, None))
            start = body + length
        self._start = start
        if frames and not self._announced:
            self._expect_large = False
        return frames

    def _begin_large(self) -> None:
        """Get the memory of the next large frame, and copy its bytes from the shared buffer there."""
        length, self._announced = self._announced, 0
        buffer = self._pool.acquire(length, self.account)
        start, filled = HEADROOM_BYTES - self._payload_offset, self._end - self._start
        assert self._memory is not None, "the announcement lies there"
        buffer.view[start : start + filled] = self._memory[self._start : self._end]
        self._start = self._end = 0
        self._large, self._large_length, self._large_filled = buffer, length, filled
        self._large_number += 1

    def _recycle(self) -> None:
        for frame in self._lent:
            if frame.buffer is not None:
                frame.buffer.release()
                frame.buffer = None
        self._lent.clear()

    def lend(self, frame: Frame) -> None:
        """Add ``frame``, which was decrypted from another one, to the frames that the next ``get_buffer()`` ends."""
        self._lent.append(frame)

    def close(self) -> None:
        """Return all memory to the pool."""
        self._recycle()
        self._announced = 0
        self._give_memory()
        if self._large is not None:
            self._large.release()
            self._large = None
