"""Disks that fail, are read-only or full: the caller gets the right errno, and the other disks go on."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]


@contextmanager
def small_tmpfs(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        # Unmount lazily: after a failure, the cluster still has its image there until it ends, which is later.
        run("umount", "--lazy", folder)


def up(cluster: LocalCluster, *bad: LocalDisk) -> Path:
    """Start n1 with the bad disks and a good one, and mount on n2. Return the folder of n1's disks as n2 sees it."""
    cluster.add_node("n1", [cluster.image("good", 8 * MIB), *bad])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    return cluster.mount("n2") / "disk/by-node/n1"


def read(path: Path, offset: int, size: int = 4096, flags: int = os.O_DIRECT) -> int:
    """Return the errno of a read, or 0."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        return 0 if os.preadv(fd, [mmap.mmap(-1, size)], offset) == size else -1
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)


def write(path: Path, offset: int, size: int = 4096, flags: int = os.O_DIRECT) -> int:
    """Return the errno of open, write, fsync or close, whichever failed first, or 0."""
    try:
        fd = os.open(path, os.O_WRONLY | flags)
        try:
            buffer = mmap.mmap(-1, size)
            buffer[:] = os.urandom(size)
            if os.pwritev(fd, [buffer], offset) != size:
                return -1
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def assert_good(disks: Path) -> None:
    assert write(disks / "good", 4096) == 0
    assert read(disks / "good", 4096) == 0


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("flags", [os.O_DIRECT, 0], ids=["direct", "buffered"])
def test_a_disk_that_returns_eio(new_cluster: NewCluster, cache: str, flags: int) -> None:
    """A loop device whose backing file was cut answers EIO past the cut."""
    cluster = new_cluster()
    backing = cluster.image("backing", 8 * MIB).path
    disks = up(cluster, cluster.loop("bad", backing, cache=cache))
    os.truncate(backing, 1 * MIB)
    run("blockdev", "--flushbufs", cluster.nodes["n1"].disks[1].path)
    assert read(disks / "bad", 4 * MIB, flags=flags) == errno.EIO
    assert read(disks / "bad", 0, flags=flags) == 0
    assert_good(disks)


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("flags", [os.O_DIRECT, 0], ids=["direct", "buffered"])
def test_a_disk_that_cannot_write(new_cluster: NewCluster, cache: str, flags: int) -> None:
    """A loop device's backing file was cut, and sealed so that no write makes it longer again."""
    cluster = new_cluster()
    backing = os.memfd_create("backing", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(backing, 8 * MIB)
        disks = up(cluster, cluster.loop("bad", Path(f"/proc/{os.getpid()}/fd/{backing}"), cache=cache))
        os.truncate(backing, 1 * MIB)
        fcntl.fcntl(backing, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        assert write(disks / "bad", 0, flags=flags) == 0
        assert write(disks / "bad", 4 * MIB, flags=flags) == errno.EIO
        assert write(disks / "bad", 0, flags=flags) == 0
        assert read(disks / "bad", 0) == 0
        assert_good(disks)
    finally:
        os.close(backing)


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("flags", [os.O_DIRECT, 0], ids=["direct", "buffered"])
def test_a_full_file_system_under_a_sparse_image(
    new_cluster: NewCluster, tmp_path: Path, cache: str, flags: int
) -> None:
    with small_tmpfs(tmp_path / "small", "4m") as small:
        cluster = new_cluster()
        disks = up(cluster, cluster.image("bad", 64 * MIB, file=str(small / "bad.img"), cache=cache))
        results = [write(disks / "bad", offset, 1 * MIB, flags) for offset in range(0, 8 * MIB, 1 * MIB)]
        assert results[0] == 0
        assert results[-1] == errno.ENOSPC
        assert_good(disks)
        cluster.close()


@pytest.mark.parametrize("flags", [os.O_DIRECT, 0], ids=["direct", "buffered"])
def test_a_disk_the_config_makes_read_only(new_cluster: NewCluster, flags: int) -> None:
    cluster = new_cluster()
    disks = up(cluster, cluster.image("bad", 8 * MIB, access="ro"))
    assert write(disks / "bad", 0, flags=flags) == errno.EROFS
    assert read(disks / "bad", 0, flags=flags) == 0
    assert_good(disks)


def test_a_device_that_is_read_only(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    disks = up(cluster, cluster.loop("bad", cluster.image("backing", 8 * MIB).path, read_only=True, access="ro"))
    assert write(disks / "bad", 0) == errno.EROFS
    assert read(disks / "bad", 0) == 0
    assert_good(disks)


def test_a_node_may_be_restricted(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", 8 * MIB)])
    cluster.add_node("n2")
    cluster.add_node("n3")
    text = cluster.write().read_text()
    end = text.index("[[node]]", text.index('"n1"'))
    cluster.config.write_text(text[:end] + '  [node.disk.nodes]\n  n2 = "ro"\n  n3 = "none"\n\n' + text[end:])
    cluster.keygen()
    cluster.start_exporter("n1")
    seen = [sorted(os.listdir(cluster.mount(node) / "disk/by-id")) for node in ("n1", "n2", "n3")]
    assert seen == [["meshfs-n1-disk0"], ["meshfs-n1-disk0"], []]
    names = {node: cluster.mountpoint(node) / "disk/by-node/n1/disk0" for node in ("n1", "n2")}
    assert write(names["n1"], 8 * KIB) == 0
    assert write(names["n2"], 8 * KIB) == errno.EROFS
    assert read(names["n2"], 8 * KIB) == 0
