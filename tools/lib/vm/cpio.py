"""Make an archive in cpio's "newc" format, which the kernel unpacks as its initramfs.

An archive is a sequence of entries, and the entry TRAILER!!! ends it. Each entry has a header of 110 characters (the
magic 070701 and thirteen numbers of eight hexadecimal digits), the name with a zero byte, and the data. The header with
the name is padded to a multiple of four bytes, and so are the data. See the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAGIC: Final = "070701"
TRAILER: Final = "TRAILER!!!"
ALIGNMENT: Final = 4


@dataclass(frozen=True)
class Entry:
    """Describes a file, folder, symlink or device. The mode includes the bits of the file type."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, *, executable: bool = False) -> Entry:
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Pack the entries. A folder has to come before its contents."""
    packed = [_packed(entry, number) for number, entry in enumerate(entries, start=1)]
    return b"".join([*packed, _packed(Entry(TRAILER, 0), 0)])


def _packed(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file system (two), device (two), name's size, checksum
    numbers = [inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0]
    header = MAGIC + "".join(f"{number:08X}" for number in numbers)
    return _padded(header.encode() + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
