"""The tree of a mount: inodes, directories and symlinks. Pure.

    /disk/by-id/<id>                          the disks
    /disk/by-node/<node>/<name>               -> ../../by-id/<id>
    /disk/by-enclosure/<enclosure>/<slot>     -> ../../by-id/<id>
    /enclosure/by-id/<id>                     the enclosures
    /enclosure/by-node/<node>/<name>          -> ../../by-id/<id>
    /.meshfs/status                           found by name but not listed; its content is made at open, as in /proc

``update`` changes the tree to show the disks and enclosures of the catalogs. A path of one kind keeps its inode number
for the mount's lifetime, also if it disappears and comes back. The tree remembers the ``limits.INODES_REMEMBERED_MAX``
most recent paths. A number is never used twice, so a forgotten path only gets a new number. A directory's mtime changes
with its contents.

A disk's file belongs to one device or image (``DiskInfo.instance``). If another one takes the name, the path gets
another inode. The kernel keeps cached pages by inode. So a file opened on the new disk never reads the old disk's
pages, and the old disk's dirty pages are never written to the new one.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from meshfs import limits
from meshfs.namespace.catalog import CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure
from meshfs.namespace.entries import Directory, DiskFile, EnclosureFile, StatusFile, Symlink, TreeEntry
from meshfs.namespace.slots import slots_of

ROOT_INODE: Final = 1
STATUS_PATH: Final = "/.meshfs/status"
BLOCK_BYTES: Final = 4096


class MeshTree:
    """Holds all entries by inode number. Only ``update`` changes them."""

    def __init__(self, nodes: Sequence[str], now_ns: int) -> None:
        self._cluster_nodes = tuple(nodes)
        self._next_inode = ROOT_INODE
        self._numbers: OrderedDict[tuple[type[TreeEntry], str], int] = OrderedDict()
        self._by_inode: dict[int, TreeEntry] = {}
        # Inodes of disks' files that the current update removed, or whose disks grew.
        self._stale: list[int] = []
        #: A line for each slot that two disks claim, or that is not shown.
        self.slot_problems: tuple[str, ...] = ()
        self.root = self._directory("/", None, now_ns)
        hidden = self._directory("/.meshfs", self.root, now_ns)
        status = StatusFile(STATUS_PATH, self._number(StatusFile, STATUS_PATH), now_ns)
        hidden.entries[b"status"] = self._by_inode[status.inode] = status
        self._hidden = hidden
        self.update({}, now_ns)

    def get(self, inode: int) -> TreeEntry | None:
        """Return the entry with that inode number, or None if there is none now."""
        return self._by_inode.get(inode)

    def disk_file(self, disk_id: str) -> DiskFile | None:
        """Return the file of a disk, or None if there is none now."""
        found: TreeEntry | None = self.root
        for name in (b"disk", b"by-id", disk_id.encode()):
            found = found.entries.get(name) if isinstance(found, Directory) else None
        return found if isinstance(found, DiskFile) else None

    def take_nodes(self, nodes: Sequence[str]) -> None:
        """Take the nodes of another config. The next ``update`` adds and removes their folders."""
        self._cluster_nodes = tuple(nodes)

    def update(
        self,
        disks: Mapping[str, CatalogDisk],
        now_ns: int,
        enclosures: Mapping[str, CatalogEnclosure] = MappingProxyType({}),
    ) -> list[int]:
        """Make the tree show exactly these disks and enclosures, and the folders of all the config's nodes.

        Returns the inodes of disks' files whose cached pages and attributes are no longer valid: files that are gone,
        and files of disks that grew, because a reader would otherwise still see the old end.
        """
        self._stale = []
        slots = slots_of(disks, enclosures)
        self.slot_problems = slots.problems
        by_enclosure = {
            enclosure: {slot: f"../../by-id/{disk_id}" for slot, disk_id in of_it.items()}
            for enclosure, of_it in slots.disks.items()
        }
        wanted = {
            "disk": {"by-id": disks, "by-node": self._by_node(disks), "by-enclosure": by_enclosure},
            "enclosure": {"by-id": enclosures, "by-node": self._by_node(enclosures)},
        }
        self._fill(self.root, wanted, now_ns)
        self.root.entries[b".meshfs"] = self._hidden
        self.root.hidden = frozenset((b".meshfs",))
        return self._stale

    def _by_node(
        self, entries: Mapping[str, CatalogDisk] | Mapping[str, CatalogEnclosure]
    ) -> dict[str, dict[str, str]]:
        """Return the links of the entries by node and name, with a folder for every node of the config."""
        by_node: dict[str, dict[str, str]] = {node: {} for node in self._cluster_nodes}
        for entry_id, entry in entries.items():
            by_node.setdefault(entry.info.node, {})[entry.info.name] = f"../../by-id/{entry_id}"
        return by_node

    def _fill(self, directory: Directory, wanted: Mapping[str, object], now_ns: int) -> None:
        """Make ``directory`` hold exactly ``wanted``, in which mappings are directories and texts are symlinks."""
        before = dict(directory.listed())
        prefix = directory.path.rstrip("/") + "/"
        after: dict[bytes, TreeEntry] = {}
        for name, what in wanted.items():
            key = name.encode()
            after[key] = self._entry(before.get(key), prefix + name, what, directory, now_ns)
        for key, node in before.items():
            if after.get(key) is not node:
                self._drop(node)
        if before.keys() != after.keys() or any(before[key] is not after[key] for key in before):
            directory.mtime_ns = now_ns
        directory.entries = after

    def _entry(self, old: TreeEntry | None, path: str, what: object, directory: Directory, now_ns: int) -> TreeEntry:
        node: TreeEntry
        if isinstance(what, CatalogDisk):
            if isinstance(old, DiskFile) and old.is_of(what):
                if what.info.size_bytes > old.disk.info.size_bytes:
                    self._stale.append(old.inode)
                if old.disk != what:
                    old.become(what, now_ns)
                return old
            node = DiskFile(path, self._number(DiskFile, f"{path}\0{what.info.instance}"), now_ns, what)
        elif isinstance(what, CatalogEnclosure):
            if isinstance(old, EnclosureFile):
                if old.enclosure != what:
                    old.become(what, now_ns)
                return old
            node = EnclosureFile(path, self._number(EnclosureFile, path), now_ns, what)
        elif isinstance(what, Mapping):
            node = old if isinstance(old, Directory) else self._directory(path, directory, now_ns)
            self._fill(node, what, now_ns)
        else:
            target = str(what).encode()
            if isinstance(old, Symlink) and old.target == target:
                return old
            node = Symlink(path, self._number(Symlink, path), now_ns, target)
        self._by_inode[node.inode] = node
        return node

    def _directory(self, path: str, parent: Directory | None, now_ns: int) -> Directory:
        directory = Directory(path, self._number(Directory, path), now_ns, parent)
        self._by_inode[directory.inode] = directory
        return directory

    def _drop(self, node: TreeEntry) -> None:
        # A replaced symlink has the same number as the new one, which must stay.
        if self._by_inode.get(node.inode) is node:
            del self._by_inode[node.inode]
            if isinstance(node, DiskFile):
                self._stale.append(node.inode)
        if isinstance(node, Directory):
            for entry in node.entries.values():
                self._drop(entry)

    def _number(self, kind: type[TreeEntry], path: str) -> int:
        key = (kind, path)
        number = self._numbers.get(key)
        if number is not None:
            self._numbers.move_to_end(key)
            return number
        number = self._numbers[key] = self._next_inode
        self._next_inode += 1
        if len(self._numbers) > limits.INODES_REMEMBERED_MAX:
            self._forget_oldest()
        return number

    def _forget_oldest(self) -> None:
        """Forget the least recently used path that is not in the tree now."""
        for key, number in self._numbers.items():
            if number not in self._by_inode:
                del self._numbers[key]
                return
