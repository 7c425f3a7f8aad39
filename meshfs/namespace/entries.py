"""The entries of the tree of a mount: directories, symlinks, the status file, files of disks and enclosures. Pure."""

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, Self

from meshfs.enclosure_info import SlotInfo
from meshfs.model import Access
from meshfs.namespace.catalog import CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure

XATTR_PREFIX: Final = b"user.meshfs."
#: The prefix of the same attributes for callers who may not read the file.
XATTR_OPEN_PREFIX: Final = b"system.meshfs."
#: A slot with a longer name has no attribute. The kernel lists at most 64 KiB of names (XATTR_LIST_MAX). So the names
#: of all slots of an enclosure fit.
XATTR_SLOT_NAME_MAX_BYTES: Final = 96

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


class DeviceFile(TreeEntry, ABC):
    """Is the base class of the files that have extended attributes: those of disks and of enclosures."""

    __slots__ = ()

    @abstractmethod
    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes. Those with an unknown value are left out."""


class DiskFile(DeviceFile):
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
        info = self.disk.info
        return _named(
            {
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
        )


class EnclosureFile(DeviceFile):
    """Describes an enclosure's file. ``enclosure`` is the catalog's last entry for it."""

    __slots__ = ("enclosure",)

    def __init__(self, path: str, inode: int, mtime_ns: int, enclosure: CatalogEnclosure) -> None:
        info = enclosure.info
        super().__init__(path, inode, stat.S_IFREG | _MODES[info.access], info.changed_ns or mtime_ns)
        self.enclosure = enclosure

    def become(self, enclosure: CatalogEnclosure, now_ns: int) -> None:
        # The enclosure may have moved to a node whose clock is behind, so the time never goes back.
        self.mtime_ns = max(self.mtime_ns, enclosure.info.changed_ns or now_ns)
        self.mode = stat.S_IFREG | _MODES[enclosure.info.access]
        self.enclosure = enclosure

    def xattrs(self) -> dict[bytes, bytes]:
        info = self.enclosure.info
        slots = {f"slot.{slot.name}": _slot_text(slot) for slot in info.slots if _has_attribute(slot)}
        return _named(
            {
                "id": info.id,
                "node": info.node,
                "name": info.name,
                "kind": info.kind.value,
                "access": info.access.value,
                "state": self.enclosure.state,
                "why": info.why if self.enclosure.present else "",
                "vendor": info.vendor,
                "product": info.product,
                "revision": info.revision,
                "slots": str(len(info.slots)),
                **slots,
            }
        )


def _named(values: dict[str, str]) -> dict[bytes, bytes]:
    return {XATTR_PREFIX + name.encode(): value.encode(errors="replace") for name, value in values.items() if value}


def _has_attribute(slot: SlotInfo) -> bool:
    return len(slot.name.encode()) <= XATTR_SLOT_NAME_MAX_BYTES


def _slot_text(slot: SlotInfo) -> str:
    """Return a slot in words, for example "ok locate disk=image-1"."""
    lamps = [name for name, on in (("locate", slot.locate), ("fault", slot.fault)) if on]
    return " ".join([slot.status, *lamps, *([f"disk={slot.disk}"] if slot.disk else [])])
