"""A connection that takes bytes, for ends without a transport."""

from collections.abc import Sequence

from meshfs import limits
from meshfs.buffers import FRAMING_BYTES, BufferPool
from meshfs.smb.connection import PAYLOAD_OFFSETS, Connection, Message, Role
from meshfs.smb.security import ChannelSecurity
from meshfs.transport.framing import FrameReceiver, pack_length


class ByteConnection(Connection):
    """Splits received bytes into messages. Receive into ``get_buffer()``, then call `received` for whole messages."""

    def __init__(self, role: Role, pool: BufferPool, frame_max_bytes: int = limits.FRAME_MAX_BYTES) -> None:
        self.frames = FrameReceiver(pool, PAYLOAD_OFFSETS[role], frame_max_bytes)
        super().__init__(role, pool, self.frames)
        self.get_buffer = self.frames.get_buffer

    def received(self, count: int) -> list[Message]:
        return [self.parse(frame) for frame in self.frames.received(count)]

    def protect(
        self, messages: Sequence[bytearray], sign: ChannelSecurity | None, seal: ChannelSecurity | None
    ) -> bytearray | memoryview:
        """Return a frame with its length in front, as a transport would send it."""
        frame = super().protect(messages, sign, seal)
        pack_length(frame, 0, len(frame) - FRAMING_BYTES)
        return frame

    def close(self) -> None:
        self.frames.close()
