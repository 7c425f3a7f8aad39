"""The properties that the information classes are packed from, and the result of packing one."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from meshfs.smb.constants import FileAttributes, NtStatus
from meshfs.smb.messages.file import NO_TIMES, FileTimes

# The longest name of a file in a share. NTFS and ext4 have the same limit.
NAME_MAX_CHARS: Final = 255


class Output(NamedTuple):
    """Holds a status and its data: the information class, which may be cut, or the data of an error."""

    status: NtStatus
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class FileFacts:
    r"""Describes a file or directory of a share. The ``name`` of the root directory is empty.

    ``kept_attributes`` are the stored attributes of a file. They are None for a disk, whose attributes follow from the
    other fields. ``short_name`` is the 8.3 name, or empty if the file cannot be opened by one.
    """

    name: str
    size_bytes: int
    allocation_bytes: int
    index_number: int
    is_directory: bool = False
    read_only: bool = False
    times: FileTimes = NO_TIMES
    links: int = 1
    volume_serial: int = 0
    kept_attributes: int | None = None
    short_name: str = ""

    @property
    def attributes(self) -> FileAttributes:
        kept = FileAttributes(self.kept_attributes or 0)
        if self.is_directory:
            return FileAttributes.DIRECTORY | kept
        if self.kept_attributes is not None:
            return kept or FileAttributes.NORMAL
        return FileAttributes.READONLY if self.read_only else FileAttributes.NORMAL


@dataclass(frozen=True, slots=True)
class OpenFacts:
    """Holds the properties that belong to an open, and not to its file."""

    granted_access: int = 0
    position: int = 0
    mode: int = 0
    delete_pending: bool = False


@dataclass(frozen=True, slots=True)
class FilesystemFacts:
    """Describes a share as a volume."""

    label: str
    serial: int
    total_bytes: int
    available_bytes: int = 0
    created_filetime: int = 0
    object_id: bytes = bytes(16)
    logical_sector_bytes: int = 512
    physical_sector_bytes: int = 4096
    read_only: bool = False
    type_name: str = "meshfs"
    can_trim: bool = False


def fitted(fixed: bytes, variable: bytes, output_bytes_max: int, *, min_bytes: int = 0) -> Output:
    """Return the output, of which the fixed part must fit and the variable part may be cut (MS-SMB2 3.3.5.20.1).

    If ``min_bytes`` is more than the fixed part, this many bytes must fit. Windows requires room for the C structure,
    which ends with the first characters of a name, or with padding.
    """
    if output_bytes_max < max(len(fixed), min_bytes):
        return Output(NtStatus.INFO_LENGTH_MISMATCH)
    whole = fixed + variable
    if output_bytes_max < len(whole):
        return Output(NtStatus.BUFFER_OVERFLOW, whole[:output_bytes_max])
    return Output(NtStatus.SUCCESS, whole)
