"""A disk of 4096-byte sectors (4Kn) through the mesh, and a loop device over it."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SECTOR_BYTES = 4096
# The beginning and the length of the only partition, in sectors of the disk.
PARTITION = (256, 2048)


def partition_table() -> bytes:
    """Return a master boot record with one Linux partition. Its numbers count sectors, whatever their size."""
    entry = struct.pack("<4xB3xII", 0x83, *PARTITION)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


@contextmanager
def loop(*options: str | Path) -> Iterator[Path]:
    device = Path(run("losetup", "--find", "--show", *options).strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def sector_bytes(device: Path) -> int:
    return int(run("blockdev", "--getss", device))


@pytest.fixture
def disk(new_cluster: NewCluster) -> Iterator[Path]:
    """Return the file of a 4Kn disk of n1 in the mount of n2."""
    cluster = new_cluster()
    backing = cluster.image("backing", 64 * MIB).path
    with loop("--sector-size", str(SECTOR_BYTES), backing) as device:
        cluster.add_node("n1", [LocalDisk("disk0", device, {})])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        yield cluster.mount("n2") / "disk/by-node/n1/disk0"
        cluster.close()


def attribute(disk: Path, name: str) -> str:
    return os.getxattr(disk, f"user.meshfs.{name}").decode()


def test_its_sector_sizes_are_told(disk: Path) -> None:
    assert attribute(disk, "logical_block_size") == attribute(disk, "physical_block_size") == str(SECTOR_BYTES)


def partition(device: Path) -> tuple[int, ...]:
    """Return where the partition lies, in bytes.

    partx counts in units of 512 bytes, whatever the device's sectors are.
    """
    shown = run("partx", "--show", "--noheadings", "--output", "START,SECTORS", device)
    return tuple(int(number) * 512 for number in shown.split())


def test_a_loop_device_needs_its_sector_size(disk: Path) -> None:
    """A partition table counts in sectors.

    A loop device of 512-byte sectors therefore puts the partition in the wrong place.
    """
    with loop("--sector-size", str(SECTOR_BYTES), "--direct-io=on", disk) as device:
        assert sector_bytes(device) == SECTOR_BYTES
        with device.open("r+b", buffering=0) as file:
            file.write(partition_table().ljust(SECTOR_BYTES, b"\0"))
    with loop("--sector-size", str(SECTOR_BYTES), disk) as device:
        assert partition(device) == tuple(sectors * SECTOR_BYTES for sectors in PARTITION)
    with loop(disk) as device:
        assert sector_bytes(device) == 512
        assert partition(device) == tuple(sectors * 512 for sectors in PARTITION)


def test_a_file_system_on_it(disk: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with loop("--sector-size", str(SECTOR_BYTES), disk) as device:
        run("mkfs.ext4", "-q", device)
        run("mount", device, point)
        try:
            (point / "file").write_bytes(b"kept" * MIB)
        finally:
            run("umount", point)
    with loop("--sector-size", str(SECTOR_BYTES), disk) as device:
        run("mount", "-o", "ro", device, point)
        try:
            assert (point / "file").read_bytes() == b"kept" * MIB
        finally:
            run("umount", point)
