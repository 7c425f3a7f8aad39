"""Discards reach disks that have commands for them, with the granules that the disks report, and cifs punches holes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run
from support.guest_disks import await_disk, await_disks

pytestmark = pytest.mark.guest

KIB = 1024
#: In sectors of 512 bytes: granules of 64 KiB, of which the first one begins at 8 KiB. Unmapped blocks read as zeros.
SCSI_DEBUG = ("dev_size_mb=64", "lbpu=1", "lbprz=1", "unmap_granularity=128", "unmap_alignment=16")


def up(cluster: LocalCluster, device: Path) -> Path:
    """Serve the device by n1, and return the path of the disk in the mount of n2."""
    cluster.add_node("n1", [LocalDisk("disk0", device)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    await_disks(path)
    return path


def fill(path: Path, size_bytes: int) -> None:
    with path.open("r+b") as file:
        file.write(b"\xaa" * size_bytes)
        os.fsync(file.fileno())


def content(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size_bytes)


def test_a_scsi_disk_is_unmapped_by_whole_granules(new_cluster: Callable[..., LocalCluster]) -> None:
    run("modprobe", "scsi_debug", *SCSI_DEBUG)
    cluster = new_cluster()
    try:
        device = await_disk("scsi_debug")
        path = up(cluster, device)
        (found,) = cluster.control("n1")["disks"]
        fill(path, MIB)
        cluster.meshctl("discard", str(path), "--yes", "--length", "1M")
        first, last = 8 * KIB, 8 * KIB + 15 * 64 * KIB
        assert content(path, MIB) == b"\xaa" * first + bytes(last - first) + b"\xaa" * (MIB - last)
        (found,) = cluster.control("n1")["disks"]
        assert (found["discards"], found["state"]) == (1, "ok")
        fill(path, MIB)
        cluster.meshctl("discard", str(path), "--yes", "--zero", "--offset", "1000", "--length", "100000")
        assert content(path, MIB) == b"\xaa" * 1000 + bytes(100000) + b"\xaa" * (MIB - 101000)
    finally:
        # The module can only be removed when no exporter has the disk any more, also if the test failed.
        cluster.close()
        run("modprobe", "--remove", "scsi_debug", status=None)


def test_an_nvme_disk_is_discarded(new_cluster: Callable[..., LocalCluster]) -> None:
    cluster = new_cluster()
    path = up(cluster, await_disk("nvme"))
    fill(path, MIB)
    cluster.meshctl("discard", str(path), "--yes")
    (found,) = cluster.control("n1")["disks"]
    assert found["discards"] >= 1
    assert (found["errors"], found["state"]) == (0, "ok")
