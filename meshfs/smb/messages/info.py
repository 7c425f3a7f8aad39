"""QUERY_DIRECTORY, CHANGE_NOTIFY, QUERY_INFO and SET_INFO (MS-SMB2 2.2.33 to 2.2.40).

The information classes in these messages are in `meshfs.smb.info`.
"""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES
from meshfs.smb.messages.body import (
    Body,
    FileId,
    block,
    encode,
    request_tail,
    text,
    unpack_fixed,
)


@dataclass(frozen=True, slots=True)
class QueryDirectoryRequest:
    """Asks for entries of a directory (MS-SMB2 2.2.33).

    Layout: StructureSize 33, FileInformationClass u8, Flags u8, FileIndex u32, FileId, FileNameOffset and Length u16,
    OutputBufferLength u32; then the search pattern.
    """

    file_id: FileId
    info_class: int
    output_bytes_max: int
    pattern: str = "*"
    flags: int = 0
    file_index: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIQQHHI")

    def pack(self) -> bytes:
        pattern = encode(self.pattern, "search pattern")
        fixed = self._LAYOUT.pack(
            33,
            self.info_class,
            self.flags,
            self.file_index,
            *self.file_id,
            HEADER_BYTES + self._LAYOUT.size,
            len(pattern),
            self.output_bytes_max,
        )
        return fixed + request_tail(pattern)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        info_class, flags, index, persistent, volatile, offset, length, output = unpack_fixed(
            cls._LAYOUT, 33, body, "QUERY_DIRECTORY request"
        )
        what = "QUERY_DIRECTORY pattern"
        pattern = text(block(body, offset, length, cls._LAYOUT.size, what), what)
        return cls(FileId(persistent, volatile), info_class, output, pattern, flags, index)


@dataclass(frozen=True, slots=True)
class _OutputResponse:
    """Packs the common layout of three responses.

    Layout: StructureSize 9, OutputBufferOffset u16, OutputBufferLength u32; then the output.
    """

    output: bytes
    _LAYOUT: ClassVar[Struct] = Struct("<HHI")

    def pack(self) -> bytes:
        offset = HEADER_BYTES + self._LAYOUT.size if self.output else 0
        return self._LAYOUT.pack(9, offset, len(self.output)) + self.output

    @classmethod
    def unpack(cls, body: Body) -> Self:
        offset, length = unpack_fixed(cls._LAYOUT, 9, body, cls.__name__)
        return cls(block(body, offset, length, cls._LAYOUT.size, cls.__name__))


@dataclass(frozen=True, slots=True)
class QueryDirectoryResponse(_OutputResponse):
    """Gives a chain of directory entries (MS-SMB2 2.2.34), in the layout of its base."""


@dataclass(frozen=True, slots=True)
class ChangeNotifyRequest:
    """Asks for the next changes in a directory (MS-SMB2 2.2.35).

    Layout: StructureSize 32, Flags u16, OutputBufferLength u32, FileId, CompletionFilter u32, reserved.
    """

    file_id: FileId
    output_bytes_max: int
    completion_filter: int
    flags: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQII")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(32, self.flags, self.output_bytes_max, *self.file_id, self.completion_filter, 0)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, output, persistent, volatile, wanted, _ = unpack_fixed(cls._LAYOUT, 32, body, "CHANGE_NOTIFY request")
        return cls(FileId(persistent, volatile), output, wanted, flags)


@dataclass(frozen=True, slots=True)
class ChangeNotifyResponse(_OutputResponse):
    """Gives a chain of FILE_NOTIFY_INFORMATION (MS-SMB2 2.2.36), in the layout of its base."""


# NextEntryOffset, Action, FileNameLength (MS-FSCC 2.7.1)
_NOTIFICATION: Final = Struct("<III")


def pack_notifications(changes: tuple[tuple[int, str], ...]) -> bytes:
    """Pack (action, name) pairs as FILE_NOTIFY_INFORMATION entries, which are 4-byte aligned (MS-FSCC 2.7.1)."""
    chain = bytearray()
    for index, (action, name) in enumerate(changes):
        encoded = encode(name, "changed name")
        size = _NOTIFICATION.size + len(encoded)
        last = index == len(changes) - 1
        gap = 0 if last else -size % 4
        chain += _NOTIFICATION.pack(0 if last else size + gap, action, len(encoded)) + encoded + bytes(gap)
    return bytes(chain)


def unpack_notifications(chain: Body) -> tuple[tuple[int, str], ...]:
    """Unpack a chain of FILE_NOTIFY_INFORMATION entries into (action, name) pairs.

    An empty chain means that there were too many changes to list. Raises RemoteProtocolError for a malformed chain.
    """
    changes: list[tuple[int, str]] = []
    start, more = 0, bool(chain)
    while more:
        if start + _NOTIFICATION.size > len(chain):
            raise RemoteProtocolError("a change notification reaches outside the output")
        following, action, length = _NOTIFICATION.unpack_from(chain, start)
        name = chain[start + _NOTIFICATION.size : start + _NOTIFICATION.size + length]
        if len(name) != length or 0 < following < _NOTIFICATION.size:
            raise RemoteProtocolError("an entry of the change notification is malformed")
        changes.append((action, text(name, "changed name")))
        start, more = start + following, bool(following)
    return tuple(changes)


@dataclass(frozen=True, slots=True)
class QueryInfoRequest:
    """Asks for an information class of a file or volume (MS-SMB2 2.2.37).

    Layout: StructureSize 41, InfoType u8, FileInfoClass u8, OutputBufferLength u32, InputBufferOffset u16, reserved,
    InputBufferLength u32, AdditionalInformation u32, Flags u32, FileId; then the input.
    """

    file_id: FileId
    info_type: int
    info_class: int
    output_bytes_max: int
    additional: int = 0
    flags: int = 0
    input: bytes = b""
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIHHIIIQQ")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(
            41,
            self.info_type,
            self.info_class,
            self.output_bytes_max,
            HEADER_BYTES + self._LAYOUT.size if self.input else 0,
            0,
            len(self.input),
            self.additional,
            self.flags,
            *self.file_id,
        )
        return fixed + request_tail(self.input)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        kind, info_class, output, offset, _, length, additional, flags, persistent, volatile = unpack_fixed(
            cls._LAYOUT, 41, body, "QUERY_INFO request"
        )
        data = block(body, offset, length, cls._LAYOUT.size, "QUERY_INFO input")
        return cls(FileId(persistent, volatile), kind, info_class, output, additional, flags, data)


@dataclass(frozen=True, slots=True)
class QueryInfoResponse(_OutputResponse):
    """Gives an information class (MS-SMB2 2.2.38), in the layout of its base."""


@dataclass(frozen=True, slots=True)
class SetInfoRequest:
    """Asks to change a file by an information class (MS-SMB2 2.2.39).

    Layout: StructureSize 33, InfoType u8, FileInfoClass u8, BufferLength u32, BufferOffset u16, reserved,
    AdditionalInformation u32, FileId; then the buffer.
    """

    file_id: FileId
    info_type: int
    info_class: int
    buffer: bytes
    additional: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIHHIQQ")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(
            33,
            self.info_type,
            self.info_class,
            len(self.buffer),
            HEADER_BYTES + self._LAYOUT.size,
            0,
            self.additional,
            *self.file_id,
        )
        return fixed + request_tail(self.buffer)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        kind, info_class, length, offset, _, additional, persistent, volatile = unpack_fixed(
            cls._LAYOUT, 33, body, "SET_INFO request"
        )
        data = block(body, offset, length, cls._LAYOUT.size, "SET_INFO buffer")
        return cls(FileId(persistent, volatile), kind, info_class, data, additional)


@dataclass(frozen=True, slots=True)
class SetInfoResponse:
    """Confirms a SET_INFO (MS-SMB2 2.2.40). It has only its StructureSize, which is 2."""

    _LAYOUT: ClassVar[Struct] = Struct("<H")

    def pack(self) -> bytes:
        return b"\x02\x00"

    @classmethod
    def unpack(cls, body: Body) -> Self:
        unpack_fixed(cls._LAYOUT, 2, body, "SET_INFO response")
        return cls()
