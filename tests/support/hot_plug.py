"""A cluster whose disks are images in folders, and random hot plugs that every mount must show in time.

    plug = HotPlug(cluster, mounts, seed)
    plug.round()       changes one image, and waits until every mount shows the change
    plug.check_all()   compares everything that the mounts show with the folders

A round removes an image, returns one to its own node or to another one, grows one, or moves one to another slot.
"""

import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalFolder

IMAGE_BYTES = 8 * MIB
#: The bound of the promise: a change shows on every mount within this time.
SHOWN_WITHIN_S = 2.0
#: A round waits longer than the promise allows, to measure how late a change was shown.
GIVEN_UP_AFTER_S = 30.0
#: What I/O of a disk that was removed fails with.
REMOVED = (errno.EIO, errno.ENODEV)


@dataclass
class Plugged:
    """Describes an image: the node whose folder has it, its slot, its file and its size."""

    id: str
    node: str
    slot: int
    size_bytes: int
    label: str

    @property
    def file(self) -> str:
        return f"{self.slot:02d}-{self.label}.img"

    @property
    def slot_name(self) -> str:
        return f"slot{self.slot:02d}"


@dataclass
class HotPlug:
    """Changes the images of a cluster. ``steady`` images are never changed, so that a load can use them."""

    cluster: LocalCluster
    mounts: Sequence[Path]
    plugged: dict[str, Plugged]
    steady: frozenset[str]
    slots: int
    random: random.Random
    removed: dict[str, Plugged] = field(default_factory=dict)
    #: How long each kind of change took until the last mount showed it.
    took_s: dict[str, list[float]] = field(default_factory=dict)

    def round(self) -> None:
        """Make one random change, and wait until every mount shows it."""
        kinds: list[Callable[[], None]] = [self._grow, self._move, self._remove]
        if self.removed:
            kinds += [self._return, self._return]
        self.random.choice(kinds)()

    def check_all(self) -> None:
        """Check that each mount shows exactly the images in the folders: their ids, sizes, slots and nodes."""
        for mount in self.mounts:
            shown = {path.name: path.stat().st_size for path in (mount / "disk/by-id").iterdir()}
            assert shown == {disk.id: disk.size_bytes for disk in self.plugged.values()}, mount
            slots = {
                (enclosure.name, link.name): os.path.basename(os.readlink(link))
                for enclosure in (mount / "disk/by-enclosure").iterdir()
                for link in enclosure.iterdir()
            }
            assert slots == {(f"enc-{disk.node}-shelf", disk.slot_name): disk.id for disk in self.plugged.values()}, (
                mount
            )

    # --- changes -----------------------------------------------------------------------

    def _grow(self) -> None:
        disk = self._any()
        disk.size_bytes += MIB
        # As truncate(1) does: inotify tells of the end of a write, and not of truncate(2) without an open.
        with self._path(disk).open("r+b") as image:
            image.truncate(disk.size_bytes)
        self._await("grow", lambda mount: (mount / "disk/by-id" / disk.id).stat().st_size == disk.size_bytes)

    def _move(self) -> None:
        disk = self._any()
        before = self._path(disk)
        disk.slot = self._free_slot(disk.node)
        before.rename(self._path(disk))
        self._await("move", lambda mount: self._links_to(mount, disk))

    def _remove(self) -> None:
        """Remove an image that a program has open. Its I/O must fail at once."""
        disk = self._any()
        fd = os.open(self.random.choice(self.mounts) / "disk/by-id" / disk.id, os.O_RDONLY | os.O_DIRECT)
        try:
            self._path(disk).rename(self._outside / disk.label)
            del self.plugged[disk.id]
            self.removed[disk.id] = disk
            self._await("remove", lambda mount: not (mount / "disk/by-id" / disk.id).exists())
            started = time.monotonic()
            found = _read_errno(fd)
            assert found in REMOVED, f"a read of a removed disk gave errno {found}"
            assert time.monotonic() - started < SHOWN_WITHIN_S, "a read of a removed disk waited"
        finally:
            os.close(fd)

    def _return(self) -> None:
        """Put an image back, into its own node's folder or into another one."""
        disk = self.removed.pop(self.random.choice(sorted(self.removed)))
        disk.node = self.random.choice(sorted(self.cluster.nodes))
        disk.slot = self._free_slot(disk.node)
        (self._outside / disk.label).rename(self._path(disk))
        self.plugged[disk.id] = disk

        def shown(mount: Path) -> bool:
            return (mount / "disk/by-node" / disk.node / disk.id).exists() and self._links_to(mount, disk)

        self._await("return", shown)
        content = (self.random.choice(self.mounts) / "disk/by-id" / disk.id).read_bytes()[: len(disk.label)]
        assert content == disk.label.encode(), f"disk {disk.id} returned with another content: {content!r}"

    # --- helpers -----------------------------------------------------------------------

    def _any(self) -> Plugged:
        return self.plugged[self.random.choice(sorted(self.plugged.keys() - self.steady))]

    def _free_slot(self, node: str) -> int:
        taken = {disk.slot for disk in self.plugged.values() if disk.node == node}
        return self.random.choice([slot for slot in range(1, self.slots + 1) if slot not in taken])

    def _path(self, disk: Plugged) -> Path:
        return folder_of(self.cluster, disk.node) / disk.file

    @property
    def _outside(self) -> Path:
        folder = self.cluster.folder / "outside"
        folder.mkdir(exist_ok=True)
        return folder

    def _links_to(self, mount: Path, disk: Plugged) -> bool:
        link = mount / "disk/by-enclosure" / f"enc-{disk.node}-shelf" / disk.slot_name
        try:
            return os.path.basename(os.readlink(link)) == disk.id
        except FileNotFoundError:
            return False

    def _await(self, kind: str, shown: Callable[[Path], bool]) -> None:
        started = time.monotonic()
        for mount in self.mounts:
            while not _try(shown, mount):
                waited_s = time.monotonic() - started
                assert waited_s < GIVEN_UP_AFTER_S, f"{mount} does not show the change ({kind}) after {waited_s:.1f} s"
                time.sleep(0.01)
        self.took_s.setdefault(kind, []).append(time.monotonic() - started)


def _try(shown: Callable[[Path], bool], mount: Path) -> bool:
    try:
        return shown(mount)
    except OSError as error:
        # The path may be one of a moment ago.
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENODEV):
            raise
        return False


def _read_errno(fd: int) -> int:
    try:
        os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
    except OSError as error:
        return error.errno or -1
    return 0


def folder_of(cluster: LocalCluster, node: str) -> Path:
    """Return the folder of a node's images."""
    return cluster.folder / "images" / node


def add_nodes(cluster: LocalCluster, nodes: int, disks: int, slots: int) -> None:
    """Add nodes to the cluster, each with a folder of images. Each image begins with its label."""
    for number in range(1, nodes + 1):
        node = cluster.add_node(f"n{number}")
        folder = folder_of(cluster, node.name)
        folder.mkdir(parents=True)
        node.folders.append(LocalFolder("shelf", folder, {"slots": slots}))
        for slot in range(1, disks + 1):
            label = f"{node.name}-image{slot}"
            path = folder / f"{slot:02d}-{label}.img"
            path.write_bytes(label.encode())
            os.truncate(path, IMAGE_BYTES)


def plugged_in(cluster: LocalCluster) -> Mapping[str, Plugged]:
    """Return the images of a cluster whose exporters have run, by their ids."""
    found = {}
    for node in cluster.nodes:
        for path in folder_of(cluster, node).iterdir():
            slot, label = path.stem.split("-", 1)
            disk_id = os.getxattr(path, "user.meshfs.id").decode()
            found[disk_id] = Plugged(disk_id, node, int(slot), path.stat().st_size, label)
    return found
