"""What the information classes are packed from, and what packing one gives."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from meshfs.smb.constants import FileAttributes, NtStatus
from meshfs.smb.messages.file import NO_TIMES, FileTimes

# No file name of a share is longer; NTFS' and ext4's limit.
NAME_MAX_CHARS: Final = 255


class Output(NamedTuple):
    """A status and the bytes that go with it: an error's data, or the (maybe truncated) class."""

    status: NtStatus
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class FileFacts:
    r"""A file or directory of a share; the ``name`` of its root is empty.

    ``kept_attributes`` are those of a file that has some of its own; a disk's follow from the rest. ``short_name`` is
    its 8.3 name, and empty where it cannot be opened by one.
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
    """What belongs to an open instead of its file."""

    granted_access: int = 0
    position: int = 0
    mode: int = 0
    delete_pending: bool = False


@dataclass(frozen=True, slots=True)
class FilesystemFacts:
    """A share as a volume."""

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


def fitted(fixed: bytes, variable: bytes, output_bytes_max: int, *, min_bytes: int = 0) -> Output:
    """The rule of MS-SMB2 3.3.5.20.1: the fixed part must fit, the variable one is cut.

    ``min_bytes`` is what has to fit where that is more than the fixed part: Windows wants room for the C structure,
    which has the first characters of a name, or padding, at its end.
    """
    if output_bytes_max < max(len(fixed), min_bytes):
        return Output(NtStatus.INFO_LENGTH_MISMATCH)
    whole = fixed + variable
    if output_bytes_max < len(whole):
        return Output(NtStatus.BUFFER_OVERFLOW, whole[:output_bytes_max])
    return Output(NtStatus.SUCCESS, whole)
