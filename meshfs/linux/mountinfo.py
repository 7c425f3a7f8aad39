r"""The kernel's table of mounts, /proc/self/mountinfo (proc_pid_mountinfo(5)).

Everything is parsed as bytes, because a path of Linux is bytes: the kernel writes a blank, tab, newline and backslash
of it as three octal digits (``\040``), and every other byte as it is. Text split at what Unicode calls a line or a
blank would tear a name apart that contains such a character. Paths come out as ``os.fsdecode`` makes them.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
#: What the kernel calls a mounted mesh. The second is that of a mount by another program on meshfs' behalf.
MESH_TYPES: Final = ("fuse.meshfs", "meshfs")

_ESCAPED: Final = re.compile(rb"\\([0-3][0-7]{2})")
_SEPARATOR: Final = b" - "
_POINT: Final = 4


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. `device` is that of the file system, as os.makedev gives it."""

    device: int
    point: str
    type: str
    source: str

    @property
    def is_mesh(self) -> bool:
        return self.type in MESH_TYPES


def read_mounts(path: Path = MOUNTINFO) -> list[Mount]:
    """The mounts this process sees, the oldest first; none where the file is missing."""
    try:
        return list(parse_mounts(path.read_bytes()))
    except FileNotFoundError:
        return []


def parse_mounts(mountinfo: bytes) -> Iterator[Mount]:
    """Lines: id parent major:minor root point options ... - type source superoptions; others are left out."""
    for line in mountinfo.split(b"\n"):
        head, separator, tail = line.partition(_SEPARATOR)
        fields, described = head.split(b" "), tail.split(b" ")
        if not separator or len(fields) <= _POINT or len(described) < 2:
            continue
        major, _, minor = fields[2].partition(b":")
        device = os.makedev(int(major), int(minor))
        yield Mount(device, unescape(fields[_POINT]), os.fsdecode(described[0]), unescape(described[1]))


def topmost(mounts: list[Mount], point: str) -> Mount | None:
    """The mount that a path lookup of `point` (absolute, without symlinks) ends in: the newest one there."""
    return next((mount for mount in reversed(mounts) if mount.point == point), None)


def unescape(field: bytes) -> str:
    """A path as the kernel writes it in a table of proc, with its octal escapes resolved."""
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), field))
