"""Inodes, directories and symlinks of a mount."""

import stat
from collections.abc import Iterable
from dataclasses import replace

import pytest

from meshfs import limits
from meshfs.model import Access, DiskInfo
from meshfs.namespace.catalog import Catalog, CatalogDisk
from meshfs.namespace.entries import Directory, DiskFile, StatusFile, Symlink, TreeEntry
from meshfs.namespace.tree import MeshTree
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
    assert listing(tree, "/enclosure/by-id") == listing(tree, "/enclosure/by-node") == []
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
