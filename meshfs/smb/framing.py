"""Stream to frames: where the next bytes go, and which frames are whole. Without I/O.

The caller receives into ``get_buffer()`` and tells how many bytes came by ``received(n)``:

    small frames   arrive in one receive buffer, many per call; their views are valid until
                   the next ``get_buffer()``
    large frames   get pooled memory of their own, placed so that the payload of a READ
                   response or WRITE request lands page-aligned at ``HEADROOM_BYTES``:

        |.......|message header and body|payload ...................|
        0       HEADROOM - payload_offset  HEADROOM

Memory is taken for what a frame's prefix announces only within ``frame_max_bytes``, which
stays small until the peer is authenticated, and only when more of the frame came: an announcement alone costs nothing.
"""

from typing import Final

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, PAGE_BYTES, RECEIVE_MEMORY_BYTES, Account, Buffer, BufferPool
from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import PREFIX_BYTES, TRANSFORM_HEADER_BYTES

#: Frames up to this size arrive in the receive buffer; copying their payload is cheap.
SMALL_FRAME_MAX_BYTES: Final = 32 * limits.KIB
#: Room is left behind the last frame, which ``security.Opener`` borrows for an authentication tag.
_RECEIVE_BYTES: Final = RECEIVE_MEMORY_BYTES - PAGE_BYTES
#: After a large frame another is likely: read little more than its header into the receive
#: buffer, the rest goes straight to its own memory.
_RECEIVE_BEFORE_LARGE_BYTES: Final = 512


class Frame:
    """One SMB2 message or compound, or one transformed message; without the length prefix."""

    __slots__ = ("buffer", "memory", "start", "view")

    def __init__(self, memory: memoryview, start: int, length: int, buffer: Buffer | None) -> None:
        #: All memory around the frame; ``view`` is ``memory[start:start + length]``.
        self.memory = memory
        self.start = start
        self.view = memory[start : start + length]
        #: Memory of its own, or None when the frame lies in the shared receive buffer.
        self.buffer = buffer

    def take(self) -> Buffer | None:
        """Become the owner of the frame's memory (to release it), if it has its own."""
        buffer, self.buffer = self.buffer, None
        return buffer


class FrameReceiver:
    """The receiving half of direct TCP transport (MS-SMB2 2.1)."""

    def __init__(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> None:
        self._pool = pool
        #: Who holds the memory of large frames.
        self.account: Account = pool.account
        self._payload_offset = payload_offset
        #: Longest frame accepted; raised once the peer is authenticated.
        self.frame_max_bytes = frame_max_bytes
        #: None while nothing of a small frame is here: a connection that is idle holds no memory.
        self._memory: memoryview | None = None
        self._start = 0
        self._end = 0
        self._large: Buffer | None = None
        #: Of a large frame that was announced, and has no memory yet; else 0.
        self._announced = 0
        self._large_length = 0
        self._large_filled = 0
        #: Counts large frames, to tell one from the next.
        self._large_number = 0
        self._expect_large = False
        self._lent: list[Frame] = []

    def get_buffer(self) -> memoryview:
        """Memory for the next bytes (never empty). Ends the life of all frames not taken."""
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
        """Nothing came for a while and no frame is being handled: give the receive memory back if it is empty."""
        if self._memory is not None and self._start == self._end and not self._announced:
            self._give_memory()

    def _give_memory(self) -> None:
        if self._memory is not None:
            self._recycle()
            self._pool.give_receive_memory(self._memory)
            self._memory = None

    @property
    def missing_bytes(self) -> int:
        """What the large frame under way still needs; 0 when there is none."""
        if self._announced:
            return self._announced - (self._end - self._start)
        return 0 if self._large is None else self._large_length - self._large_filled

    @property
    def large_progress(self) -> tuple[int, int] | None:
        """The number of the large frame that is being received, and how many bytes of it are there."""
        return None if self._large is None else (self._large_number, self._large_filled)

    @property
    def holds_large(self) -> bool:
        """Whether large frames have memory here: one that is being received, or such as are not handled yet.

        To go on with those gives their memory back.
        """
        if self._large is not None:
            return True
        return any(frame.buffer is not None and len(frame.view) > SMALL_FRAME_MAX_BYTES for frame in self._lent)

    def received(self, count: int) -> list[Frame]:
        """``count`` bytes were written to ``get_buffer()``: the frames that are whole now.

        Raises RemoteProtocolError for a prefix that announces no acceptable frame.
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
            if not TRANSFORM_HEADER_BYTES <= length <= self.frame_max_bytes:
                raise RemoteProtocolError(
                    f"frame of {length} bytes announced, expected {TRANSFORM_HEADER_BYTES} to {self.frame_max_bytes}"
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
        """Take memory for the large frame that was announced, and move what came of it there."""
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
        """Let ``frame``, made from another one (decrypted), end with the others."""
        self._lent.append(frame)

    def close(self) -> None:
        """Give all memory back."""
        self._recycle()
        self._announced = 0
        self._give_memory()
        if self._large is not None:
            self._large.release()
            self._large = None
