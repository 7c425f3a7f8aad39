"""The identity of a disk's image or device: it is equal only for the same image or device."""

import os
from pathlib import Path

import pytest

from meshfs.disk.discovery import identity
from meshfs.disk.discovery.identity import Identity, identify
from meshfs.disk.discovery.scan import scan_disk


def identity_of(path: Path) -> Identity:
    fd = os.open(path, os.O_RDONLY)
    try:
        return identify(fd)
    finally:
        os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8192))
    return path


def test_an_image_stays_the_same_when_it_is_written_grown_or_renamed(image: Path) -> None:
    before = identity_of(image)
    assert before.place == ""
    with image.open("r+b") as file:
        file.write(b"news")
        file.truncate(1 << 20)
    os.utime(image, ns=(1, 1))
    image.chmod(0o600)
    moved = image.rename(image.with_name("moved.img"))
    link = moved.with_name("link.img")
    link.symlink_to(moved)
    assert identity_of(moved) == identity_of(link) == before
    assert scan_disk(link).instance == before.instance


def test_another_image_at_the_same_path_is_another_one(image: Path) -> None:
    """The file system may give the new file the inode number of the removed one."""
    seen = {identity_of(image).instance}
    for _ in range(20):
        image.unlink()
        image.write_bytes(bytes(8192))
        seen.add(identity_of(image).instance)
    assert len(seen) == 21


def test_a_copy_with_equal_times_and_content_is_another_one(image: Path) -> None:
    copy = image.with_name("copy.img")
    copy.write_bytes(image.read_bytes())
    status = image.stat()
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identity_of(copy) != identity_of(image)


def test_an_image_of_another_machine_is_another_one(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity_of(image)
    read = identity._text
    monkeypatch.setattr(identity, "_text", lambda file: "another" if file.name == "machine-id" else read(file))
    assert identity_of(image) != before


def tree_of(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"wwid": "eui.0025\n", "device/serial": "S4EV  "}, ["wwid eui.0025", "device/serial S4EV"]),
        ({"device/wwid": "naa.5000c500a1b2c3d4\n"}, ["device/wwid naa.5000c500a1b2c3d4"]),
        ({"dm/uuid": "LVM-abc\n", "size": "100"}, ["dm/uuid LVM-abc"]),
        ({"serial": "vd1"}, ["serial vd1"]),
        ({"size": "100", "diskseq": "9"}, []),
    ],
)
def test_the_names_of_a_device_are_those_it_keeps_over_reboots(
    tmp_path: Path, files: dict[str, str], names: list[str]
) -> None:
    assert identity._names_of_device(tree_of(tmp_path / "sda", files)) == names


def test_the_partitions_of_a_disk_are_told_apart(tmp_path: Path) -> None:
    disk = tree_of(tmp_path / "sda", {"device/wwid": "naa.5", "sda1/partition": "1", "sda1/start": "2048"})
    tree_of(disk / "sda2", {"partition": "2", "start": "4096"})
    whole, first, second = (identity._names_of_device(folder) for folder in (disk, disk / "sda1", disk / "sda2"))
    assert first == [*whole, "partition 1 from 2048"]
    assert second == [*whole, "partition 2 from 4096"]


def test_the_place_of_a_device_is_without_its_kernel_name(tmp_path: Path) -> None:
    bus = tmp_path / "devices/pci0/virtio1"
    disk = tree_of(bus / "block/vda", {"size": "1"})
    assert identity._place(disk, 0) == [str(bus)]
    virtual = tree_of(tmp_path / "devices/virtual/block/ram0", {"size": "1"})
    assert identity._place(virtual, 0) == [str(virtual)]
    assert identity._place(tmp_path / "gone", os.makedev(8, 1)) == ["8:1"]
