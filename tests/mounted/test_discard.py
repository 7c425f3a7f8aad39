"""meshctl discard on real processes: an image and a loop device of n1 are discarded and zeroed from n2."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support.commands import run

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SIZE = 16 * MIB
FULL = b"\xaa" * SIZE


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("discard")) as cluster:
        image = cluster.image("image", SIZE)
        backing = cluster.folder / "backing.img"
        with backing.open("wb") as file:
            file.truncate(SIZE)
        read_only = cluster.image("readonly", SIZE, access="ro")
        cluster.add_node("n1", [image, cluster.loop("device", backing), read_only])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        cluster.mount("n2")
        yield cluster
    assert list(tracebacks(cluster.logs)) == []


def disk_path(cluster: LocalCluster, disk: str) -> Path:
    return cluster.mountpoint("n2") / "disk/by-node/n1" / disk


def fill(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(FULL)
        os.fsync(file.fileno())


def discard(cluster: LocalCluster, disk: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return cluster.meshctl("discard", str(disk_path(cluster, disk)), *options, check=check)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize(("disk", "backing"), [("image", "disks/image.img"), ("device", "backing.img")])
def test_a_discard_frees_the_blocks_at_the_owner(cluster: LocalCluster, disk: str, backing: str) -> None:
    path, file = disk_path(cluster, disk), cluster.folder / backing
    fill(path)
    assert file.stat().st_blocks * 512 >= SIZE
    shown = discard(cluster, disk, "--yes", "--offset", "100", "--length", "8M").stdout
    assert f"discarded {8 * MIB} bytes of disk meshfs-n1-{disk} (n1/{disk}), from byte 100 on" in shown
    assert SIZE - file.stat().st_blocks * 512 >= 8 * MIB - 2 * 65536
    with opened(path) as fd:
        assert os.pread(fd, 100, 0) == FULL[:100]
        assert os.pread(fd, SIZE, 100 + 8 * MIB) == FULL[100 + 8 * MIB :]
    discard(cluster, disk, "--yes")
    assert file.stat().st_blocks * 512 <= MIB
    counts = {each["name"]: each for each in cluster.control("n1")["disks"]}[disk]
    assert counts["discards"] > 0
    assert counts["discarded_bytes"] >= 16 * MIB


@pytest.mark.parametrize("disk", ["image", "device"])
def test_zeroing_is_exact_and_seen_through_the_page_cache(cluster: LocalCluster, disk: str) -> None:
    path = disk_path(cluster, disk)
    fill(path)
    with opened(path) as fd:
        assert os.pread(fd, SIZE, 0) == FULL
        refused = discard(cluster, disk, "--yes", "--zero", check=False)
        assert (refused.returncode, "open files" in refused.stderr) == (1, True)
        assert os.pread(fd, SIZE, 0) == FULL
        discard(cluster, disk, "--yes", "--zero", "--force", "--offset", "5000", "--length", "3000000")
        # The open file had all pages in the page cache.
        assert os.pread(fd, SIZE, 0) == FULL[:5000] + bytes(3000000) + FULL[3005000:]


def test_a_file_system_is_not_discarded_without_force(cluster: LocalCluster) -> None:
    path = disk_path(cluster, "image")
    discard(cluster, "image", "--yes", "--force", "--zero")
    run("mkfs.ext4", "-q", "-L", "precious", path)
    refused = discard(cluster, "image", "--yes", check=False)
    assert (refused.returncode, "it holds ext4 with the label precious" in refused.stderr) == (1, True)
    found = json.loads(discard(cluster, "image", "--yes", "--force", "--json").stdout)
    assert (found["ok"], found["done"]) == (True, SIZE)


def test_a_disk_that_may_only_be_read_is_refused(cluster: LocalCluster) -> None:
    for more in ((), ("--zero",)):
        refused = discard(cluster, "readonly", "--yes", "--force", *more, check=False)
        assert (refused.returncode, "this node may only read it" in refused.stderr) == (1, True)


def test_a_disk_under_a_loop_device_is_in_use(cluster: LocalCluster) -> None:
    device = run("losetup", "--find", "--show", disk_path(cluster, "image")).strip()
    try:
        refused = discard(cluster, "image", "--yes", check=False)
        assert (refused.returncode, "open files" in refused.stderr) == (1, True)
    finally:
        run("losetup", "--detach", device)
