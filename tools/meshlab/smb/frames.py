"""Split an SMB stream into frames, and frames into messages, for an observer that changes nothing.

frame     0, length (24 bits, big-endian), then one message, a compound, or an encrypted frame (MS-SMB2 2.1)
message   a 64-byte header and its body (2.2.1)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PREFIX_BYTES: Final = 4
HEADER_BYTES: Final = 64
_PROTOCOL: Final = b"\xfeSMB"
# ProtocolId, StructureSize, CreditCharge, ChannelSequence and Reserved or Status, Command, Credits, Flags,
# NextCommand, MessageId, Reserved and TreeId or AsyncId, SessionId; the signature follows.
_HEADER: Final = struct.Struct("<4sHHIHHIIQQQ")
_RESPONSE: Final = 0x1
_REPLAY: Final = 0x20000000
_WRITE: Final = 9
# StructureSize, DataOffset, Length, Offset of a WRITE request (2.2.21).
_WRITE_HEAD: Final = struct.Struct("<HHIQ")


@dataclass(frozen=True, slots=True)
class Message:
    """Describes one SMB2 message, a request or a response. `bytes` is the whole message with its header."""

    command: int
    message_id: int
    session_id: int
    flags: int
    #: Status of a response; ChannelSequence in the low 16 bits of a request.
    status: int
    bytes: bytes

    @property
    def is_response(self) -> bool:
        return bool(self.flags & _RESPONSE)

    @property
    def is_replay(self) -> bool:
        return bool(self.flags & _REPLAY)

    @property
    def channel_sequence(self) -> int:
        return self.status & 0xFFFF

    def is_write(self, offset: int | None = None) -> bool:
        """Return whether the message is a WRITE request, and has this offset if one is given."""
        if self.command != _WRITE or self.is_response or len(self.bytes) < HEADER_BYTES + _WRITE_HEAD.size:
            return False
        return offset is None or bool(_WRITE_HEAD.unpack_from(self.bytes, HEADER_BYTES)[3] == offset)


def prefix(length: int) -> bytes:
    """Return what goes before a message of that length, which is below 2**24."""
    return length.to_bytes(PREFIX_BYTES, "big")


def messages(frame: bytes) -> Iterator[Message]:
    """Return the messages of a frame with its prefix; none if it is encrypted, compressed, or not SMB2."""
    start = PREFIX_BYTES
    while frame[start : start + 4] == _PROTOCOL and start + HEADER_BYTES <= len(frame):
        _, _, _, status, command, _, flags, following, message_id, _, session_id = _HEADER.unpack_from(frame, start)
        end = start + following if following else len(frame)
        yield Message(command, message_id, session_id, flags, status, frame[start:end])
        if not following:
            return
        start = end


class FrameSplitter:
    """Takes bytes of a stream and returns whole frames with their prefixes. The frames joined are the stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._bytes += data
        frames = []
        start = 0
        while len(self._bytes) - start >= PREFIX_BYTES:
            end = start + PREFIX_BYTES + int.from_bytes(self._bytes[start + 1 : start + PREFIX_BYTES])
            if len(self._bytes) < end:
                break
            frames.append(bytes(self._bytes[start:end]))
            start = end
        del self._bytes[:start]
        return frames

    @property
    def rest(self) -> bytes:
        """Return the bytes of a frame whose end has not arrived yet."""
        return bytes(self._bytes)
