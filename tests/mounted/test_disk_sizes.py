"""Disks that grow and shrink, with real loop devices and images: the mount shows the new end."""

import errno
import os
import signal

import pytest

from meshlab.cluster.cluster import LocalDisk
from support.commands import until
from support.direct import read_errno, write_errno
from support.vanishing_device import SIZE, Device, NewCluster, await_size, await_state, state_of, up, why_of

pytestmark = pytest.mark.mounted


@pytest.mark.parametrize("how", ["look", "reload"])
def test_a_grown_image_is_used_to_its_new_end(new_cluster: NewCluster, how: str) -> None:
    cluster = new_cluster()
    image = cluster.image("grows", SIZE - 1000)
    disks = up(cluster, image)
    path = disks / "grows"
    before = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(before, 4096, SIZE - 1000) == b""
        os.truncate(image.path, 2 * SIZE + 1536)
        if how == "reload":
            os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
        await_size(path, 2 * SIZE + 1536)
        with path.open("r+b", buffering=0) as file:
            file.seek(2 * SIZE)
            assert file.write(b"n" * 1536) == 1536
            os.fsync(file.fileno())
        assert image.path.read_bytes()[-1536:] == b"n" * 1536
        assert os.stat(image.path).st_size == 2 * SIZE + 1536
        with path.open("rb") as file:
            file.seek(SIZE - 1000)
            assert file.read() == bytes(SIZE + 1000) + b"n" * 1536
        assert read_errno(path, SIZE) == 0
        assert state_of(path) == "ok"
    finally:
        os.close(before)
    cluster.meshctl("status", str(cluster.mountpoint("n2")))


def test_a_grown_device_is_used_to_its_new_end(new_cluster: NewCluster, device: Device) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("grows", device.link))
    device.resize(2 * SIZE)
    await_size(disks / "grows", 2 * SIZE)
    assert write_errno(disks / "grows", 2 * SIZE - 4096) == 0
    assert write_errno(disks / "grows", 2 * SIZE) == errno.ENOSPC


def test_a_disk_that_shrank_is_a_problem_and_is_not_extended_again(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    image = cluster.image("shrinks", SIZE)
    disks = up(cluster, image)
    path = disks / "shrinks"
    os.truncate(image.path, SIZE // 2)
    await_state(path, "failing")
    assert f"it shrank from {SIZE} to {SIZE // 2} bytes" in why_of(path)
    assert os.stat(path).st_size == SIZE
    assert write_errno(path, SIZE // 2) == errno.EIO
    assert read_errno(path, SIZE // 2) == errno.EIO
    assert write_errno(path, SIZE // 2 - 4096) == 0
    assert os.stat(image.path).st_size == SIZE // 2
    assert cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False).returncode == 1
    os.truncate(image.path, SIZE)
    until(lambda: "shrank" not in why_of(path), "the size is back", 20)
    # The errors are recent. The disk is ok after a while in which I/O works.
    assert write_errno(path, SIZE // 2) == 0
    assert read_errno(path, SIZE // 2) == 0
