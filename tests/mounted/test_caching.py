"""A reader sees what another node wrote, when the caching of the mount and of the open allows it."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
BLOCK_BYTES = 4096
DISK = "disk/by-node/n1/disk0"


@pytest.fixture
def cluster(new_cluster: NewCluster) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", MIB)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    cluster.mount("n1")
    return cluster


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def first_byte(fd: int) -> bytes:
    """Return the first byte, by a read that O_DIRECT accepts as well."""
    with mmap(-1, BLOCK_BYTES) as memory:
        assert os.preadv(fd, [memory], 0) == BLOCK_BYTES
        return memory[:1]


def write_at_the_owner(cluster: LocalCluster, byte: bytes) -> None:
    path = cluster.folder / "mnt/n1" / DISK
    with opened(path, os.O_WRONLY | os.O_SYNC) as fd:
        os.pwrite(fd, byte * BLOCK_BYTES, 0)


@pytest.mark.parametrize(
    ("options", "flags", "at_once"),
    [
        pytest.param((), os.O_RDONLY, False, id="page-cache"),
        pytest.param((), os.O_RDONLY | os.O_DIRECT, True, id="direct"),
        pytest.param(("cache=none",), os.O_RDONLY, True, id="cache-none"),
    ],
)
def test_what_an_open_file_sees(cluster: LocalCluster, options: tuple[str, ...], flags: int, at_once: bool) -> None:
    disk = cluster.mount("n2", *options) / DISK
    write_at_the_owner(cluster, b"a")
    with opened(disk, flags) as fd:
        assert first_byte(fd) == b"a"
        write_at_the_owner(cluster, b"b")
        # The page cache serves what it has. It is coherent from close to open.
        assert first_byte(fd) == (b"b" if at_once else b"a")
    with opened(disk, flags) as fd:
        assert first_byte(fd) == b"b"


@pytest.mark.parametrize("how", ["msync", "close", "syncfs"])
def test_dirty_mapped_pages_reach_the_owner(cluster: LocalCluster, how: str) -> None:
    disk = cluster.mount("n2") / DISK
    with opened(disk, os.O_RDWR) as fd, mmap(fd, BLOCK_BYTES) as mapping:
        mapping[:4] = b"news"
        if how == "msync":
            mapping.flush()
        elif how == "close":
            os.close(os.dup(fd))
        else:
            subprocess.run(["sync", "--file-system", disk], check=True)
        assert cluster.nodes["n1"].disks[0].path.read_bytes()[:4] == b"news"


def test_the_bound_of_one_mount(cluster: LocalCluster) -> None:
    """The option `-o io_timeout=S` overrides the config's 30 s."""
    disk = cluster.mount("n2", "io_timeout=1") / DISK
    with opened(disk, os.O_RDONLY | os.O_DIRECT) as fd:
        assert first_byte(fd) == b"\0"
        cluster.stop_exporter("n1", signal.SIGKILL)
        begin_s = time.monotonic()
        with pytest.raises(OSError, match="timed out") as error:
            first_byte(fd)
    assert error.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - begin_s < cluster.io_timeout_s
