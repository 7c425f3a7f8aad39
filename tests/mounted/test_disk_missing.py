"""Disks that are missing at the start or on a file system that is stuck: nobody waits for them."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalDisk
from support.commands import run, until
from support.direct import read_errno, write_errno
from support.vanishing_device import (
    SIZE,
    Device,
    NewCluster,
    assert_good,
    await_size,
    await_state,
    log_of,
    state_of,
    up,
    why_of,
)

pytestmark = pytest.mark.mounted


def test_a_missing_disk_keeps_nobody_away_and_is_taken_when_it_comes(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster()
    absent, empty = LocalDisk("absent", tmp_path / "absent.img"), LocalDisk("empty", tmp_path / "empty.img")
    empty.path.touch()
    disks = up(cluster, absent, empty)
    assert_good(disks)
    for name, reason in (("absent", "No such file"), ("empty", "is empty")):
        assert (state_of(disks / name), os.stat(disks / name).st_size) == ("missing", 0)
        assert reason in why_of(disks / name)
        start = time.monotonic()
        assert read_errno(disks / name, 0) == errno.ENODEV
        assert time.monotonic() - start < 5, "opening a missing disk waits"
    shown = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False)
    assert (shown.returncode, "missing" in shown.stdout + shown.stderr) == (1, True)
    for disk in (absent, empty):
        with disk.path.open("ab") as file:
            file.truncate(SIZE)
    for name in ("absent", "empty"):
        await_state(disks / name, "ok", 60)
        await_size(disks / name, SIZE)
        assert write_errno(disks / name, 0) == 0
    assert log_of(cluster).count("disk absent is missing: ") == 1
    cluster.meshctl("status", str(cluster.mountpoint("n2")))


def test_a_disk_in_use_is_missing_until_it_is_free(new_cluster: NewCluster, device: Device, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device.device)
    point = tmp_path / "fs"
    point.mkdir()
    run("mount", device.device, point)
    try:
        cluster = new_cluster()
        disks = up(cluster, LocalDisk("used", device.link))
        assert state_of(disks / "used") == "missing"
        assert f"mounted on {point}" in why_of(disks / "used")
        assert_good(disks)
    finally:
        run("umount", point)
    await_state(disks / "used", "ok", 60)
    until(lambda: read_errno(disks / "used", 0) == 0, "it is used at once")


def test_an_open_survives_a_restart_of_the_exporter_without_the_disk(new_cluster: NewCluster) -> None:
    """A reader that keeps the disk open gets errors and never the end of the file. Later it gets its data again."""
    cluster = new_cluster()
    image = cluster.image("comes", SIZE)
    image.path.write_bytes(b"x" * SIZE)
    disks = up(cluster, image)
    hidden = image.path.with_suffix(".hidden")
    with (disks / "comes").open("rb", buffering=0) as file:
        assert file.read(4096) == b"x" * 4096
        cluster.stop_exporter("n1")
        image.path.rename(hidden)
        cluster.start_exporter("n1")
        await_state(disks / "comes", "missing")
        assert os.stat(disks / "comes").st_size == SIZE
        file.seek(4 * MIB)
        with pytest.raises(OSError, match="No such device"):
            file.read(4096)
        # The mount asks for the disk every second, and logs it once.
        time.sleep(3)
        assert (cluster.logs / "n2-meshfs.log").read_text().count("disk comes cannot be opened") == 1
        hidden.rename(image.path)
        await_state(disks / "comes", "ok", 60)
        until(lambda: file.seek(4 * MIB) and file.read(4096) == b"x" * 4096, "the reader goes on")


@contextmanager
def stuck_file_system(folder: Path) -> Iterator[Path]:
    """Mount a FUSE file system with one file. It stops answering once a loop device has been made of the file."""
    folder.mkdir(parents=True)
    script = Path(__file__).parents[1] / "support/stuck_fs.py"
    server = subprocess.Popen([sys.executable, script, folder, str(SIZE)])
    try:
        until(lambda: (folder / "stuck.img").exists(), "it is mounted")
        device = run("losetup", "--find", "--show", folder / "stuck.img").strip()
        try:
            os.kill(server.pid, signal.SIGSTOP)
            yield folder
        finally:
            os.kill(server.pid, signal.SIGCONT)
            run("losetup", "--detach", device)
    finally:
        run("umount", "--lazy", folder, status=None)
        server.kill()
        server.wait()


def test_a_stuck_file_system_of_somebody_else_delays_nothing(new_cluster: NewCluster, tmp_path: Path) -> None:
    """A loop device of the machine lies on a file system that does not answer. Start, login and reload go on."""
    with stuck_file_system(tmp_path / "stuck"):
        stuck = subprocess.Popen(["stat", tmp_path / "stuck/stuck.img"], stdout=subprocess.DEVNULL)
        cluster = new_cluster()
        start = time.monotonic()
        disks = up(cluster)
        assert_good(disks)
        cluster.nodes["n1"].disks.append(cluster.image("more", SIZE))
        cluster.write()
        os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
        until(lambda: (disks / "more").exists(), "reloaded")
        assert time.monotonic() - start < 60
        assert "did not answer" not in log_of(cluster)
        assert stuck.poll() is None, "the file system was to be stuck"
        cluster.stop_exporter("n1")
    stuck.wait(10)


def test_a_disk_on_a_stuck_file_system_is_missing_and_delays_nobody(new_cluster: NewCluster, tmp_path: Path) -> None:
    with stuck_file_system(tmp_path / "stuck") as folder:
        cluster = new_cluster()
        disks = up(cluster, LocalDisk("stuck", folder / "stuck.img"))
        assert_good(disks)
        assert state_of(disks / "stuck") == "missing"
        assert "answer" in why_of(disks / "stuck")
        tasks = Path(f"/proc/{cluster.exporters['n1'].pid}/task")
        assert "disk stuck did not answer within" in log_of(cluster)
        cluster.nodes["n1"].disks.append(cluster.image("more", SIZE))
        cluster.write()
        os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
        until(lambda: (disks / "more").exists(), "reloaded", 30)
        threads, reloads = len(list(tasks.iterdir())), 5
        for number in range(reloads):
            os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
            until(lambda number=number: log_of(cluster).count("reloaded ") == number + 2, "reloaded again", 30)  # type: ignore[misc]
        assert len(list(tasks.iterdir())) < threads + reloads, "each reload leaves a thread behind"
        cluster.stop_exporter("n1")
