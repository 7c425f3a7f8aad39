"""Inodes, directories and symlinks of a mount."""

import stat
from collections.abc import Iterable
from dataclasses import replace

import pytest

from meshfs import limits
from meshfs.enclosure_info import SlotInfo
from meshfs.model import Access, DiskInfo
from meshfs.namespace.catalog import Catalog, CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure
from meshfs.namespace.entries import Directory, DiskFile, EnclosureFile, StatusFile, Symlink, TreeEntry
from meshfs.namespace.tree import MeshTree
from meshlab.fakes.enclosure_port import fake_enclosure
from meshlab.fakes.port import fake_disk


def present(*disks: DiskInfo) -> dict[str, CatalogDisk]:
    return {disk.id: CatalogDisk(disk, True) for disk in disks}


def at(tree: MeshTree, path: str) -> TreeEntry | None:
    node: TreeEntry | None = tree.root
    for name in filter(None, path.split("/")):
        assert isinstance(node, Directory)
        node = node.entries.get(name.encode())
        if node is None:
            return None
    return node


def listing(tree: MeshTree, path: str) -> list[str]:
    directory = at(tree, path)
    assert isinstance(directory, Directory)
    return [name.decode() for name, _ in directory.listed()]


def walk(directory: Directory) -> Iterable[TreeEntry]:
    yield directory
    for node in directory.entries.values():
        yield from walk(node) if isinstance(node, Directory) else (node,)


def test_the_tree_after_the_habits_of_dev_disk() -> None:
    disk = replace(fake_disk("n1", "a", 4096), enclosure="shelf1", slot="07")
    tree = MeshTree(["n1", "n2"], 1)
    tree.update(present(disk), 2)
    assert listing(tree, "/") == ["disk", "enclosure"]
    assert listing(tree, "/disk") == ["by-id", "by-node", "by-enclosure"]
    assert listing(tree, "/disk/by-node") == ["n1", "n2"]
    assert listing(tree, "/disk/by-node/n2") == []
    assert listing(tree, "/enclosure/by-id") == []
    assert listing(tree, "/enclosure/by-node") == ["n1", "n2"]
    for path in ("/disk/by-node/n1/a", "/disk/by-enclosure/shelf1/07"):
        link = at(tree, path)
        assert isinstance(link, Symlink)
        assert link.target == b"../../by-id/meshfs-n1-a"
    file = at(tree, f"/disk/by-id/{disk.id}")
    assert isinstance(file, DiskFile)
    assert file.mode == stat.S_IFREG | 0o660


def test_the_status_is_found_but_not_listed() -> None:
    tree = MeshTree(["n1"], 1)
    status = at(tree, "/.meshfs/status")
    assert isinstance(status, StatusFile)
    assert stat.S_IMODE(status.mode) == 0o444
    assert ".meshfs" not in listing(tree, "/")


def test_inode_numbers_stay_also_over_an_absence() -> None:
    first, second = fake_disk("n1", "a", 10), fake_disk("n1", "b", 10)
    tree = MeshTree(["n1"], 1)
    tree.update(present(first, second), 2)
    numbers = {node.path: node.inode for node in walk(tree.root)}
    assert len(set(numbers.values())) == len(numbers)
    assert numbers["/"] == 1
    gone = tree.get(numbers[f"/disk/by-id/{first.id}"])
    tree.update(present(second), 3)
    assert tree.get(numbers[f"/disk/by-id/{first.id}"]) is None
    assert tree.get(numbers["/disk/by-node/n1/a"]) is None
    tree.update(present(first, second), 4)
    assert {node.path: node.inode for node in walk(tree.root)} == numbers
    assert tree.get(numbers[f"/disk/by-id/{first.id}"]) is not gone
    assert all(tree.get(node.inode) is node for node in walk(tree.root))


def test_a_directory_changes_its_mtime_with_its_contents_only() -> None:
    disk = fake_disk("n1", "a", 10)
    tree = MeshTree(["n1"], 1)

    def times() -> dict[str, int]:
        return {node.path: node.mtime_ns for node in walk(tree.root) if isinstance(node, Directory)}

    tree.update(present(disk), 5)
    assert times()["/disk/by-id"] == times()["/disk/by-node/n1"] == 5
    assert times()["/disk"] == times()["/enclosure/by-id"] == 1
    before = times()
    tree.update(present(disk), 6)
    tree.update({disk.id: CatalogDisk(disk, False)}, 7)
    assert times() == before
    tree.update({}, 8)
    assert times()["/disk/by-id"] == times()["/disk/by-node/n1"] == 8


def test_a_disk_file_follows_its_announcement() -> None:
    disk = fake_disk("n1", "a", 10)
    tree = MeshTree(["n1"], 1)
    tree.update(present(disk), 2)
    file = at(tree, f"/disk/by-id/{disk.id}")
    assert isinstance(file, DiskFile)
    tree.update({disk.id: CatalogDisk(disk, False)}, 3)
    assert at(tree, f"/disk/by-id/{disk.id}") is file
    assert file.xattrs()[b"user.meshfs.state"] == b"absent"
    assert file.mtime_ns == 2
    tree.update(present(replace(disk, size_bytes=20, access=Access.READ_ONLY)), 4)
    assert at(tree, f"/disk/by-id/{disk.id}") is file
    assert (file.mtime_ns, file.mode, file.disk.info.size_bytes) == (4, stat.S_IFREG | 0o440, 20)


def test_another_disk_under_the_same_name_has_another_inode() -> None:
    one = replace(fake_disk("n1", "a", 4096), instance="one")
    tree = MeshTree(["n1"], 1)
    assert tree.update(present(one), 2) == []
    path = f"/disk/by-id/{one.id}"

    def inode() -> int:
        node = at(tree, path)
        assert node is not None
        return node.inode

    first = inode()
    # While the disk is missing, nobody knows which disk it is, and therefore nothing changes.
    assert tree.update(present(replace(one, instance="", size_bytes=0)), 3) == []
    # The size is back, and the kernel must not go on with the old one.
    assert tree.update(present(one), 4) == [first]
    assert inode() == first
    assert tree.update(present(replace(one, instance="two")), 5) == [first]
    second = inode()
    assert second != first
    assert tree.get(first) is None
    assert tree.update({}, 6) == [second]
    tree.update(present(replace(one, instance="two")), 7)
    assert inode() == second
    assert tree.update(present(replace(one, instance="")), 8) == []
    assert tree.update(present(one), 9) == [second]
    assert inode() == first


def test_a_link_to_another_disk_is_another_link() -> None:
    disk = fake_disk("n1", "a", 10)
    tree = MeshTree(["n1"], 1)
    tree.update(present(disk), 2)
    old = at(tree, "/disk/by-node/n1/a")
    tree.update(present(replace(disk, id="other")), 3)
    new = at(tree, "/disk/by-node/n1/a")
    assert isinstance(new, Symlink)
    assert isinstance(old, Symlink)
    assert new.target == b"../../by-id/other"
    assert new.inode == old.inode
    assert tree.get(new.inode) is new


def test_extended_attributes_tell_what_is_known() -> None:
    info = replace(fake_disk("n1", "a", 10, cache="writeback"), serial="S1", rotational=True)
    assert DiskFile("/x", 2, 0, CatalogDisk(info, True)).xattrs() == {
        b"user.meshfs.id": b"meshfs-n1-a",
        b"user.meshfs.node": b"n1",
        b"user.meshfs.name": b"a",
        b"user.meshfs.serial": b"S1",
        b"user.meshfs.logical_block_size": b"512",
        b"user.meshfs.physical_block_size": b"4096",
        b"user.meshfs.rotational": b"1",
        b"user.meshfs.cache": b"writeback",
        b"user.meshfs.access": b"rw",
        b"user.meshfs.state": b"ok",
    }


SLOTS = (
    SlotInfo("01", number=1, status="ok", locate=True, disk="image-1"),
    SlotInfo("02", number=2, status="not-installed", locate=True, fault=True),
    SlotInfo("x" * 200, number=3),
)


def test_the_tree_of_enclosures() -> None:
    info = fake_enclosure("n1", "shelf", slots=SLOTS, size_bytes=300)
    tree = MeshTree(["n1", "n2"], 1)
    tree.update({}, 2, {info.id: CatalogEnclosure(info, True)})
    assert listing(tree, "/enclosure/by-node/n2") == []
    link = at(tree, "/enclosure/by-node/n1/shelf")
    assert isinstance(link, Symlink)
    assert link.target == b"../../by-id/enc-n1-shelf"
    path = "/enclosure/by-id/enc-n1-shelf"
    file = at(tree, path)
    assert isinstance(file, EnclosureFile)
    assert (file.mode, file.mtime_ns) == (stat.S_IFREG | 0o660, info.changed_ns)
    moved = replace(info, node="n2", access=Access.READ_ONLY, changed_ns=info.changed_ns + 5)
    assert tree.update({}, 3, {info.id: CatalogEnclosure(moved, False)}) == []
    assert at(tree, path) is file
    assert (file.mode, file.mtime_ns) == (stat.S_IFREG | 0o440, info.changed_ns + 5)
    assert listing(tree, "/enclosure/by-node/n1") == []
    assert listing(tree, "/enclosure/by-node/n2") == ["shelf"]
    tree.update({}, 4)
    assert at(tree, path) is None
    tree.update({}, 5, {info.id: CatalogEnclosure(info, True)})
    again = at(tree, path)
    assert again is not None
    assert again.inode == file.inode


def test_extended_attributes_tell_what_is_in_the_slots() -> None:
    info = replace(fake_enclosure("n1", "shelf", slots=SLOTS), vendor="ACME", why="it was")
    assert EnclosureFile("/x", 2, 0, CatalogEnclosure(info, False)).xattrs() == {
        b"user.meshfs.id": b"enc-n1-shelf",
        b"user.meshfs.node": b"n1",
        b"user.meshfs.name": b"shelf",
        b"user.meshfs.kind": b"directory",
        b"user.meshfs.access": b"rw",
        b"user.meshfs.state": b"absent",
        b"user.meshfs.vendor": b"ACME",
        b"user.meshfs.slots": b"3",
        b"user.meshfs.slot.01": b"ok locate disk=image-1",
        b"user.meshfs.slot.02": b"not-installed locate fault",
    }


def test_the_names_of_all_attributes_fit_what_the_kernel_lists() -> None:
    slots = tuple(SlotInfo(f"{number:096}") for number in range(limits.SLOTS_PER_ENCLOSURE_MAX))
    file = EnclosureFile("/x", 2, 0, CatalogEnclosure(fake_enclosure("n1", "shelf", slots=slots), True))
    assert sum(len(name) + 1 for name in file.xattrs()) < 1 << 16
    assert len(file.xattrs()) > limits.SLOTS_PER_ENCLOSURE_MAX


def test_a_disk_that_moves_to_another_slot_has_its_link_there() -> None:
    disk = replace(fake_disk("n1", "a", 10), enclosure="enc", slot="03")
    other = replace(fake_disk("n1", "b", 10), enclosure="enc", slot="05")
    tree = MeshTree(["n1"], 1)
    tree.update(present(disk, other), 2)
    file = at(tree, f"/disk/by-id/{disk.id}")
    assert tree.slot_problems == ()
    tree.update(present(replace(disk, slot="05"), replace(other, slot="03")), 3)
    links = [at(tree, f"/disk/by-enclosure/enc/{slot}") for slot in ("03", "05")]
    assert [link.target for link in links if isinstance(link, Symlink)] == [
        b"../../by-id/meshfs-n1-b",
        b"../../by-id/meshfs-n1-a",
    ]
    assert at(tree, f"/disk/by-id/{disk.id}") is file
    tree.update(present(disk, replace(other, slot="03")), 4)
    assert len(tree.slot_problems) == 1


def test_numbers_of_paths_long_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INODES_REMEMBERED_MAX", 20)
    tree = MeshTree(["n1"], 1)
    seen: set[int] = set()
    for index in range(50):
        disk = fake_disk("n1", f"d{index}", 10)
        tree.update(present(disk), index)
        file = at(tree, f"/disk/by-id/{disk.id}")
        assert file is not None
        assert file.inode not in seen
        seen.add(file.inode)
    assert len(tree._numbers) <= 20
    assert all(tree.get(node.inode) is node for node in walk(tree.root))


def test_lists_of_other_enclosure_names_are_ignored() -> None:
    first = replace(fake_disk("n1", "a", 10), enclosure="../..", slot="1")
    second = replace(fake_disk("n1", "b", 10), enclosure="shelf", slot="")
    catalog = Catalog(["n1"])
    catalog.announce("n1", [first, second])
    tree = MeshTree(["n1"], 1)
    tree.update(catalog.disks, 2)
    assert listing(tree, "/disk/by-enclosure") == []
