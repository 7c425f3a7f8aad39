"""NEGOTIATE and its contexts (MS-SMB2 2.2.3, 2.2.4).

Layout of a context: type u16, length u16, reserved u32, data. Each context begins 8-byte aligned. There are contexts
only if dialect 3.1.1 is offered (request) or chosen (response). In any other message, the fields that describe the
contexts are reserved and ignored. Contexts that meshfs uses are parsed. Every other context becomes a `RawContext`.
"""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self, TypeVar

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES, Dialect
from meshfs.smb.constants import NegotiateContextType as ContextType
from meshfs.smb.messages.body import Body, block, encode, padding, text, unpack_fixed

_CONTEXT: Final = Struct("<HHI")
_PREAUTH: Final = Struct("<HH")
_COUNT: Final = Struct("<H")


def _u16_list(data: bytes, start: int, count: int, what: str) -> tuple[int, ...]:
    """Return ``count`` u16 from ``start``. Raises RemoteProtocolError if ``count`` is 0, or too large for the data."""
    if not 0 < count <= limits.NEGOTIATE_ALGORITHMS_MAX or start + 2 * count > len(data):
        raise RemoteProtocolError(f"{what}: a count of {count} is not possible in {len(data)} bytes of data")
    return tuple(Struct(f"<{count}H").unpack_from(data, start))


def _pack_u16_list(values: tuple[int, ...]) -> bytes:
    return Struct(f"<{len(values)}H").pack(*values)


@dataclass(frozen=True, slots=True)
class PreauthIntegrity:
    """Lists hash algorithms, as SMB2_PREAUTH_INTEGRITY_CAPABILITIES (2.2.3.1.1).

    Layout: count, salt length, hashes (u16), salt.
    """

    TYPE: ClassVar[int] = ContextType.PREAUTH_INTEGRITY_CAPABILITIES
    hash_algorithms: tuple[int, ...]
    salt: bytes = b""

    def pack_data(self) -> bytes:
        head = _PREAUTH.pack(len(self.hash_algorithms), len(self.salt))
        return head + _pack_u16_list(self.hash_algorithms) + self.salt

    @classmethod
    def unpack_data(cls, data: bytes) -> Self:
        if len(data) < _PREAUTH.size:
            raise RemoteProtocolError("the preauthentication context is too short")
        count, salt_length = _PREAUTH.unpack_from(data)
        hashes = _u16_list(data, _PREAUTH.size, count, "preauthentication context")
        salt_start = _PREAUTH.size + 2 * count
        if salt_start + salt_length > len(data):
            raise RemoteProtocolError("preauthentication context: the salt reaches outside the context")
        return cls(hashes, data[salt_start : salt_start + salt_length])


@dataclass(frozen=True, slots=True)
class _Algorithms:
    """Packs a context that consists of a count and as many algorithms (u16). The preferred algorithm is first."""

    TYPE: ClassVar[int]
    algorithms: tuple[int, ...]

    def pack_data(self) -> bytes:
        return _COUNT.pack(len(self.algorithms)) + _pack_u16_list(self.algorithms)

    @classmethod
    def unpack_data(cls, data: bytes) -> Self:
        what = f"negotiate context {cls.TYPE}"
        if len(data) < _COUNT.size:
            raise RemoteProtocolError(f"{what} is too short")
        return cls(_u16_list(data, _COUNT.size, _COUNT.unpack_from(data)[0], what))


@dataclass(frozen=True, slots=True)
class Encryption(_Algorithms):
    """Lists ciphers, as SMB2_ENCRYPTION_CAPABILITIES (2.2.3.1.2).

    A response has one cipher, which is 0 if the ends have none in common.
    """

    TYPE: ClassVar[int] = ContextType.ENCRYPTION_CAPABILITIES


@dataclass(frozen=True, slots=True)
class Signing(_Algorithms):
    """Lists signing algorithms, as SMB2_SIGNING_CAPABILITIES (2.2.3.1.7)."""

    TYPE: ClassVar[int] = ContextType.SIGNING_CAPABILITIES


@dataclass(frozen=True, slots=True)
class NetName:
    """Holds the name by which the client addresses the server, as SMB2_NETNAME_NEGOTIATE_CONTEXT_ID (2.2.3.1.4)."""

    TYPE: ClassVar[int] = ContextType.NETNAME_NEGOTIATE_CONTEXT_ID
    name: str

    def pack_data(self) -> bytes:
        return encode(self.name, "net name context")

    @classmethod
    def unpack_data(cls, data: bytes) -> Self:
        return cls(text(data, "net name context").rstrip("\0"))


@dataclass(frozen=True, slots=True)
class RawContext:
    """Holds any other context, such as compression (3), transport (6), RDMA transform (7) or POSIX (0x100)."""

    type: int
    data: bytes

    def pack_data(self) -> bytes:
        return self.data


#: Each end sends this context of meshfs to promise that its nonces are unique (docs/security/nonces.md). An initiator
#: then binds each channel of a session with message ids that no other bind used. The nonces of encrypted messages have
#: a tag that names their channel. Other implementations ignore contexts that they do not know (3.3.5.4). The data
#: identifies the context, because another implementation could use the same type.
UNIQUE_NONCES: Final = RawContext(0x6D66, b"meshfs \xd2\x8c\x1f\x5e\x0b\xa3\x47\x96\x01")

NegotiateContext = PreauthIntegrity | Encryption | Signing | NetName | RawContext
_PARSED: Final[dict[int, type[PreauthIntegrity | Encryption | Signing | NetName]]] = {
    kind.TYPE: kind for kind in (PreauthIntegrity, Encryption, Signing, NetName)
}
_Kind = TypeVar("_Kind", PreauthIntegrity, Encryption, Signing, NetName)


def only_context(contexts: tuple[NegotiateContext, ...], kind: type[_Kind]) -> _Kind | None:
    """Return the context of this kind, or None. Raises RemoteProtocolError if there are two (3.3.5.4, 3.2.5.2)."""
    found = [context for context in contexts if isinstance(context, kind)]
    if len(found) > 1:
        raise RemoteProtocolError(f"NEGOTIATE: {len(found)} contexts of type {kind.TYPE}, expected at most one")
    return found[0] if found else None


def _pack_contexts(contexts: tuple[NegotiateContext, ...]) -> bytes:
    packed = bytearray()
    for context in contexts:
        packed += padding(len(packed))
        data = context.pack_data()
        kind = context.type if isinstance(context, RawContext) else context.TYPE
        packed += _CONTEXT.pack(kind, len(data), 0) + data
    return bytes(packed)


def _unpack_contexts(body: Body, offset: int, count: int, fixed_bytes: int) -> tuple[NegotiateContext, ...]:
    if count > limits.NEGOTIATE_CONTEXTS_MAX:
        raise RemoteProtocolError(f"NEGOTIATE: {count} contexts are more than allowed")
    contexts: list[NegotiateContext] = []
    for _ in range(count):
        kind, length, _reserved = _CONTEXT.unpack(block(body, offset, _CONTEXT.size, fixed_bytes, "negotiate context"))
        data = block(body, offset + _CONTEXT.size, length, fixed_bytes, f"negotiate context {kind}")
        parser = _PARSED.get(kind)
        contexts.append(parser.unpack_data(data) if parser else RawContext(kind, data))
        offset += _CONTEXT.size + length
        offset += -offset % 8
    return tuple(contexts)


@dataclass(frozen=True, slots=True)
class NegotiateRequest:
    """Offers the dialects and capabilities of the initiator (MS-SMB2 2.2.3).

    Layout: StructureSize 36, DialectCount, SecurityMode, reserved, Capabilities u32, ClientGuid, NegotiateContextOffset
    u32, NegotiateContextCount, reserved; then the dialects (u16) and, 8-byte aligned, the contexts.
    """

    dialects: tuple[int, ...]
    security_mode: int
    capabilities: int
    client_guid: bytes
    contexts: tuple[NegotiateContext, ...] = ()
    _LAYOUT: ClassVar[Struct] = Struct("<HHHHI16sIHH")

    def pack(self) -> bytes:
        dialects = _pack_u16_list(self.dialects)
        pad = padding(self._LAYOUT.size + len(dialects)) if self.contexts else b""
        offset = HEADER_BYTES + self._LAYOUT.size + len(dialects) + len(pad) if self.contexts else 0
        fixed = self._LAYOUT.pack(
            36,
            len(self.dialects),
            self.security_mode,
            0,
            self.capabilities,
            self.client_guid,
            offset,
            len(self.contexts),
            0,
        )
        return fixed + dialects + pad + _pack_contexts(self.contexts)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        """Unpack the request. The caller answers a request without dialects with INVALID_PARAMETER (3.3.5.4)."""
        count, mode, _, capabilities, guid, offset, context_count, _ = unpack_fixed(
            cls._LAYOUT, 36, body, "NEGOTIATE request"
        )
        if count > limits.NEGOTIATE_DIALECTS_MAX:
            raise RemoteProtocolError(f"NEGOTIATE request: {count} dialects are more than allowed")
        start = cls._LAYOUT.size
        packed = block(body, HEADER_BYTES + start, 2 * count, start, "NEGOTIATE dialects")
        dialects = tuple(Struct(f"<{count}H").unpack(packed))
        contexts: tuple[NegotiateContext, ...] = ()
        if Dialect.SMB_3_1_1 in dialects:
            contexts = _unpack_contexts(body, offset, context_count, start + 2 * count)
        return cls(dialects, mode, capabilities, guid, contexts)


@dataclass(frozen=True, slots=True)
class NegotiateResponse:
    """Gives the dialect that the exporter chose, and its limits (MS-SMB2 2.2.4).

    Layout: StructureSize 65, SecurityMode, DialectRevision, NegotiateContextCount, ServerGuid, Capabilities,
    MaxTransactSize, MaxReadSize, MaxWriteSize (u32), SystemTime, ServerStartTime (FILETIME), SecurityBufferOffset and
    Length u16, NegotiateContextOffset u32; then the security buffer and, 8-byte aligned, the contexts.
    """

    security_mode: int
    dialect: int
    server_guid: bytes
    capabilities: int
    max_transact_bytes: int
    max_read_bytes: int
    max_write_bytes: int
    system_time_filetime: int
    security_buffer: bytes = b""
    contexts: tuple[NegotiateContext, ...] = ()
    server_start_filetime: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHHH16sIIIIQQHHI")

    def pack(self) -> bytes:
        buffer_offset = HEADER_BYTES + self._LAYOUT.size
        pad = padding(len(self.security_buffer)) if self.contexts else b""
        context_offset = buffer_offset + len(self.security_buffer) + len(pad) if self.contexts else 0
        fixed = self._LAYOUT.pack(
            65,
            self.security_mode,
            self.dialect,
            len(self.contexts),
            self.server_guid,
            self.capabilities,
            self.max_transact_bytes,
            self.max_read_bytes,
            self.max_write_bytes,
            self.system_time_filetime,
            self.server_start_filetime,
            buffer_offset,
            len(self.security_buffer),
            context_offset,
        )
        return fixed + self.security_buffer + pad + _pack_contexts(self.contexts)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        mode, dialect, count, guid, *numbers, buffer_offset, buffer_length, context_offset = unpack_fixed(
            cls._LAYOUT, 65, body, "NEGOTIATE response"
        )
        capabilities, transact, read, write, now, start = numbers
        size = cls._LAYOUT.size
        buffer = block(body, buffer_offset, buffer_length, size, "NEGOTIATE security buffer")
        contexts: tuple[NegotiateContext, ...] = ()
        if dialect == Dialect.SMB_3_1_1:
            contexts = _unpack_contexts(body, context_offset, count, size)
        return cls(mode, dialect, guid, capabilities, transact, read, write, now, buffer, contexts, start)
