"""Answer a QUERY_INFO of a file (MS-FSCC 2.4)."""

import enum
from collections.abc import Callable
from struct import Struct
from typing import Final

from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.info.facts import FileFacts, OpenFacts, Output, fitted


class FileInfoClass(enum.IntEnum):
    """Lists the classes of QUERY_INFO, SET_INFO and QUERY_DIRECTORY (MS-FSCC 2.4)."""

    DIRECTORY = 1
    FULL_DIRECTORY = 2
    BOTH_DIRECTORY = 3
    BASIC = 4
    STANDARD = 5
    INTERNAL = 6
    EA = 7
    ACCESS = 8
    NAME = 9
    RENAME = 10
    LINK = 11
    NAMES = 12
    DISPOSITION = 13
    POSITION = 14
    FULL_EA = 15
    MODE = 16
    ALIGNMENT = 17
    ALL = 18
    ALLOCATION = 19
    END_OF_FILE = 20
    ALTERNATE_NAME = 21
    STREAM = 22
    COMPRESSION = 28
    NETWORK_OPEN = 34
    ATTRIBUTE_TAG = 35
    ID_BOTH_DIRECTORY = 37
    ID_FULL_DIRECTORY = 38
    NORMALIZED_NAME = 48
    ID = 59
    DISPOSITION_EX = 64
    RENAME_EX = 65


# CreationTime, LastAccessTime, LastWriteTime, ChangeTime, FileAttributes, reserved (2.4.7)
_BASIC: Final = Struct("<4QII")
# AllocationSize, EndOfFile, NumberOfLinks, DeletePending, Directory, reserved (2.4.47)
_STANDARD: Final = Struct("<QQIBBH")
# The four times, AllocationSize, EndOfFile, FileAttributes, reserved (2.4.34)
_NETWORK_OPEN: Final = Struct("<4QQQII")
# FileAttributes, ReparseTag (2.4.6)
_ATTRIBUTE_TAG: Final = Struct("<II")
# NextEntryOffset, StreamNameLength, StreamSize, StreamAllocationSize (2.4.49)
_STREAM: Final = Struct("<IIQQ")
# CompressedFileSize, CompressionFormat, three shifts, reserved (2.4.9)
_COMPRESSION: Final = Struct("<QHBBB3x")
# VolumeSerialNumber, FileId of 128 bits (2.4.26)
_ID: Final = Struct("<QQQ")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
# The sizes of the C structures FILE_ALL_INFORMATION, FILE_NAME_INFORMATION and FILE_STREAM_INFORMATION, which include
# one character of the name and are aligned.
_ALL_MIN_BYTES: Final = 104
_NAME_MIN_BYTES: Final = 8
_STREAM_MIN_BYTES: Final = 32
_DATA_STREAM: Final = "::$DATA".encode("utf-16-le")

_Pack = Callable[[FileFacts, OpenFacts], bytes]


def _basic(file: FileFacts, _: OpenFacts) -> bytes:
    return _BASIC.pack(*file.times.numbers(), file.attributes, 0)


def _standard(file: FileFacts, opened: OpenFacts) -> bytes:
    return _STANDARD.pack(
        file.allocation_bytes, file.size_bytes, file.links, opened.delete_pending, file.is_directory, 0
    )


def _internal(file: FileFacts, _: OpenFacts) -> bytes:
    return _U64.pack(file.index_number)


def _zero_u32(_file: FileFacts, _open: OpenFacts) -> bytes:
    """Pack an EaSize or an AlignmentRequirement of 0.

    There are no extended attributes. Reads and writes need no alignment, because the owner aligns them for its disk.
    """
    return bytes(4)


def _access(_: FileFacts, opened: OpenFacts) -> bytes:
    return _U32.pack(opened.granted_access)


def _position(_: FileFacts, opened: OpenFacts) -> bytes:
    return _U64.pack(opened.position)


def _mode(_: FileFacts, opened: OpenFacts) -> bytes:
    return _U32.pack(opened.mode)


def _network_open(file: FileFacts, _: OpenFacts) -> bytes:
    return _NETWORK_OPEN.pack(*file.times.numbers(), file.allocation_bytes, file.size_bytes, file.attributes, 0)


def _attribute_tag(file: FileFacts, _: OpenFacts) -> bytes:
    return _ATTRIBUTE_TAG.pack(file.attributes, 0)


def _compression(file: FileFacts, _: OpenFacts) -> bytes:
    return _COMPRESSION.pack(file.size_bytes, 0, 0, 0, 0)


def _id(file: FileFacts, _: OpenFacts) -> bytes:
    return _ID.pack(file.volume_serial, file.index_number, 0)


_FIXED: Final[dict[int, _Pack]] = {
    FileInfoClass.BASIC: _basic,
    FileInfoClass.STANDARD: _standard,
    FileInfoClass.INTERNAL: _internal,
    FileInfoClass.EA: _zero_u32,
    FileInfoClass.ACCESS: _access,
    FileInfoClass.POSITION: _position,
    FileInfoClass.MODE: _mode,
    FileInfoClass.ALIGNMENT: _zero_u32,
    FileInfoClass.COMPRESSION: _compression,
    FileInfoClass.NETWORK_OPEN: _network_open,
    FileInfoClass.ATTRIBUTE_TAG: _attribute_tag,
    FileInfoClass.ID: _id,
}
# FileAllInformation (2.4.2) consists of these classes, in this order, and the name.
_ALL: Final = (_basic, _standard, _internal, _zero_u32, _access, _position, _mode, _zero_u32)

# These classes need the right to read attributes, or extended attributes (MS-FSA 2.1.5.12). The others need no right.
_NEEDED: Final[dict[int, AccessMask]] = {
    FileInfoClass.BASIC: AccessMask.READ_ATTRIBUTES,
    FileInfoClass.ALL: AccessMask.READ_ATTRIBUTES,
    FileInfoClass.NETWORK_OPEN: AccessMask.READ_ATTRIBUTES,
    FileInfoClass.ATTRIBUTE_TAG: AccessMask.READ_ATTRIBUTES,
    FileInfoClass.FULL_EA: AccessMask.READ_EA,
}

# Classes that exist in MS-FSCC, but for which no file of a share has data.
_ABSENT: Final[dict[int, NtStatus]] = {
    FileInfoClass.FULL_EA: NtStatus.NO_EAS_ON_FILE,
}


def _named(prefix: bytes, path: str, output_bytes_max: int, min_bytes: int = _NAME_MIN_BYTES) -> Output:
    encoded = path.encode("utf-16-le")
    return fitted(prefix + _U32.pack(len(encoded)), encoded, output_bytes_max, min_bytes=min_bytes)


def _alternate_name(file: FileFacts, output_bytes_max: int) -> Output:
    """Return the 8.3 name (MS-FSA 2.1.5.12.4)."""
    if output_bytes_max < _NAME_MIN_BYTES:
        return Output(NtStatus.INFO_LENGTH_MISMATCH)
    if not file.short_name:
        return Output(NtStatus.OBJECT_NAME_NOT_FOUND)
    return _named(b"", file.short_name, output_bytes_max)


def query_file(info_class: int, file: FileFacts, output_bytes_max: int, opened: OpenFacts) -> Output:
    """Return the information class of a file, as the response to QUERY_INFO (InfoType FILE) contains it.

    Statuses: SUCCESS, BUFFER_OVERFLOW (the data is cut), INFO_LENGTH_MISMATCH, ACCESS_DENIED,
    NO_EAS_ON_FILE, OBJECT_NAME_NOT_FOUND (no 8.3 name), INVALID_INFO_CLASS.
    """
    if _NEEDED.get(info_class, 0) & ~opened.granted_access:
        return Output(NtStatus.ACCESS_DENIED)
    pack = _FIXED.get(info_class)
    if pack is not None:
        return fitted(pack(file, opened), b"", output_bytes_max)
    match info_class:
        case FileInfoClass.ALL:
            head = b"".join(part(file, opened) for part in _ALL)
            return _named(head, f"\\{file.name}", output_bytes_max, _ALL_MIN_BYTES)
        case FileInfoClass.NAME:
            return _named(b"", f"\\{file.name}", output_bytes_max)
        case FileInfoClass.NORMALIZED_NAME:
            return _named(b"", file.name, output_bytes_max)
        case FileInfoClass.ALTERNATE_NAME:
            return _alternate_name(file, output_bytes_max)
        case FileInfoClass.STREAM if file.is_directory:
            return Output(NtStatus.SUCCESS)
        case FileInfoClass.STREAM:
            head = _STREAM.pack(0, len(_DATA_STREAM), file.size_bytes, file.allocation_bytes)
            return fitted(head, _DATA_STREAM, output_bytes_max, min_bytes=_STREAM_MIN_BYTES)
    return Output(_ABSENT.get(info_class, NtStatus.INVALID_INFO_CLASS))
