"""Processes die under load: waiting is bounded, nothing is lost, and no byte is wrong."""

import errno
import json
import mmap
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import FIO_VERIFY, run, until
from support.stamps import StampedLoad

pytestmark = pytest.mark.mounted

DISK_BYTES = 64 * MIB
NewCluster = Callable[..., LocalCluster]


def two_owners(cluster: LocalCluster) -> LocalCluster:
    """Make n1 and n2 with a disk each, and n3 without a disk. No process runs yet."""
    for name in ("n1", "n2"):
        image = cluster.image("disk0", DISK_BYTES, file=str(cluster.folder / "disks" / f"{name}.img"))
        cluster.add_node(name, [image])
    cluster.add_node("n3")
    cluster.write()
    cluster.keygen()
    return cluster


def disk(cluster: LocalCluster, owner: str, mount: str = "n3") -> Path:
    return cluster.mountpoint(mount) / "disk/by-node" / owner / "disk0"


def read_errno(path: Path) -> tuple[int, float]:
    """Return the errno of one direct read (0 if it succeeded), and how long the read took."""
    start = time.monotonic()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or -1, time.monotonic() - start
    return 0, time.monotonic() - start


def test_an_exporter_killed_under_load_and_restarted_costs_no_byte(new_cluster: NewCluster, soak_s: float) -> None:
    cluster = two_owners(new_cluster())
    for name in ("n1", "n2"):
        cluster.start_exporter(name)
    # One mount is on another node, over TCP. The other one is the owner's own, over its Unix socket.
    mounts = {"n3": (0, 1000, 4000), "n1": (8000,)}
    for name in mounts:
        cluster.mount(name)
    loads = [
        StampedLoad(disk(cluster, "n1", name), range(first, first + 256), first)
        for name, firsts in mounts.items()
        for first in firsts
    ]
    for load in loads:
        load.start()
    end = time.monotonic() + soak_s
    rounds = 0
    while rounds < 3 or time.monotonic() < end:
        before = [load.writes for load in loads]
        until(
            lambda before=before: all(now.writes > then + 50 for now, then in zip(loads, before, strict=True)),
            f"progress after {rounds} kills; errors: {[load.errors for load in loads]}",
            30,
        )
        cluster.stop_exporter("n1", signal.SIGKILL)
        cluster.start_exporter("n1")
        rounds += 1
    for load in loads:
        load.finish(40)


def test_fio_verifies_through_a_killed_exporter(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = two_owners(new_cluster())
    cluster.start_exporters()
    cluster.mount("n3")
    image = cluster.nodes["n1"].disks[0].path
    # The rate leaves time to kill the process in the middle of the writes.
    command = [
        "fio",
        "--name=job",
        f"--filename={disk(cluster, 'n1')}",
        "--rw=randwrite",
        "--bs=4k",
        "--size=32m",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        "--rate_iops=3000",
        *FIO_VERIFY,
    ]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        for megabytes in (4, 12):
            until(lambda mib=megabytes: image.stat().st_blocks * 512 > mib * MIB, "fio writes", 30)
            cluster.stop_exporter("n1", signal.SIGKILL)
            cluster.start_exporter("n1")
        output, _ = job.communicate(timeout=90)
    assert job.returncode == 0, output


def test_an_owner_that_stays_away_times_out_and_others_answer(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster(io_timeout_s=3))
    cluster.start_exporters()
    cluster.mount("n3")
    held = os.open(disk(cluster, "n1"), os.O_RDONLY | os.O_DIRECT)
    cluster.stop_exporter("n1", signal.SIGKILL)
    results: dict[str, tuple[int, float]] = {}

    def read_held() -> None:
        start = time.monotonic()
        try:
            os.preadv(held, [mmap.mmap(-1, 4096)], 0)
            results["held"] = 0, 0.0
        except OSError as error:
            results["held"] = error.errno or -1, time.monotonic() - start

    def open_anew() -> None:
        results["new"] = read_errno(disk(cluster, "n1"))

    threads = [threading.Thread(target=work, daemon=True) for work in (read_held, open_anew)]
    for thread in threads:
        thread.start()
    until(lambda: "n1" in cluster.meshctl("paths", str(cluster.mountpoint("n3")), check=False).stdout, "paths", 2)
    while any(thread.is_alive() for thread in threads):
        number, took_s = read_errno(disk(cluster, "n2"))
        assert number == 0
        assert took_s < 1
        assert os.listdir(cluster.mountpoint("n3") / "disk/by-id")
        for thread in threads:
            thread.join(0.1)
    assert results["held"][0] == errno.ETIMEDOUT
    assert 2 < results["held"][1] < 4
    assert results["new"][0] in (errno.ETIMEDOUT, errno.ENOENT)
    assert results["new"][1] < 4
    os.close(held)
    cluster.start_exporter("n1")
    until(lambda: read_errno(disk(cluster, "n1"))[0] == 0, "the disk answers again")


@pytest.mark.parametrize("kind", ["libaio", "threads"])
def test_what_waits_at_a_dead_disk_keeps_nobody_from_another(new_cluster: NewCluster, kind: str) -> None:
    """There are far more requests than a disk ever has outstanding, and more than the kernel allows by default."""
    cluster = two_owners(new_cluster(io_timeout_s=10))
    cluster.start_exporters()
    cluster.mount("n3")
    dead = disk(cluster, "n1")
    held = [os.open(disk(cluster, "n2"), os.O_RDONLY | os.O_DIRECT), os.open(dead, os.O_RDONLY | os.O_DIRECT)]
    command = [
        "fio",
        "--name=job",
        f"--filename={dead}",
        "--rw=randread",
        "--bs=4k",
        "--size=32m",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=600",
        "--time_based",
        "--runtime=60",
    ]
    loads: list[subprocess.Popen[bytes]] = []
    try:
        if kind == "libaio":
            loads.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            until(lambda: cluster.control("n1")["disks"][0]["reads"] > 1000, "fio reads", 30)
        cluster.stop_exporter("n1", signal.SIGKILL)
        if kind == "threads":
            for _ in range(600):
                threading.Thread(target=_pread, args=(held[1],), daemon=True).start()
        point = str(cluster.mountpoint("n3"))
        until(lambda: waiting_calls(cluster, point) >= 550, "hundreds of calls wait", 8)
        start = time.monotonic()
        assert os.preadv(held[0], [mmap.mmap(-1, 4096)], 0) == 4096
        assert read_errno(disk(cluster, "n2"))[0] == 0
        assert os.listdir(cluster.mountpoint("n3"))
        assert time.monotonic() - start < 4, "it did not wait for the dead disk's requests"
    finally:
        for load in loads:
            load.kill()
            load.wait()
        for fd in held:
            os.close(fd)


def _pread(fd: int) -> None:
    with suppress(OSError):
        os.preadv(fd, [mmap.mmap(-1, 4096)], 0)


def waiting_calls(cluster: LocalCluster, point: str) -> int:
    document = json.loads(cluster.meshctl("paths", point, "--json", check=False).stdout)
    return sum(len(exporter["waiting"]) for exporter in document["exporters"])


@pytest.mark.parametrize(("how", "io_timeout_s"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)], ids=["killed", "frozen"])
def test_a_program_that_repeats_its_call_waits_for_a_dead_owner_once(
    new_cluster: NewCluster, how: signal.Signals, io_timeout_s: int
) -> None:
    """md does that: it repeats a failed write sector by sector."""
    cluster = two_owners(new_cluster(io_timeout_s=io_timeout_s))
    cluster.start_exporters()
    cluster.mount("n3")
    point, fd = str(cluster.mountpoint("n3")), os.open(disk(cluster, "n1"), os.O_RDWR | os.O_DIRECT)
    pid = cluster.exporters["n1"].pid
    os.kill(pid, how)
    try:
        start, numbers = time.monotonic(), set()
        for sector in range(64):
            try:
                os.pwritev(fd, [mmap.mmap(-1, 4096)], sector * 4096)
            except OSError as error:
                numbers.add(error.errno)
        with pytest.raises(TimeoutError):
            os.fsync(fd)
        assert numbers == {errno.ETIMEDOUT}
        assert io_timeout_s / 2 < time.monotonic() - start < io_timeout_s + 2
        assert "exporter n1 is failing fast" in cluster.meshctl("paths", point, check=False).stdout
        assert read_errno(disk(cluster, "n2"))[0] == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    if how is signal.SIGKILL:
        cluster.stop_exporter("n1")
        cluster.start_exporter("n1")
    until(lambda: "failing fast" not in cluster.meshctl("paths", point, check=False).stdout, "the owner is back")
    assert os.pwritev(fd, [mmap.mmap(-1, 4096)], 0) == 4096
    os.fsync(fd)
    os.close(fd)


def test_paths_tell_what_waits_and_how_long_still(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster(io_timeout_s=20))
    cluster.start_exporters()
    cluster.mount("n3")
    load = StampedLoad(disk(cluster, "n1"), range(8), 1)
    load.start()
    until(lambda: load.writes > 5, "the load runs")
    cluster.stop_exporter("n1", signal.SIGKILL)
    point = str(cluster.mountpoint("n3"))

    def waiting() -> bool:
        output = cluster.meshctl("paths", point, check=False).stdout
        return "WAITS" in output and re.search(r"n1\s+\S*disk0", output) is not None

    until(waiting, "`meshctl paths` names the waiting I/O")
    assert cluster.meshctl("status", point, check=False).returncode == 1
    cluster.start_exporter("n1")
    load.finish(30)
    until(lambda: cluster.meshctl("status", point, check=False).returncode == 0, "all is well again")


def test_a_killed_mount_unmounts_and_the_exporter_frees_everything(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster())
    cluster.start_exporters()
    point = cluster.mount("n3")
    load = StampedLoad(disk(cluster, "n1"), range(64), 1)
    load.start()
    until(lambda: load.writes > 20, "the load runs")
    assert cluster.control("n1")["sessions"]
    running = cluster.mounts.pop("n3")
    running.process.kill()
    running.process.wait()
    load.join(10)
    assert load.errors
    run("umount", point)
    until(lambda: not cluster.control("n1")["sessions"], "the exporter freed the session")
    cluster.mount("n3")
    assert read_errno(disk(cluster, "n1"))[0] == 0


def test_a_node_that_comes_later_shows_its_disks_without_a_remount(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster())
    cluster.start_exporter("n2")
    start = time.monotonic()
    point = cluster.mount("n3")
    assert time.monotonic() - start < 10
    names = point / "disk/by-id"
    assert os.listdir(names) == ["meshfs-n2-disk0"]
    cluster.start_exporter("n1")
    until(lambda: sorted(os.listdir(names)) == ["meshfs-n1-disk0", "meshfs-n2-disk0"], "the disk appears")
    assert read_errno(disk(cluster, "n1"))[0] == 0


def test_an_exporter_asked_to_stop_ends_and_the_others_stay(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster(io_timeout_s=2))
    running = cluster.start_exporter("n1")
    cluster.start_exporter("n2")
    cluster.mount("n3")
    cluster.stop_exporter("n1")
    assert running.process.returncode == 0
    assert read_errno(disk(cluster, "n2"))[0] == 0


@pytest.mark.parametrize("frozen_s", [2.0, 8.0], ids=["shorter-than-silence", "longer-than-silence"])
def test_an_exporter_that_freezes_and_thaws_costs_no_byte(new_cluster: NewCluster, frozen_s: float) -> None:
    """Requests stay in the exporter's sockets while the initiator gives up the channel and repeats them on another.

    No old request may land late.
    """
    cluster = two_owners(new_cluster(io_timeout_s=30))
    cluster.start_exporters()
    cluster.mount("n3")
    loads = [StampedLoad(disk(cluster, "n1"), range(first, first + 16), first) for first in (0, 100, 200)]
    for load in loads:
        load.start()
    until(lambda: all(load.writes > 50 for load in loads), "the load runs")
    pid = cluster.exporters["n1"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not threading.Event().wait(frozen_s)
        number, took_s = read_errno(disk(cluster, "n2"))
        assert (number, took_s < 1) == (0, True)
    finally:
        os.kill(pid, signal.SIGCONT)
    before = [load.writes for load in loads]
    until(lambda: all(now.writes > then + 50 for now, then in zip(loads, before, strict=True)), "it goes on", 30)
    for load in loads:
        load.finish(40)


def test_a_frozen_exporter_times_out_within_the_bound(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster(io_timeout_s=2))
    cluster.start_exporters()
    cluster.mount("n3")
    fd = os.open(disk(cluster, "n1"), os.O_RDWR | os.O_DIRECT)
    pid = cluster.exporters["n1"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            os.pwritev(fd, [mmap.mmap(-1, 4096)], 0)
        assert 1 < time.monotonic() - start < 3
    finally:
        os.kill(pid, signal.SIGCONT)
    newest = os.urandom(4096)
    buffer = mmap.mmap(-1, 4096)
    buffer[:] = newest
    until(lambda: os.pwritev(fd, [buffer], 0) == 4096, "the disk is writable again")
    os.fsync(fd)
    os.close(fd)
    assert cluster.nodes["n1"].disks[0].path.read_bytes()[:4096] == newest


def test_what_was_acknowledged_survives_the_exporters_process(new_cluster: NewCluster) -> None:
    """The machine goes on, and therefore nothing unflushed is lost, and fsync has no error to report."""
    cluster = two_owners(new_cluster())
    cluster.start_exporters()
    cluster.mount("n3")
    data = os.urandom(1 * MIB)
    fd = os.open(disk(cluster, "n1"), os.O_RDWR)
    assert os.pwrite(fd, data, 0) == len(data)
    cluster.stop_exporter("n1", signal.SIGKILL)
    cluster.start_exporter("n1")
    os.fsync(fd)
    os.close(fd)
    assert cluster.nodes["n1"].disks[0].path.read_bytes()[: len(data)] == data


def test_umount_does_not_wait_for_an_owner_that_is_away(new_cluster: NewCluster) -> None:
    cluster = two_owners(new_cluster(io_timeout_s=30))
    cluster.start_exporters()
    cluster.mount("n3")
    assert read_errno(disk(cluster, "n1"))[0] == 0
    for name in ("n1", "n2"):
        cluster.stop_exporter(name, signal.SIGKILL)
    start = time.monotonic()
    cluster.unmount("n3")
    assert time.monotonic() - start < 5
