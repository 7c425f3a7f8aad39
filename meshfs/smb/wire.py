"""Pack and unpack the messages of the hot path by ``struct``: the header, and the READ and WRITE messages.

Header, 64 bytes (MS-SMB2 2.2.1.2, little-endian):

     0  ProtocolId      4s     20  NextCommand   I
     4  StructureSize   H 64   24  MessageId     Q
     6  CreditCharge    H      32  TreeId        II (Reserved, TreeId), or AsyncId Q
     8  Status          I      40  SessionId     Q
    12  Command         H      48  Signature     16s
    14  Credits         H
    16  Flags           I

In a request, the Status field holds ChannelSequence (H) and Reserved (H). Bodies:

    READ request      49 bytes           (2.2.19)   size 49, padding, flags, length, offset, file id (persistent,
                                                    volatile), minimum count, channel, remaining bytes, channel info
                                                    offset and length, one byte of buffer
    READ response     16 bytes and data  (2.2.20)   size 17, data offset, reserved, data length, remaining, reserved
    WRITE request     48 bytes and data  (2.2.21)   size 49, data offset, length, offset, file id, channel, remaining,
                                                    channel info offset and length, flags
    WRITE response    16 bytes           (2.2.22)   size 17, reserved, count, remaining, channel info
"""

import struct
from typing import Final

from meshfs.buffers import FRAMING_BYTES
from meshfs.smb.constants import HEADER_BYTES

HEADER: Final = struct.Struct("<4sHHIHHIIQQQ16s")
HEADER_SYNC: Final = struct.Struct("<4sHHIHHIIQIIQ16s")
READ_REQUEST: Final = struct.Struct("<HBBIQQQIIIHHB")
READ_RESPONSE: Final = struct.Struct("<HBBIII")
WRITE_REQUEST: Final = struct.Struct("<HHIQQQIIHHI")
WRITE_RESPONSE: Final = struct.Struct("<HHIIHH")

READ_REQUEST_BYTES: Final = HEADER_BYTES + READ_REQUEST.size
#: The offset of the data in a READ response that meshfs sends, from the start of the message.
READ_DATA_OFFSET: Final = HEADER_BYTES + READ_RESPONSE.size
#: The offset of the data in a WRITE request that meshfs sends, from the start of the message.
WRITE_DATA_OFFSET: Final = HEADER_BYTES + WRITE_REQUEST.size

_NO_SIGNATURE: Final = bytes(16)
_PROTOCOL: Final = b"\xfeSMB"

#: Each of these packs header and body in one call, because these four messages are the hot path.
_READ_REQUEST_MESSAGE: Final = struct.Struct("<4sHHIHHIIQIIQ16s" + "HBBIQQQIIIHHB")
_READ_RESPONSE_MESSAGE: Final = struct.Struct("<4sHHIHHIIQIIQ16s" + "HBBIII")
_WRITE_REQUEST_MESSAGE: Final = struct.Struct("<4sHHIHHIIQIIQ16s" + "HHIQQQIIHHI")
_WRITE_RESPONSE_MESSAGE: Final = struct.Struct("<4sHHIHHIIQIIQ16s" + "HHIIHH")
#: The bytes of a frame without its data: the room for the transport's framing, header and body.
READ_REQUEST_FRAME_BYTES: Final = FRAMING_BYTES + _READ_REQUEST_MESSAGE.size
READ_RESPONSE_FRAME_BYTES: Final = FRAMING_BYTES + _READ_RESPONSE_MESSAGE.size
WRITE_REQUEST_FRAME_BYTES: Final = FRAMING_BYTES + _WRITE_REQUEST_MESSAGE.size
WRITE_RESPONSE_FRAME_BYTES: Final = FRAMING_BYTES + _WRITE_RESPONSE_MESSAGE.size
assert READ_RESPONSE_FRAME_BYTES == FRAMING_BYTES + READ_DATA_OFFSET

_READ, _WRITE = 8, 9
_RESPONSE = 0x00000001


def pack_header(
    command: int,
    *,
    status: int = 0,
    flags: int = 0,
    credits: int = 0,
    credit_charge: int = 0,
    message_id: int = 0,
    tree_id: int = 0,
    async_id: int | None = None,
    session_id: int = 0,
    next_command: int = 0,
) -> bytes:
    """Return a header with an empty signature. If ``async_id`` is given, it takes the place of the tree id."""
    tail = tree_id << 32 if async_id is None else async_id
    return HEADER.pack(
        _PROTOCOL, 64, credit_charge, status, command, credits, flags, next_command, message_id, tail,
        session_id, _NO_SIGNATURE,
    )  # fmt: skip


def pack_read_request_frame(
    frame: bytearray,
    length: int,
    offset: int,
    persistent: int,
    volatile: int,
    *,
    flags: int,
    credits: int,
    credit_charge: int,
    channel_sequence: int,
    message_id: int,
    tree_id: int,
    session_id: int,
) -> None:
    """Pack a READ request with an empty signature into ``frame``, behind the room for the framing."""
    _READ_REQUEST_MESSAGE.pack_into(
        frame, FRAMING_BYTES, _PROTOCOL, 64, credit_charge, channel_sequence, _READ, credits, flags, 0,
        message_id, 0, tree_id, session_id, _NO_SIGNATURE,
        49, READ_DATA_OFFSET, 0, length, offset, persistent, volatile, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def pack_write_request_frame(
    frame: bytearray | memoryview,
    length: int,
    offset: int,
    persistent: int,
    volatile: int,
    *,
    flags: int,
    credits: int,
    credit_charge: int,
    channel_sequence: int,
    message_id: int,
    tree_id: int,
    session_id: int,
    write_flags: int,
) -> None:
    """Pack a WRITE request with an empty signature into ``frame``. Its ``length`` bytes of data follow the frame."""
    _WRITE_REQUEST_MESSAGE.pack_into(
        frame, FRAMING_BYTES, _PROTOCOL, 64, credit_charge, channel_sequence, _WRITE,
        credits, flags, 0, message_id, 0, tree_id, session_id, _NO_SIGNATURE,
        49, WRITE_DATA_OFFSET, length, offset, persistent, volatile, 0, 0, 0, 0, write_flags,
    )  # fmt: skip


def pack_read_response_frame(
    memory: memoryview,
    start: int,
    length: int,
    *,
    flags: int,
    credits: int,
    credit_charge: int,
    message_id: int,
    tree_id: int,
    session_id: int,
) -> None:
    """Pack header and body of a READ response into the frame at ``memory[start:]``, where its data follows them."""
    _READ_RESPONSE_MESSAGE.pack_into(
        memory, start + FRAMING_BYTES, _PROTOCOL, 64, credit_charge, 0, _READ, credits,
        flags | _RESPONSE, 0, message_id, 0, tree_id, session_id, _NO_SIGNATURE,
        17, READ_DATA_OFFSET, 0, length, 0, 0,
    )  # fmt: skip


def pack_write_response_frame(
    frame: bytearray,
    count: int,
    *,
    flags: int,
    credits: int,
    credit_charge: int,
    message_id: int,
    tree_id: int,
    session_id: int,
) -> None:
    """Pack a WRITE response with an empty signature into ``frame``, behind the room for the framing."""
    _WRITE_RESPONSE_MESSAGE.pack_into(
        frame, FRAMING_BYTES, _PROTOCOL, 64, credit_charge, 0, _WRITE, credits, flags | _RESPONSE, 0,
        message_id, 0, tree_id, session_id, _NO_SIGNATURE,
        17, 0, count, 0, 0, 0,
    )  # fmt: skip
