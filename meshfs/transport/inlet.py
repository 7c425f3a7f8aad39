"""Receives over a stream. Gets memory, receives into it, and splits the received bytes into messages."""

import errno

from meshfs.buffers import BufferPool, Frame
from meshfs.transport.base import EndOfStream
from meshfs.transport.byte_stream import ByteStream
from meshfs.transport.framing import FrameReceiver


class StreamInlet(FrameReceiver):
    """Receives the messages of a transport that carries a stream, in which each message has its length in front."""

    def __init__(self, stream: ByteStream, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> None:
        super().__init__(pool, payload_offset, frame_max_bytes)
        self.received_bytes = 0
        self.is_drained = False
        self._stream = stream

    def receive(self, most_bytes: int | None = None) -> list[Frame]:
        """Do what `meshfs.transport.base.Inlet.receive` says."""
        memory = self.get_buffer()
        if most_bytes is not None and len(memory) > most_bytes:
            memory = memory[:most_bytes]
        count = self._stream.receive_into(memory)
        if not count:
            raise EndOfStream(errno.ECONNRESET, "closed by the peer")
        self.received_bytes += count
        self.is_drained = count < len(memory)
        return self.received(count)
