"""Bodies of requests, and replies, as tests and attackers send and see them."""

from dataclasses import dataclass

from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import (
    HEADER_BYTES,
    AccessMask,
    ShareAccess,
)
from meshfs.smb.messages import (
    CreateResponse,
)
from meshfs.smb.wire import READ_REQUEST, WRITE_REQUEST
from meshlab.smb.frames import prefix

SHARE_ALL = int(ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE)
READ_WRITE = int(AccessMask.READ_DATA | AccessMask.WRITE_DATA)


@dataclass(frozen=True)
class Reply:
    """Describes one reply. ``view`` is a copy of its header and body."""

    message_id: int
    command: int
    status: int
    flags: int
    credits: int
    tree_id: int
    async_id: int
    session_id: int
    protection: Protection
    view: bytes

    @property
    def body(self) -> bytes:
        return self.view[HEADER_BYTES:]

    @property
    def data(self) -> bytes:
        """Return the data of a READ response."""
        start, length = self.view[66], int.from_bytes(self.view[68:72], "little")
        return self.view[start : start + length]


def reply_of(message: Message) -> Reply:
    """Return a copy of a received message."""
    return Reply(
        message.message_id,
        message.command,
        message.status,
        message.flags,
        message.credits,
        message.tree_id,
        message.async_id,
        message.session_id,
        message.protection,
        bytes(message.view),
    )


def file_id_of(reply: Reply) -> int:
    """Return the file id in the reply to a CREATE that succeeded."""
    assert not reply.status, f"CREATE: 0x{reply.status:08x}"
    return CreateResponse.unpack(reply.body).file_id.volatile


def read_body(file_id: int, offset: int, length: int, *, minimum: int = 0, channel: int = 0) -> bytes:
    return READ_REQUEST.pack(49, 80, 0, length, offset, file_id, file_id, minimum, channel, 0, 0, 0, 0)


def write_body(file_id: int, offset: int, data: bytes, *, flags: int = 0) -> bytes:
    return WRITE_REQUEST.pack(49, 112, len(data), offset, file_id, file_id, 0, 0, 0, 0, flags) + data


def framed(message: bytes) -> bytes:
    return prefix(len(message)) + message
