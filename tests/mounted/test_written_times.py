"""Programs on other nodes see when a disk was last written. Backups notice changes by that time."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.limits import ASK_DISK_TIMEOUT_S, MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import run, until

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SIZE = 2 * MIB


class Seen:
    """The disk's file in one mount.

    If the owner does not answer within ASK_DISK_TIMEOUT_S, a stat gives the last known time, and later ones give it at
    once until the owner has answered. A stat must therefore show a write, unless this stat or an earlier one took that
    long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: A stat took so long that the next ones may give the last known time.
        self.is_late = False

    def stat(self, fd: int | None = None) -> os.stat_result:
        start = time.monotonic()
        status = os.stat(self.path if fd is None else fd)
        self.is_late |= time.monotonic() - start >= ASK_DISK_TIMEOUT_S
        return status

    def mtime_ns(self) -> int:
        return self.stat().st_mtime_ns

    def stat_after(self, before_ns: int, fd: int | None = None) -> os.stat_result:
        """Return the stat that shows a write after `before_ns`: the first one, or a later one on a busy machine."""
        status = self.stat(fd)
        if self.is_late:
            until(lambda: self.mtime_ns() > before_ns, "the owner answers")
            status, self.is_late = self.stat(fd), False
        assert status.st_mtime_ns > before_ns
        return status


class Written:
    """A disk of n1. n2, where a backup runs, and n3, which writes, mount it."""

    def __init__(self, cluster: LocalCluster, *, loop: bool = False) -> None:
        self.cluster = cluster
        disk = cluster.image("disk0", SIZE)
        if loop:
            disk = cluster.loop("disk0", disk.path)
        cluster.add_node("n1", [disk])
        for name in ("n2", "n3"):
            cluster.add_node(name)
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        self.here, self.there = (Seen(cluster.mount(name) / "disk/by-id/meshfs-n1-disk0") for name in ("n2", "n3"))
        # The time is older than what the test writes by more than a second, because backups round times.
        time.sleep(1.1)

    def write_there(self, data: bytes) -> None:
        fd = os.open(self.there.path, os.O_WRONLY)
        os.pwrite(fd, data, 4096)
        os.close(fd)

    def await_connected(self) -> None:
        """Wait until n2's mount is connected to n1. Before that, a stat gives the last known time."""
        status = self.cluster.mountpoint("n2") / ".meshfs/status"
        until(lambda: json.loads(status.read_bytes())["exporters"][0]["state"] == "connected", "connected again")
        self.here.is_late = False


@pytest.fixture
def written(new_cluster: NewCluster) -> Written:
    return Written(new_cluster())


def test_rsync_copies_a_disk_again_that_another_node_wrote_to(written: Written, tmp_path: Path) -> None:
    copy = tmp_path / "copy"

    def rsync() -> str:
        return run("rsync", "-a", "--out-format=%n", written.here.path, copy)

    assert "meshfs-n1-disk0" in rsync()
    assert rsync() == ""
    written.write_there(b"news")
    assert "meshfs-n1-disk0" in rsync()
    assert copy.read_bytes()[4096:4100] == b"news"
    assert rsync() == ""


def test_cp_u_copies_a_disk_again_that_another_node_wrote_to(written: Written, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("cp", "-u", written.here.path, copy)
    written.write_there(b"news")
    run("cp", "-u", written.here.path, copy)
    assert copy.read_bytes()[4096:4100] == b"news"
    copy.write_bytes(b"newer than the disk")
    run("cp", "-u", written.here.path, copy)
    assert copy.read_bytes() == b"newer than the disk"


def test_an_incremental_tar_has_a_disk_again_that_another_node_wrote_to(written: Written, tmp_path: Path) -> None:
    def backup(name: str) -> str:
        archive = tmp_path / name
        run("tar", "-g", tmp_path / "snapshot", "-cf", archive, "-C", written.here.path.parent, ".")
        return run("tar", "-tf", archive)

    assert "meshfs-n1-disk0" in backup("full.tar")
    assert "meshfs-n1-disk0" not in backup("nothing.tar")
    written.write_there(b"news")
    assert "meshfs-n1-disk0" in backup("changed.tar")
    assert "meshfs-n1-disk0" not in backup("nothing-again.tar")


def test_stat_tells_of_a_write_at_once_on_every_node(written: Written) -> None:
    times = [written.here.mtime_ns()]
    reader = os.open(written.here.path, os.O_RDONLY)
    for number in range(5):
        written.write_there(bytes([number]))
        status = written.here.stat_after(times[-1], reader if number % 2 else None)
        there = written.there.stat_after(times[-1])
        assert status.st_mtime_ns == status.st_ctime_ns == there.st_mtime_ns
        times.append(status.st_mtime_ns)
    assert times == sorted(set(times))
    assert abs(times[-1] - time.time_ns()) < 10e9
    # A read, an fsync and a touch do not change the time.
    os.pread(reader, 4096, 0)
    os.close(reader)
    run("touch", written.there.path)
    run("sync", written.there.path)
    assert written.here.mtime_ns() == times[-1]


def test_a_write_through_a_mapping_moves_the_time(written: Written) -> None:
    import mmap

    before = written.here.mtime_ns()
    fd = os.open(written.there.path, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as mapping:
        mapping[:4] = b"news"
        mapping.flush()
    os.close(fd)
    written.here.stat_after(before)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_time_survives_a_restart_and_never_goes_back(
    new_cluster: NewCluster, loop: bool, how: signal.Signals
) -> None:
    written = Written(new_cluster(), loop=loop)
    fresh = written.here.mtime_ns()
    written.write_there(b"news")
    before = written.here.stat_after(fresh).st_mtime_ns
    written.cluster.stop_exporter("n1", how)
    # The owner is away, and therefore the stat gives the last known time.
    assert written.here.mtime_ns() == before
    written.cluster.start_exporter("n1")
    written.await_connected()
    if loop and how == signal.SIGKILL:
        # Nobody knows when the disk was last written. It therefore counts as written at the start.
        after = written.here.stat_after(before).st_mtime_ns
    else:
        after = written.here.mtime_ns()
        assert after == before if how == signal.SIGTERM else after >= before
    written.write_there(b"more")
    written.here.stat_after(after)


def test_stat_of_a_disk_whose_owner_is_silent_is_quick(written: Written) -> None:
    process = written.cluster.exporters["n1"].process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        for _ in range(20):
            assert written.here.stat().st_size == SIZE
        # One of the stats waits for the answer. The bound is far above that, because of busy machines.
        assert time.monotonic() - start < 8
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_an_smb_client_sees_the_time_of_the_last_write(written: Written) -> None:
    written.write_there(b"news")
    node = written.cluster.nodes["n1"]
    password = written.cluster.meshctl("password", str(written.cluster.config), "--node", "n2", "--to", "n1").stdout
    listing = subprocess.run(
        ["smbclient", f"//{node.address}/disks", "-p", str(node.port), "-U", f"n2%{password.strip()}", "-c", "ls"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, "TZ": "UTC"},
    ).stdout
    when = time.strftime("%H:%M:%S", time.gmtime(written.here.stat().st_mtime))
    assert when in next(line for line in listing.splitlines() if "disk0" in line)
