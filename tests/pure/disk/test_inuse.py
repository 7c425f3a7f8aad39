import os
from pathlib import Path

from meshfs.disk.discovery.inuse import (
    Relation,
    UseFacts,
    family_of,
    gather,
    holder,
    mounted,
    parse_swaps,
    safe_paths,
    used_by,
)
from meshfs.linux.mountinfo import parse_mounts

SDA = ("dev", os.makedev(8, 0))
SDA1 = ("dev", os.makedev(8, 1))
IMAGE = ("file", 64769, 12)


def everywhere(path: str) -> bool:
    return True


def test_nothing_uses_an_unused_disk() -> None:
    facts = UseFacts(mounts=((SDA1, "/boot"),), swaps=((("file", 64769, 13), "/swap"),))
    assert used_by((Relation(IMAGE),), facts) is None


def test_each_use_is_named() -> None:
    image, disk = (Relation(IMAGE),), (Relation(SDA),)
    assert used_by(disk, UseFacts(mounts=((SDA, "/mnt"),))) == "mounted on /mnt"
    assert used_by(image, UseFacts(swaps=((IMAGE, "/swapfile"),))) == "swap space (/swapfile)"
    assert used_by(image, UseFacts(loops=((IMAGE, "/dev/loop3"),))) == "the backing file of /dev/loop3"
    assert used_by((Relation(SDA, holders=("dm-0", "md1")),), UseFacts()) == "held by dm-0, md1"


def test_a_relatives_use_is_a_use() -> None:
    family = (Relation(SDA), Relation(SDA1, "partition sda1"))
    assert used_by(family, UseFacts(mounts=((SDA1, "/boot"),))) == "its partition sda1 is mounted on /boot"
    held = (Relation(SDA1), Relation(SDA, "whole disk sda", ("md0",)))
    assert used_by(held, UseFacts()) == "its whole disk sda is held by md0"


def test_mounts_are_found_by_number_and_by_source() -> None:
    text = (
        b"36 25 8:1 / /mnt/with\\040blank rw shared:1 - ext4 /dev/nowhere rw\n"
        b"40 25 0:44 /sub /btrfs rw - btrfs /dev/null rw\n"
        b"garbage\n"
    )
    mounts = list(mounted(parse_mounts(text), everywhere))
    assert (SDA1, "/mnt/with blank") in mounts
    assert (("dev", os.makedev(0, 44)), "/btrfs") in mounts
    assert len(mounts) == 2  # /dev/null is no block device.


def test_swaps_name_files_and_devices(tmp_path: Path) -> None:
    swap = tmp_path / "swap file"
    swap.touch()
    text = f"Filename Type Size Used Priority\n{str(swap).replace(' ', chr(92) + '040')} file 1024 0 -2\n"
    status = swap.stat()
    assert list(parse_swaps(text.encode(), everywhere)) == [(("file", status.st_dev, status.st_ino), str(swap))]
    assert list(parse_swaps(b"Filename\n/gone/swap file 1 0 -2\n", everywhere)) == []


MOUNTS = list(
    parse_mounts(
        b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        b"2 1 0:5 / /dev rw - devtmpfs udev rw\n"
        b"3 1 0:50 / /stuck rw - fuse.stuck stuck rw\n"
        b"4 1 8:1 /srv /srv/bound rw - ext4 /dev/sda1 rw\n"
        b"5 1 0:51 / /home rw - nfs4 server:/home rw\n"
        b"6 5 8:1 /again /home rw - ext4 /dev/sda1 rw\n"
    )
)


def test_a_path_lies_in_the_longest_and_newest_mount_above_it() -> None:
    points = {path: getattr(holder(MOUNTS, path), "device", None) for path in ("/a", "/stuck", "/stuck/a", "/stucky")}
    root, stuck = os.makedev(8, 1), os.makedev(0, 50)
    assert points == {"/a": root, "/stuck": stuck, "/stuck/a": stuck, "/stucky": root}
    assert getattr(holder(MOUNTS, "/home/a"), "type", None) == "ext4"
    assert holder([], "/a") is None


def test_nothing_in_anothers_file_system_is_looked_at() -> None:
    is_safe = safe_paths(MOUNTS, "/srv/disk.img")
    assert [path for path in ("/dev/sdb", "/other.img", "/srv/bound/x", "/stuck/loop.img") if is_safe(path)] == [
        "/dev/sdb",
        "/other.img",
        "/srv/bound/x",
    ]
    # The images of a file system that may be stuck are also searched for a disk that lies in it.
    assert safe_paths(MOUNTS, "/stuck/disk.img")("/stuck/loop.img")
    assert not safe_paths(MOUNTS, "/stuck/disk.img")("/other.img")


def test_a_family_is_the_disk_its_partitions_and_its_whole(tmp_path: Path) -> None:
    disk = tmp_path / "devices/sda"
    for folder, number in ((disk, "8:0"), (disk / "sda1", "8:1"), (disk / "sda2", "8:2")):
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
    (disk / "sda1/partition").write_text("1\n")
    (disk / "sda2/partition").write_text("2\n")
    (disk / "sda2/holders/dm-0").mkdir()
    links = tmp_path / "dev/block"
    links.mkdir(parents=True)
    for folder in (disk, disk / "sda1"):
        (links / (folder / "dev").read_text().strip()).symlink_to(folder)
    whole = family_of(block_status(8, 0), tmp_path)
    assert [relation.relative for relation in whole] == ["", "partition sda1", "partition sda2"]
    assert whole[2].holders == ("dm-0",)
    part = family_of(block_status(8, 1), tmp_path)
    assert [relation.relative for relation in part] == ["", "whole disk sda"]
    assert family_of(block_status(9, 9), tmp_path) == (Relation(("dev", os.makedev(9, 9))),)


def test_gathering_on_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert gather(tmp_path, tmp_path, tmp_path) == UseFacts()


def block_status(major: int, minor: int) -> os.stat_result:
    """Return the os.stat_result of a block device: the mode, the other positional fields, and st_rdev at the end."""
    fields = [0o060660, 1, 5, 1, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 4096, 0, os.makedev(major, minor)]
    return os.stat_result(fields)
