"""The owner lost acknowledged writes: each writer that has not had EIO yet gets it, also from a restarted exporter."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run
from support.direct import errno_of

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SIZE = 4 * MIB


class FailingFile:
    """A file on a FUSE file system whose I/O fails on demand. It is an exporter's image."""

    def __init__(self, process: "subprocess.Popen[str]", path: Path) -> None:
        self._process = process
        self.path = path

    def fail(self, number: int) -> None:
        """Let every later read, write and flush end with this errno. With 0, they work again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.path.name} {number}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def failing_file(folder: Path) -> Iterator[FailingFile]:
    folder.mkdir()
    options = json.dumps({"nodes": {"x": 1}, "size_bytes": SIZE})
    command = [sys.executable, "-m", "meshlab.fakes.mount", str(folder), options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield FailingFile(process, folder / "disk/by-id/meshfs-x-disk0")
        finally:
            # The exporter may still have the file open, and then the process would not end by itself.
            run("umount", "--lazy", folder)
            process.kill()


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[FailingFile]:
    with failing_file(tmp_path / "failing") as file:
        yield file


def errno_of_fsync(fd: int) -> int:
    return errno_of(lambda: os.fsync(fd))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_a_loss_is_told_to_all_writers_although_the_exporter_restarts(
    new_cluster: NewCluster, failing: FailingFile, cache: str, how: signal.Signals
) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [LocalDisk("disk0", failing.path, {"cache": cache})])
    for name in ("n2", "n3"):
        cluster.add_node(name)
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    first, second = (os.open(cluster.mount(name) / "disk/by-node/n1/disk0", os.O_RDWR) for name in ("n2", "n3"))
    os.pwrite(first, b"first", 0)
    os.pwrite(second, b"second", MIB)
    failing.fail(errno.EIO)
    assert errno_of_fsync(first) == errno.EIO
    # The second writer has had no error yet, and the exporter that knows of the loss ends.
    failing.fail(0)
    cluster.stop_exporter("n1", how)
    cluster.start_exporter("n1")
    assert errno_of_fsync(second) == errno.EIO
    assert errno_of_fsync(second) == errno_of_fsync(first) == 0
    os.pwrite(second, b"again", MIB)
    cluster.stop_exporter("n1", how)
    cluster.start_exporter("n1")
    # After a restart without a loss, nobody gets an error.
    assert errno_of_fsync(second) == errno_of_fsync(first) == 0
    os.close(first)
    os.close(second)


def test_a_disk_that_cannot_be_flushed_at_the_exporters_orderly_end_has_lost_its_writes(
    new_cluster: NewCluster, failing: FailingFile
) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [LocalDisk("disk0", failing.path, {})])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    fd = os.open(cluster.mount("n2") / "disk/by-node/n1/disk0", os.O_RDWR)
    os.pwrite(fd, b"never flushed", 0)
    failing.fail(errno.EIO)
    cluster.stop_exporter("n1")
    failing.fail(0)
    cluster.start_exporter("n1")
    assert errno_of_fsync(fd) == errno.EIO
    assert errno_of_fsync(fd) == 0
    os.close(fd)


def test_an_unmount_flushes_what_a_program_closed_without_fsync(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", SIZE)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")

    def flushes() -> int:
        return int(cluster.control("n1")["disks"][0]["flushes"])

    (cluster.mount("n2") / "disk/by-node/n1/disk0").open("r+b").close()
    cluster.unmount("n2")
    assert flushes() == 0
    with (cluster.mount("n2", label="again") / "disk/by-node/n1/disk0").open("r+b") as file:
        file.write(b"closed without fsync")
    assert flushes() == 0
    cluster.unmount("again")
    assert flushes() == 1


def test_sync_of_the_disks_file_reaches_the_owner_and_sync_of_all_does_not(new_cluster: NewCluster) -> None:
    """FUSE passes sync(2) and syncfs(2) on to virtiofs only, as docs/admin/durability.md says."""
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", SIZE)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"

    def flushes() -> int:
        return int(cluster.control("n1")["disks"][0]["flushes"])

    with path.open("r+b") as file:
        file.write(b"news")
    run("sync", "--file-system", path)
    assert flushes() == 0
    for count, arguments in enumerate((("--data",), ()), 1):
        run("sync", *arguments, path)
        assert flushes() == count
