"""Parse a SET_INFO of a file: the changes that a peer may ask for (MS-FSCC 2.4)."""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from meshfs.smb.constants import NtStatus
from meshfs.smb.info.file import FileInfoClass


@dataclass(frozen=True, slots=True)
class SetEndOfFile:
    """Sets the size of a file, as FileEndOfFileInformation (MS-FSCC 2.4.14)."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class SetAllocation:
    """Sets the allocated size of a file, as FileAllocationInformation (MS-FSCC 2.4.4)."""

    allocation_bytes: int


@dataclass(frozen=True, slots=True)
class SetBasic:
    """Sets the times and the attributes of a file, as FileBasicInformation (MS-FSCC 2.4.7).

    A time of 0 leaves the file's time as it is. A time of -1 stops the updates of that time by this open, and -2
    resumes them. Attributes of 0 leave the file's attributes as they are.
    """

    creation_filetime: int
    access_filetime: int
    write_filetime: int
    change_filetime: int
    attributes: int


@dataclass(frozen=True, slots=True)
class SetDisposition:
    """Decides whether a file is deleted at its last close, as FileDispositionInformation (MS-FSCC 2.4.11, 2.4.12)."""

    delete: bool


@dataclass(frozen=True, slots=True)
class SetRename:
    """Renames a file, as FileRenameInformation (MS-FSCC 2.4.42.2, 2.4.43)."""

    name: str
    replace: bool


@dataclass(frozen=True, slots=True)
class SetPosition:
    """Sets the position of an open, as FilePositionInformation (MS-FSCC 2.4.40)."""

    offset: int


@dataclass(frozen=True, slots=True)
class SetMode:
    """Sets the mode of an open, as FileModeInformation (MS-FSCC 2.4.31). `mode.py` has the rules."""

    mode: int


Change = SetEndOfFile | SetAllocation | SetBasic | SetDisposition | SetRename | SetPosition | SetMode

_I64: Final = Struct("<q")
_U32: Final = Struct("<I")
# The four times, FileAttributes. Some senders omit the last field, which is reserved.
_BASIC: Final = Struct("<4qI")
# ReplaceIfExists (Flags in the extended class), reserved, RootDirectory, FileNameLength
_RENAME: Final = Struct("<B7xQI")
_FIXED: Final[dict[int, tuple[Struct, Callable[..., Change]]]] = {
    FileInfoClass.END_OF_FILE: (_I64, SetEndOfFile),
    FileInfoClass.ALLOCATION: (_I64, SetAllocation),
    FileInfoClass.POSITION: (_I64, SetPosition),
    FileInfoClass.MODE: (_U32, SetMode),
    FileInfoClass.BASIC: (_BASIC, SetBasic),
    FileInfoClass.DISPOSITION: (Struct("<?"), SetDisposition),
    FileInfoClass.DISPOSITION_EX: (_U32, lambda flags: SetDisposition(bool(flags & 1))),
}
# Classes that exist in MS-FSCC, but that no file of a share supports.
_REFUSED: Final[dict[int, NtStatus]] = {
    FileInfoClass.FULL_EA: NtStatus.EAS_NOT_SUPPORTED,
    FileInfoClass.LINK: NtStatus.NOT_SUPPORTED,
}


def parse_change(info_class: int, buffer: bytes) -> Change | NtStatus:
    """Return the change that SET_INFO (InfoType FILE) asks for, or the status that refuses it. Never raises."""
    if info_class in (FileInfoClass.RENAME, FileInfoClass.RENAME_EX):
        return _parse_rename(buffer)
    if info_class not in _FIXED:
        return _REFUSED.get(info_class, NtStatus.INVALID_INFO_CLASS)
    layout, make = _FIXED[info_class]
    if len(buffer) < layout.size:
        return NtStatus.INFO_LENGTH_MISMATCH
    change = make(*layout.unpack_from(buffer))
    match change:
        case SetEndOfFile(value) | SetAllocation(value) | SetPosition(value) if value < 0:
            return NtStatus.INVALID_PARAMETER
    return change


def _parse_rename(buffer: bytes) -> SetRename | NtStatus:
    if len(buffer) < _RENAME.size:
        return NtStatus.INFO_LENGTH_MISMATCH
    flags, root, length = _RENAME.unpack_from(buffer)
    name = buffer[_RENAME.size : _RENAME.size + length]
    if root or not length or len(name) != length:
        return NtStatus.INVALID_PARAMETER
    try:
        return SetRename(name.decode("utf-16-le"), bool(flags & 1))
    except UnicodeDecodeError:
        return NtStatus.OBJECT_NAME_INVALID
