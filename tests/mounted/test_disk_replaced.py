"""A disk is replaced under its name while programs have it open: they get ESTALE, and no data is mixed."""

import errno
import mmap
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import run, until
from support.direct import errno_of

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SIZE = 8 * MIB
BLOCK = 4096


class Replaceable:
    """A cluster whose n1 has one disk, which n2 mounts. ``replace`` puts another image behind the disk's name."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.images = [cluster.image("disk0", SIZE), cluster.image("other", SIZE)]
        for image, byte in zip(self.images, (b"O", b"N"), strict=True):
            image.path.write_bytes(byte * SIZE)
        cluster.add_node("n1", self.images[:1])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        self.path = cluster.mount("n2") / "disk/by-id/meshfs-n1-disk0"

    def replace(self, how: str) -> None:
        """Replace the image by a reload or restart with another path, or by another file at the same path."""
        disk = self.cluster.nodes["n1"].disks[0]
        if how == "same path":
            self.cluster.stop_exporter("n1")
            os.replace(self.images[1].path, disk.path)
            self.cluster.start_exporter("n1")
            return
        self.cluster.nodes["n1"].disks[0] = replace(disk, path=self.images[1].path)
        self.cluster.write()
        if how == "reload":
            running = self.cluster.exporters["n1"]
            running.process.send_signal(signal.SIGHUP)
            until(lambda: "reloaded" in running.log.read_text(), "the reload")
        else:
            if "n1" in self.cluster.exporters:
                self.cluster.stop_exporter("n1", signal.SIGKILL)
            self.cluster.start_exporter("n1")

    @property
    def now(self) -> Path:
        """Return the image that is served after the replacement."""
        return self.cluster.nodes["n1"].disks[0].path


@pytest.fixture
def mesh(new_cluster: NewCluster) -> Replaceable:
    return Replaceable(new_cluster(io_timeout_s=5))


def direct(byte: bytes = b"x") -> mmap.mmap:
    memory = mmap.mmap(-1, BLOCK)
    memory[:] = byte * BLOCK
    return memory


@pytest.mark.parametrize("how", ["reload", "restart", "same path"])
def test_what_was_open_on_the_old_disk_gets_estale_and_never_touches_the_new_one(mesh: Replaceable, how: str) -> None:
    cached = os.open(mesh.path, os.O_RDWR)
    uncached = os.open(mesh.path, os.O_RDWR | os.O_DIRECT)
    inode = os.fstat(cached).st_ino
    assert os.pread(cached, 2, 0) == b"OO"
    os.pwrite(cached, b"unflushed", BLOCK)
    mesh.replace(how)
    assert errno_of(lambda: os.preadv(uncached, [direct()], 0)) == errno.ESTALE
    assert errno_of(lambda: os.pwritev(uncached, [direct()], 0)) == errno.ESTALE
    assert errno_of(lambda: os.pwrite(cached, b"x", 0)) == errno.ESTALE
    assert errno_of(lambda: os.fsync(cached)) == errno.ESTALE
    # The first page is not in the cache, and the second one was.
    assert errno_of(lambda: os.pread(cached, 2, SIZE - BLOCK)) == errno.ESTALE
    until(lambda: errno_of(lambda: os.pread(cached, 2, 0)) == errno.ESTALE, "no cached page of the old disk")
    new = os.open(mesh.path, os.O_RDWR)
    assert os.fstat(new).st_ino != inode
    assert os.pread(new, 2, 0) == b"NN"
    os.pwrite(new, b"fresh", 0)
    os.fsync(new)
    for fd in (cached, uncached):
        assert errno_of(lambda fd=fd: os.preadv(fd, [direct()], 0)) == errno.ESTALE  # type: ignore[misc]
        os.close(fd)
    os.close(new)
    assert mesh.now.read_bytes() == b"fresh" + b"N" * (SIZE - 5)


def test_a_dirty_mapping_of_the_old_disk_is_not_written_to_the_new_one(mesh: Replaceable) -> None:
    fd = os.open(mesh.path, os.O_RDWR)
    inode = os.fstat(fd).st_ino
    with mmap.mmap(fd, SIZE) as mapping:
        mapping[:6] = b"mapped"
        mesh.replace("reload")
        # A file that is opened before the mount knows of the replacement belongs to the old disk.
        until(lambda: os.stat(mesh.path).st_ino != inode, "the mount shows the new disk")
        new = os.open(mesh.path, os.O_RDWR)
        assert os.pread(new, 6, 0) == b"NNNNNN"
        assert errno_of(mapping.flush) in (errno.ESTALE, errno.EIO)
        assert os.pread(new, 6, 0) == b"NNNNNN"
        os.close(new)
    os.close(fd)
    assert mesh.now.read_bytes() == b"N" * SIZE


def test_programs_that_open_it_after_the_replacement_see_the_new_disk(mesh: Replaceable) -> None:
    """They see the new disk at once, although the kernel remembers the name's old inode for a second."""
    run("cmp", mesh.path, mesh.images[0].path)
    mesh.replace("reload")
    run("cmp", mesh.path, mesh.now)
    assert mesh.path.stat().st_size == SIZE


def test_a_restart_with_the_same_image_is_not_noticed(mesh: Replaceable) -> None:
    fd = os.open(mesh.path, os.O_RDWR)
    os.pwrite(fd, b"kept", 0)
    inode = os.fstat(fd).st_ino
    mesh.cluster.stop_exporter("n1", signal.SIGKILL)
    mesh.cluster.start_exporter("n1")
    assert os.pread(fd, 4, 0) == b"kept"
    os.fsync(fd)
    assert os.fstat(fd).st_ino == mesh.path.stat().st_ino == inode
    os.close(fd)


def test_a_node_replaced_under_its_name_is_another_owner(mesh: Replaceable) -> None:
    """The name n1 goes to an exporter with another key and another image, as after new hardware."""
    fd = os.open(mesh.path, os.O_RDWR | os.O_DIRECT)
    mesh.cluster.stop_exporter("n1")
    for suffix in ("key", "pub"):
        (mesh.cluster.folder / f"keys/n1.{suffix}").unlink()
    mesh.cluster.keygen()
    mesh.replace("restart")
    # The error is ETIMEDOUT while the mount only knows the old key, because it cannot log in.
    assert errno_of(lambda: os.pwritev(fd, [direct()], 0)) in (errno.ESTALE, errno.ETIMEDOUT)
    assert errno_of(lambda: os.preadv(fd, [direct()], 0)) in (errno.ESTALE, errno.ETIMEDOUT)
    os.close(fd)
    assert mesh.now.read_bytes() == b"N" * SIZE
