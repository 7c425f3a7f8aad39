"""SESSION_SETUP, LOGOFF, ECHO, CANCEL and the ERROR response (MS-SMB2 2.2.2, 2.2.5 to 2.2.8, 2.2.28 to 2.2.30)."""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from meshfs.smb.constants import HEADER_BYTES
from meshfs.smb.messages.body import Body, Empty, block, request_tail, unpack_fixed

# ErrorDataLength, ErrorId (2.2.2.1)
_ERROR_CONTEXT: Final = Struct("<II")


@dataclass(frozen=True, slots=True)
class SessionSetupRequest:
    """Asks for a login or for one more step of a login (MS-SMB2 2.2.5).

    Layout: StructureSize 25, Flags u8, SecurityMode u8, Capabilities u32, Channel u32, SecurityBufferOffset and Length
    u16, PreviousSessionId u64; then the token.
    """

    flags: int
    security_mode: int
    capabilities: int
    security_buffer: bytes
    previous_session_id: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIIHHQ")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(
            25,
            self.flags,
            self.security_mode,
            self.capabilities,
            0,
            HEADER_BYTES + self._LAYOUT.size,
            len(self.security_buffer),
            self.previous_session_id,
        )
        return fixed + request_tail(self.security_buffer)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, mode, capabilities, _channel, offset, length, previous = unpack_fixed(
            cls._LAYOUT, 25, body, "SESSION_SETUP request"
        )
        token = block(body, offset, length, cls._LAYOUT.size, "SESSION_SETUP token")
        return cls(flags, mode, capabilities, token, previous)


@dataclass(frozen=True, slots=True)
class SessionSetupResponse:
    """Gives the exporter's token of a login (MS-SMB2 2.2.6).

    Layout: StructureSize 9, SessionFlags, SecurityBufferOffset, SecurityBufferLength (u16); then the token.
    """

    session_flags: int
    security_buffer: bytes = b""
    _LAYOUT: ClassVar[Struct] = Struct("<HHHH")

    def pack(self) -> bytes:
        offset = HEADER_BYTES + self._LAYOUT.size
        return self._LAYOUT.pack(9, self.session_flags, offset, len(self.security_buffer)) + self.security_buffer

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, offset, length = unpack_fixed(cls._LAYOUT, 9, body, "SESSION_SETUP response")
        return cls(flags, block(body, offset, length, cls._LAYOUT.size, "SESSION_SETUP token"))


@dataclass(frozen=True, slots=True)
class LogoffRequest(Empty):
    """Asks to end a session (MS-SMB2 2.2.7). It has no fields."""

    @classmethod
    def unpack(cls, body: Body) -> Self:
        cls.check(body)
        return cls()


@dataclass(frozen=True, slots=True)
class LogoffResponse(LogoffRequest):
    """Confirms the end of a session (MS-SMB2 2.2.8). It has no fields."""


@dataclass(frozen=True, slots=True)
class EchoRequest(LogoffRequest):
    """Asks for an ECHO response, which shows that the exporter answers (MS-SMB2 2.2.28). It has no fields."""


@dataclass(frozen=True, slots=True)
class EchoResponse(LogoffRequest):
    """Answers an ECHO request (MS-SMB2 2.2.29). It has no fields."""


@dataclass(frozen=True, slots=True)
class CancelRequest(LogoffRequest):
    """Asks to cancel the request that MessageId or AsyncId in the header names (MS-SMB2 2.2.30). It has no fields."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """Answers a request that failed (MS-SMB2 2.2.2). The header has the status.

    Layout: StructureSize 9, ErrorContextCount u8, reserved, ByteCount u32; then the data. If there is no data, one zero
    byte takes its place. Contexts (only in 3.1.1) stay packed in ``data``.
    """

    data: bytes = b""
    context_count: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HBBI")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(9, self.context_count, 0, len(self.data)) + (self.data or b"\0")

    @classmethod
    def unpack(cls, body: Body) -> Self:
        contexts, _, length = unpack_fixed(cls._LAYOUT, 9, body, "ERROR response")
        data = block(body, HEADER_BYTES + cls._LAYOUT.size, length, cls._LAYOUT.size, "ERROR data")
        return cls(data, contexts)

    @classmethod
    def with_context(cls, data: bytes) -> Self:
        """Return a response with error data as dialect 3.1.1 requires it: one context of the default kind (2.2.2.1)."""
        return cls(_ERROR_CONTEXT.pack(len(data), 0) + data, 1)
