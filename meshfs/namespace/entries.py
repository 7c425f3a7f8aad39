"""The entries of the tree of a mount: directories, symlinks, the status file, and the files of disks. Pure."""

import stat
from collections.abc import Iterator
from typing import Final, Self

from meshfs.model import Access
from meshfs.namespace.catalog import CatalogDisk

XATTR_PREFIX: Final = b"user.meshfs."
#: The prefix of the same attributes for callers who may not read the disk.
XATTR_OPEN_PREFIX: Final = b"system.meshfs."

_MODES: Final = {Access.READ_WRITE: 0o660, Access.READ_ONLY: 0o440, Access.NONE: 0}


class TreeEntry:
    """Is the base class of all entries. ``mode`` includes the bits of the file type. Times are ns since the epoch."""

    __slots__ = ("inode", "mode", "mtime_ns", "path")

    def __init__(self, path: str, inode: int, mode: int, mtime_ns: int) -> None:
        self.path = path
        self.inode = inode
        self.mode = mode
        self.mtime_ns = mtime_ns


class Directory(TreeEntry):
    """Describes a directory. Lookup finds all ``entries``, and listing leaves out the names in ``hidden``."""

    __slots__ = ("entries", "hidden", "parent")

    def __init__(self, path: str, inode: int, mtime_ns: int, parent: Self | None) -> None:
        super().__init__(path, inode, stat.S_IFDIR | 0o755, mtime_ns)
        self.parent = parent if parent is not None else self
        self.entries: dict[bytes, TreeEntry] = {}
        self.hidden: frozenset[bytes] = frozenset()

    @property
    def links(self) -> int:
        return 2 + sum(isinstance(entry, Directory) for entry in self.entries.values())

    def listed(self) -> Iterator[tuple[bytes, TreeEntry]]:
        return ((name, node) for name, node in self.entries.items() if name not in self.hidden)


class Symlink(TreeEntry):
    """Describes a symbolic link, which contains the path ``target``."""

    __slots__ = ("target",)

    def __init__(self, path: str, inode: int, mtime_ns: int, target: bytes) -> None:
        super().__init__(path, inode, stat.S_IFLNK | 0o777, mtime_ns)
        self.target = target


class StatusFile(TreeEntry):
    """Describes the status file. Each open makes its content, because not every opener may see all users' I/O."""

    __slots__ = ()

    def __init__(self, path: str, inode: int, mtime_ns: int) -> None:
        super().__init__(path, inode, stat.S_IFREG | 0o444, mtime_ns)


class DiskFile(TreeEntry):
    """Describes a disk's file. ``disk`` is the catalog's last entry for it, and ``instance`` its device or image."""

    __slots__ = ("disk", "instance")

    def __init__(self, path: str, inode: int, mtime_ns: int, disk: CatalogDisk) -> None:
        super().__init__(path, inode, stat.S_IFREG | _MODES[disk.info.access], disk.info.written_ns or mtime_ns)
        self.disk = disk
        self.instance = disk.info.instance

    def is_of(self, disk: CatalogDisk) -> bool:
        """Return whether this can be the file of ``disk``. A disk without a known device keeps its file."""
        return not disk.info.instance or not self.instance or disk.info.instance == self.instance

    def become(self, disk: CatalogDisk, now_ns: int) -> None:
        if disk.info.written_ns:
            self.mtime_ns = max(self.mtime_ns, disk.info.written_ns)
        elif disk.info.size_bytes != self.disk.info.size_bytes:
            self.mtime_ns = now_ns
        self.mode = stat.S_IFREG | _MODES[disk.info.access]
        self.disk = disk
        self.instance = disk.info.instance or self.instance

    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes. Those with an unknown value (serial, slot, ...) are left out."""
        info = self.disk.info
        values = {
            "id": info.id,
            "node": info.node,
            "name": info.name,
            "model": info.model,
            "serial": info.serial,
            "logical_block_size": str(info.logical_block_size_bytes),
            "physical_block_size": str(info.physical_block_size_bytes),
            "rotational": str(int(info.rotational)),
            "cache": info.cache,
            "access": info.access.value,
            "state": self.disk.state,
            "why": info.why if self.disk.present else "",
            "enclosure": info.enclosure,
            "slot": info.slot,
        }
        return {XATTR_PREFIX + name.encode(): value.encode(errors="replace") for name, value in values.items() if value}
