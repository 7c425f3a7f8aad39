"""The hand-packed messages against smbprotocol's structures, field by field."""

from smbprotocol.header import SMB2HeaderRequest, SMB2HeaderResponse
from smbprotocol.open import SMB2ReadRequest, SMB2ReadResponse, SMB2WriteRequest, SMB2WriteResponse

from meshfs.buffers import FRAMING_BYTES
from meshfs.smb import wire

COMMON = {"flags": 8, "credits": 12, "credit_charge": 3, "message_id": 77, "tree_id": 5, "session_id": 1 << 60}


def header_of(frame: bytes | bytearray | memoryview, kind: type) -> object:
    frame = bytes(frame)
    assert frame[:FRAMING_BYTES] == bytes(FRAMING_BYTES), "the room for the framing is left alone"
    header = kind()
    header.unpack(frame[FRAMING_BYTES:])
    assert header["message_id"].get_value() == 77
    assert header["tree_id"].get_value() == 5
    assert header["session_id"].get_value() == 1 << 60
    assert header["credit_charge"].get_value() == 3
    return header


def test_read_request() -> None:
    frame = bytearray(wire.READ_REQUEST_FRAME_BYTES)
    wire.pack_read_request_frame(frame, 4096, 1 << 40, 11, 22, channel_sequence=6, **COMMON)
    header = header_of(frame, SMB2HeaderRequest)
    assert header["channel_sequence"].get_value() == 6
    assert header["credit_request"].get_value() == 12
    read = SMB2ReadRequest()
    read.unpack(header["data"].get_value())
    assert read["length"].get_value() == 4096
    assert read["offset"].get_value() == 1 << 40
    assert read["file_id"].get_value() == (11).to_bytes(8, "little") + (22).to_bytes(8, "little")


def test_write_request() -> None:
    frame = bytearray(wire.WRITE_REQUEST_FRAME_BYTES)
    wire.pack_write_request_frame(frame, 5, 1 << 40, 11, 22, channel_sequence=6, write_flags=1, **COMMON)
    header = header_of(frame + b"hello", SMB2HeaderRequest)
    write = SMB2WriteRequest()
    write.unpack(header["data"].get_value())
    assert write["buffer"].get_value() == b"hello"
    assert write["offset"].get_value() == 1 << 40
    assert write["file_id"].get_value() == (11).to_bytes(8, "little") + (22).to_bytes(8, "little")
    assert write["flags"].get_value() == 1


def test_read_response() -> None:
    memory = memoryview(bytearray(4096 + 5))
    memory[4096:] = b"hello"
    start = 4096 - wire.READ_RESPONSE_FRAME_BYTES
    wire.pack_read_response_frame(memory, start, 5, **COMMON)
    header = header_of(memory[start:], SMB2HeaderResponse)
    read = SMB2ReadResponse()
    read.unpack(header["data"].get_value())
    assert read["buffer"].get_value() == b"hello"


def test_write_response() -> None:
    frame = bytearray(wire.WRITE_RESPONSE_FRAME_BYTES)
    wire.pack_write_response_frame(frame, 1 << 20, **COMMON)
    header = header_of(frame, SMB2HeaderResponse)
    write = SMB2WriteResponse()
    write.unpack(header["data"].get_value())
    assert write["count"].get_value() == 1 << 20
