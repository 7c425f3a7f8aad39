"""CREATE, CLOSE, FLUSH, LOCK and OPLOCK_BREAK (MS-SMB2 2.2.13 to 2.2.18, 2.2.23 to 2.2.27).

READ and WRITE are in `meshfs.smb.wire`, because they are the hot path.
"""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES, ImpersonationLevel, OplockLevel
from meshfs.smb.messages.body import (
    Body,
    Empty,
    FileId,
    block,
    encode,
    padding,
    request_tail,
    text,
    unpack_fixed,
)

# A create context is its name (4 letters, or a GUID) and its data.
CreateContext = tuple[bytes, bytes]
_CONTEXT: Final = Struct("<IHHHHI")


def pack_create_contexts(contexts: tuple[CreateContext, ...]) -> bytes:
    """Pack the chain of MS-SMB2 2.2.13.2.

    Layout of an element: Next u32, NameOffset, NameLength, reserved, DataOffset (u16), DataLength u32; then name and
    data, each 8-byte aligned. Next is 0 in the last element.
    """
    chain = bytearray()
    for index, (name, data) in enumerate(contexts):
        name_end = _CONTEXT.size + len(name)
        pad = padding(name_end) if data else b""
        data_offset = name_end + len(pad) if data else 0
        size = name_end + len(pad) + len(data)
        last = index == len(contexts) - 1
        gap = b"" if last else padding(size)
        following = 0 if last else size + len(gap)
        chain += _CONTEXT.pack(following, _CONTEXT.size, len(name), 0, data_offset, len(data))
        chain += name + pad + data + gap
    return bytes(chain)


def unpack_create_contexts(chain: Body) -> tuple[CreateContext, ...]:
    """Return the contexts of a chain in their order.

    Raises RemoteProtocolError if a part reaches outside its element, or for more than CREATE_CONTEXTS_MAX contexts.
    """
    contexts: list[CreateContext] = []
    view, start = memoryview(chain), 0
    while chain:
        element = view[start:]
        if len(element) < _CONTEXT.size:
            raise RemoteProtocolError("a create context reaches outside the chain")
        following, name_offset, name_length, _, data_offset, data_length = _CONTEXT.unpack_from(element)
        if following:
            if following < _CONTEXT.size or following > len(element):
                raise RemoteProtocolError(f"create context: Next is {following}, which is outside the chain")
            element = element[:following]
        name = _context_part(element, name_offset, name_length)
        contexts.append((name, _context_part(element, data_offset, data_length)))
        if len(contexts) > limits.CREATE_CONTEXTS_MAX:
            raise RemoteProtocolError(f"CREATE has more than {limits.CREATE_CONTEXTS_MAX} contexts")
        if not following:
            break
        start += following
    return tuple(contexts)


def _context_part(element: memoryview, offset: int, length: int) -> bytes:
    if length and (offset < _CONTEXT.size or offset + length > len(element)):
        raise RemoteProtocolError("a part of a create context reaches outside its element")
    return bytes(element[offset : offset + length]) if length else b""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Asks for an open of a file, which may be created (MS-SMB2 2.2.13).

    Layout: StructureSize 57, SecurityFlags u8, RequestedOplockLevel u8, ImpersonationLevel u32, SmbCreateFlags u64,
    reserved u64, DesiredAccess, FileAttributes, ShareAccess, CreateDisposition, CreateOptions (u32), NameOffset and
    Length u16, CreateContextsOffset and Length u32; then the name and, 8-byte aligned, the contexts.
    """

    name: str
    desired_access: int
    share_access: int
    disposition: int
    options: int = 0
    file_attributes: int = 0
    contexts: tuple[CreateContext, ...] = ()
    oplock_level: int = OplockLevel.NONE
    impersonation: int = ImpersonationLevel.IMPERSONATION
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIQQIIIIIHHII")

    def pack(self) -> bytes:
        name = encode(self.name, "file name")
        chain = pack_create_contexts(self.contexts)
        pad = padding(len(name)) if chain else b""
        name_offset = HEADER_BYTES + self._LAYOUT.size
        fixed = self._LAYOUT.pack(
            57,
            0,
            self.oplock_level,
            self.impersonation,
            0,
            0,
            self.desired_access,
            self.file_attributes,
            self.share_access,
            self.disposition,
            self.options,
            name_offset,
            len(name),
            name_offset + len(name) + len(pad) if chain else 0,
            len(chain),
        )
        return fixed + request_tail(name + pad + chain)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        _, oplock, impersonation, _, _, *rest = unpack_fixed(cls._LAYOUT, 57, body, "CREATE request")
        access, attributes, share, disposition, options, *blocks = rest
        name_offset, name_length, chain_offset, chain_length = blocks
        size = cls._LAYOUT.size
        name = text(block(body, name_offset, name_length, size, "CREATE name"), "CREATE name")
        chain = block(body, chain_offset, chain_length, size, "CREATE contexts")
        contexts = unpack_create_contexts(chain)
        return cls(name, access, share, disposition, options, attributes, contexts, oplock, impersonation)

    def context(self, name: bytes) -> bytes | None:
        """Return the data of the first context with this name, or None if there is none."""
        return next((data for found, data in self.contexts if found == name), None)


#: The time from 1601-01-01 to 1970-01-01 in units of 100 ns (MS-DTYP 2.3.3).
_FILETIME_OF_EPOCH: Final = 116444736000000000


def filetime(time_ns: int) -> int:
    """Return the FILETIME of a time in ns since the epoch, such as time.time_ns()."""
    return time_ns // 100 + _FILETIME_OF_EPOCH


@dataclass(frozen=True, slots=True)
class FileTimes:
    """Holds the times of creation, last access, last write and change, in 100 ns since 1601 (MS-DTYP 2.3.3)."""

    creation_filetime: int = 0
    access_filetime: int = 0
    write_filetime: int = 0
    change_filetime: int = 0

    @classmethod
    def same(cls, filetime: int) -> Self:
        return cls(filetime, filetime, filetime, filetime)

    def numbers(self) -> tuple[int, int, int, int]:
        return self.creation_filetime, self.access_filetime, self.write_filetime, self.change_filetime


NO_TIMES: Final = FileTimes()


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """Gives the id of a new open, and the properties of its file (MS-SMB2 2.2.14).

    Layout: StructureSize 89, OplockLevel u8, Flags u8, CreateAction u32, four FILETIMEs, AllocationSize and EndofFile
    u64, FileAttributes u32, reserved, FileId, CreateContextsOffset and Length u32; then, 8-byte aligned, the contexts.
    """

    file_id: FileId
    create_action: int
    size_bytes: int
    allocation_bytes: int
    file_attributes: int
    times: FileTimes
    contexts: tuple[CreateContext, ...] = ()
    oplock_level: int = OplockLevel.NONE
    flags: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HBBI4QQQIIQQII")

    def pack(self) -> bytes:
        chain = pack_create_contexts(self.contexts)
        fixed = self._LAYOUT.pack(
            89,
            self.oplock_level,
            self.flags,
            self.create_action,
            *self.times.numbers(),
            self.allocation_bytes,
            self.size_bytes,
            self.file_attributes,
            0,
            *self.file_id,
            HEADER_BYTES + self._LAYOUT.size if chain else 0,
            len(chain),
        )
        return fixed + chain

    @classmethod
    def unpack(cls, body: Body) -> Self:
        oplock, flags, action, *rest = unpack_fixed(cls._LAYOUT, 89, body, "CREATE response")
        times, (allocation, size, attributes, _) = FileTimes(*rest[:4]), rest[4:8]
        persistent, volatile, offset, length = rest[8:]
        chain = block(body, offset, length, cls._LAYOUT.size, "CREATE contexts")
        contexts = unpack_create_contexts(chain)
        file_id = FileId(persistent, volatile)
        return cls(file_id, action, size, allocation, attributes, times, contexts, oplock, flags)


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """Asks to close an open (MS-SMB2 2.2.15). Layout: StructureSize 24, Flags u16, reserved, FileId."""

    file_id: FileId
    flags: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQ")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(24, self.flags, 0, *self.file_id)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, _, persistent, volatile = unpack_fixed(cls._LAYOUT, 24, body, "CLOSE request")
        return cls(FileId(persistent, volatile), flags)


@dataclass(frozen=True, slots=True)
class CloseResponse:
    """Confirms a close (MS-SMB2 2.2.16).

    Layout: StructureSize 60, Flags u16, reserved, four FILETIMEs, AllocationSize and EndofFile u64, FileAttributes
    u32. The properties of the file are zero unless the request asked for them (POSTQUERY_ATTRIB).
    """

    flags: int = 0
    times: FileTimes = NO_TIMES
    allocation_bytes: int = 0
    size_bytes: int = 0
    file_attributes: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHI4QQQI")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(
            60,
            self.flags,
            0,
            *self.times.numbers(),
            self.allocation_bytes,
            self.size_bytes,
            self.file_attributes,
        )

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, _, *rest = unpack_fixed(cls._LAYOUT, 60, body, "CLOSE response")
        allocation, size, attributes = rest[4:]
        return cls(flags, FileTimes(*rest[:4]), allocation, size, attributes)


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """Asks to put written data on stable storage (MS-SMB2 2.2.17). Layout: StructureSize 24, reserved, FileId."""

    file_id: FileId
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQ")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(24, 0, 0, *self.file_id)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        _, _, persistent, volatile = unpack_fixed(cls._LAYOUT, 24, body, "FLUSH request")
        return cls(FileId(persistent, volatile))


@dataclass(frozen=True, slots=True)
class FlushResponse(Empty):
    """Confirms a flush (MS-SMB2 2.2.18). It has no fields."""

    @classmethod
    def unpack(cls, body: Body) -> Self:
        cls.check(body)
        return cls()


@dataclass(frozen=True, slots=True)
class LockElement:
    """Holds one range of a LOCK request (MS-SMB2 2.2.26.1). Layout: Offset, Length (u64), Flags, reserved (u32)."""

    offset: int
    length: int
    flags: int


@dataclass(frozen=True, slots=True)
class LockRequest:
    """Asks to lock or unlock ranges of a file (MS-SMB2 2.2.26).

    Layout: StructureSize 48, LockCount u16, LockSequence u32 (number 4 bits, index 28 bits), FileId; then the elements.
    """

    file_id: FileId
    locks: tuple[LockElement, ...]
    lock_sequence: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQ")
    _ELEMENT: ClassVar[Struct] = Struct("<QQII")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(48, len(self.locks), self.lock_sequence, *self.file_id)
        return fixed + b"".join(self._ELEMENT.pack(lock.offset, lock.length, lock.flags, 0) for lock in self.locks)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        """Unpack the request. The caller answers a count of 0 with INVALID_PARAMETER (MS-SMB2 3.3.5.14)."""
        count, sequence, persistent, volatile = unpack_fixed(cls._LAYOUT, 48, body, "LOCK request")
        if count > limits.LOCKS_PER_OPEN_MAX:
            raise RemoteProtocolError(f"LOCK request: {count} locks are more than allowed")
        size, element = cls._LAYOUT.size, cls._ELEMENT
        packed = block(body, HEADER_BYTES + size, count * element.size, size, "LOCK elements")
        locks = tuple(LockElement(*numbers[:3]) for numbers in element.iter_unpack(packed))
        return cls(FileId(persistent, volatile), locks, sequence)


@dataclass(frozen=True, slots=True)
class LockResponse(FlushResponse):
    """Confirms that the ranges are locked or unlocked (MS-SMB2 2.2.27). It has no fields."""


@dataclass(frozen=True, slots=True)
class OplockBreak:
    """Serves as notification, acknowledgment and response of an oplock break (MS-SMB2 2.2.23.1, 2.2.24.1, 2.2.25.1).

    Layout: StructureSize 24, OplockLevel u8, reserved, FileId.
    """

    file_id: FileId
    oplock_level: int
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIQQ")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(24, self.oplock_level, 0, 0, *self.file_id)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        level, _, _, persistent, volatile = unpack_fixed(cls._LAYOUT, 24, body, "OPLOCK_BREAK")
        return cls(FileId(persistent, volatile), level)


@dataclass(frozen=True, slots=True)
class LeaseBreak:
    """Serves as acknowledgment and response of a lease break (MS-SMB2 2.2.24.2, 2.2.25.2).

    Layout: StructureSize 36, reserved, Flags u32, LeaseKey, LeaseState u32, LeaseDuration u64.
    """

    lease_key: bytes
    lease_state: int
    _LAYOUT: ClassVar[Struct] = Struct("<HHI16sIQ")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(36, 0, 0, self.lease_key, self.lease_state, 0)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        _, _, key, state, _ = unpack_fixed(cls._LAYOUT, 36, body, "lease break")
        return cls(key, state)


def unpack_break_acknowledgment(body: Body) -> OplockBreak | LeaseBreak:
    """Unpack an OPLOCK_BREAK request, which is one of two structures with different StructureSizes."""
    lease = bytes(body[:2]) == b"\x24\x00"
    return LeaseBreak.unpack(body) if lease else OplockBreak.unpack(body)
