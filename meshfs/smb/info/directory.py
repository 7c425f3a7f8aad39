"""Build the output of QUERY_DIRECTORY: a chain of entries, which are all of one class (MS-FSCC 2.4)."""

from collections.abc import Callable
from dataclasses import replace
from struct import Struct
from typing import Final

from meshfs.smb.info.facts import FileFacts
from meshfs.smb.info.file import FileInfoClass

# All classes except NAMES have: FileIndex, four times, EndOfFile, AllocationSize, FileAttributes, FileNameLength.
_COMMON = "I4QQQII"
# Before these fields is NextEntryOffset. Behind them are, depending on the class: EaSize, ShortNameLength, reserved,
# ShortName, reserved, FileId.
_DIRECTORY: Final = Struct("<I" + _COMMON)
_FULL: Final = Struct("<I" + _COMMON + "I")
_ID_FULL: Final = Struct("<I" + _COMMON + "IIQ")
_BOTH: Final = Struct("<I" + _COMMON + "IBB24s")
_ID_BOTH: Final = Struct("<I" + _COMMON + "IBB24sHQ")
_NAMES: Final = Struct("<III")


def _short_name(file: FileFacts) -> tuple[int, int, bytes]:
    """Return ShortNameLength, reserved and ShortName. A file whose name is an 8.3 name already has no short name."""
    short = "" if file.short_name == file.name.upper() else file.short_name
    encoded = short.encode("utf-16-le")
    return len(encoded), 0, encoded


_Fields = Callable[[FileFacts], tuple[int | bytes, ...]]
_CLASSES: Final[dict[int, tuple[Struct, _Fields]]] = {
    FileInfoClass.DIRECTORY: (_DIRECTORY, lambda file: ()),
    FileInfoClass.FULL_DIRECTORY: (_FULL, lambda file: (0,)),
    FileInfoClass.ID_FULL_DIRECTORY: (_ID_FULL, lambda file: (0, 0, file.index_number)),
    FileInfoClass.BOTH_DIRECTORY: (_BOTH, lambda file: (0, *_short_name(file))),
    FileInfoClass.ID_BOTH_DIRECTORY: (_ID_BOTH, lambda file: (0, *_short_name(file), 0, file.index_number)),
}


def is_directory_class(info_class: int) -> bool:
    return info_class in _CLASSES or info_class == FileInfoClass.NAMES


def _entry(info_class: int, file: FileFacts, name: bytes) -> bytes:
    """Return an entry whose NextEntryOffset is 0, as in the last entry."""
    if info_class == FileInfoClass.NAMES:
        return _NAMES.pack(0, 0, len(name)) + name
    layout, extra = _CLASSES[info_class]
    return (
        layout.pack(
            0,
            0,
            *file.times.numbers(),
            file.size_bytes,
            file.allocation_bytes,
            file.attributes,
            len(name),
            *extra(file),
        )
        + name
    )


def _fixed_bytes(info_class: int) -> int:
    return _NAMES.size if info_class == FileInfoClass.NAMES else _CLASSES[info_class][0].size


class DirectoryPacker:
    """Builds the output of one response. Entries are 8-byte aligned, and the last one is not padded."""

    __slots__ = ("_fixed_bytes", "_info_class", "_last", "_max_bytes", "data", "packed")

    def __init__(self, info_class: int, output_bytes_max: int) -> None:
        """``info_class`` must be a directory class (`is_directory_class`)."""
        self.data = bytearray()
        #: The number of entries.
        self.packed = 0
        self._info_class = info_class
        self._max_bytes = output_bytes_max
        self._fixed_bytes = _fixed_bytes(info_class)
        self._last = 0

    def add(self, file: FileFacts) -> bool:
        """Add an entry. Returns False and adds nothing if the entry does not fit."""
        data, name = self.data, file.name.encode("utf-16-le")
        start = len(data) + -len(data) % 8
        if start + self._fixed_bytes + len(name) > self._max_bytes:
            return False
        if self.packed:
            # The previous entry gets the offset of the new entry.
            data += bytes(start - len(data))
            data[self._last : self._last + 4] = (start - self._last).to_bytes(4, "little")
        data += _entry(self._info_class, file, name)
        self.packed, self._last = self.packed + 1, start
        return True


def dot_entries(root: FileFacts) -> tuple[FileFacts, FileFacts]:
    """Return ``.`` and ``..`` of the root directory, with which every listing begins (MS-FSCC 2.1.5.1)."""
    return replace(root, name="."), replace(root, name="..")
