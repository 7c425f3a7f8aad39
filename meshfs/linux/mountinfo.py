r"""The kernel's table of mounts, /proc/self/mountinfo (proc_pid_mountinfo(5)).

The table is parsed as bytes, because a path of Linux is bytes. The kernel writes a blank, tab, newline or backslash of
a path as three octal digits (``\040`` for a blank), and every other byte as it is. Parsing it as text would go wrong:
str.split and str.splitlines also split at Unicode blanks and line ends, which a path may contain. Paths are returned
as ``os.fsdecode`` decodes them.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
#: The file system types of a mounted mesh. The second appears when another program mounts on behalf of meshfs.
MESH_TYPES: Final = ("fuse.meshfs", "meshfs")

_ESCAPED: Final = re.compile(rb"\\([0-3][0-7]{2})")
_SEPARATOR: Final = b" - "
_POINT: Final = 4


@dataclass(frozen=True, slots=True)
class MountEntry:
    """Holds one line of the table. `device` is the device number of the file system, as os.makedev returns it."""

    device: int
    point: str
    type: str
    source: str

    @property
    def is_mesh(self) -> bool:
        return self.type in MESH_TYPES


def read_mounts(path: Path = MOUNTINFO) -> list[MountEntry]:
    """Return the mounts that this process sees, the oldest first. Return an empty list if the file is missing."""
    try:
        return list(parse_mounts(path.read_bytes()))
    except FileNotFoundError:
        return []


def parse_mounts(mountinfo: bytes) -> Iterator[MountEntry]:
    """Parse lines of the form: id parent major:minor root point options ... - type source superoptions.

    Lines of any other form are skipped.
    """
    for line in mountinfo.split(b"\n"):
        head, separator, tail = line.partition(_SEPARATOR)
        fields, described = head.split(b" "), tail.split(b" ")
        if not separator or len(fields) <= _POINT or len(described) < 2:
            continue
        major, _, minor = fields[2].partition(b":")
        device = os.makedev(int(major), int(minor))
        yield MountEntry(device, unescape(fields[_POINT]), os.fsdecode(described[0]), unescape(described[1]))


def topmost(mounts: list[MountEntry], point: str) -> MountEntry | None:
    """Return the mount in which a path lookup of `point` (absolute, without symlinks) ends: the newest one there."""
    return next((mount for mount in reversed(mounts) if mount.point == point), None)


def unescape(field: bytes) -> str:
    """Decode a path from a table of /proc: resolve its octal escapes."""
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), field))
