"""Disks that go away, come back, grow and shrink, with real loop devices and images: what a mount sees of it."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run, until
from support.direct import read_errno, write_errno

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
SIZE = 8 * MIB


class Device:
    """A loop device behind a link, as udev's links are, that can vanish and come back under another name.

    Its capacity becomes 0, as that of a removed disk, before it is detached: a loop device that is open stays.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.image = folder / "backing.img"
        self.link = folder / "by-id"
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        self._kept = folder / "kept.img"
        self.device = ""

    def attach(self, *options: str) -> None:
        self.device = run("losetup", "--find", "--show", *options, self.image).strip()
        self.link.symlink_to(self.device)

    def resize(self, size_bytes: int) -> None:
        os.truncate(self.image, size_bytes)
        run("losetup", "--set-capacity", self.device)

    def vanish(self) -> None:
        """What it holds is kept in another file meanwhile, as the image has to become empty."""
        run("cp", "--sparse=always", self.image, self._kept)
        self.resize(0)
        self.link.unlink()

    def come_back(self) -> None:
        """Under the kernel name it had."""
        run("dd", f"if={self._kept}", f"of={self.image}", "bs=1M", "conv=notrunc,sparse", "status=none")
        os.truncate(self.image, SIZE)
        run("losetup", "--set-capacity", self.device)
        self.link.symlink_to(self.device)

    def come_back_elsewhere(self) -> None:
        """Under another kernel name, as another image holds the old one."""
        old, holder = self.device, self._kept.with_name("holder.img")
        run("losetup", "--detach", old)
        holder.write_bytes(bytes(MIB))
        # Unless somebody else was faster, which serves as well.
        run("losetup", old, holder, status=None)
        try:
            run("dd", f"if={self._kept}", f"of={self.image}", "bs=1M", "conv=notrunc,sparse", "status=none")
            os.truncate(self.image, SIZE)
            self.attach()
        finally:
            for line in run("losetup", "--noheadings", "--output", "NAME", "--associated", holder).split():
                run("losetup", "--detach", line)
        assert self.device != old

    def close(self) -> None:
        if self.device:
            run("losetup", "--detach", self.device, status=None)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "device")
    try:
        device.attach()
        yield device
    finally:
        device.close()


def up(cluster: LocalCluster, *disks: LocalDisk) -> Path:
    """n1 owns the disks and a good one, n2 mounts; the folder of n1's disks as n2 sees it."""
    cluster.add_node("n1", [cluster.image("good", SIZE), *disks])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    return cluster.mount("n2") / "disk/by-node/n1"


def state_of(path: Path) -> str:
    return os.getxattr(path, "user.meshfs.state").decode()


def why_of(path: Path) -> str:
    return os.getxattr(path, "user.meshfs.why").decode()


def await_state(path: Path, state: str, timeout_s: float = 20.0) -> None:
    until(lambda: state_of(path) == state, f"{path.name} is {state}", timeout_s)


def is_held(cluster: LocalCluster, device: str) -> bool:
    """Whether n1's exporter has the device open."""
    descriptors = Path(f"/proc/{cluster.exporters['n1'].pid}/fd")
    return any(descriptor.readlink() == Path(device) for descriptor in descriptors.iterdir())


def log_of(cluster: LocalCluster) -> str:
    return (cluster.logs / "n1-meshfsd.log").read_text()


def assert_good(disks: Path) -> None:
    assert write_errno(disks / "good", 4096) == 0
    assert read_errno(disks / "good", 4096) == 0


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-name", "other-name"])
def test_a_device_goes_away_and_comes_back(
    new_cluster: NewCluster, device: Device, cache: str, elsewhere: bool
) -> None:
    """Every place tells it; I/O fails at once; what was open before goes on with the device when it is back."""
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link, {"cache": cache}))
    path = disks / "bad"
    assert write_errno(path, 0) == 0
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        assert is_held(cluster, device.device)
        device.vanish()
        # A bell rings without I/O where uevents arrive, and the slow look finds it anywhere.
        await_state(path, "gone")
        assert "removed" in why_of(path)
        start = time.monotonic()
        assert (read_errno(fd, 0), write_errno(fd, 0)) == (errno.EIO, errno.EIO)
        assert read_errno(path, 0) == errno.EIO
        assert time.monotonic() - start < 5, "I/O at a disk that is gone waits"
        assert_good(disks)
        shown = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False)
        assert (shown.returncode, "gone" in shown.stdout + shown.stderr) == (1, True)
        assert "gone" in cluster.meshctl("disks", check=False).stdout
        document = {disk["name"]: disk for disk in cluster.control("n1")["disks"]}["bad"]
        assert document["state"] == "gone"
        assert os.stat(path).st_size == SIZE
        until(lambda: not is_held(cluster, device.device), "the dead descriptor is closed")
        device.come_back_elsewhere() if elsewhere else device.come_back()
        await_state(path, "ok")
        until(lambda: read_errno(fd, 0) == 0, "the open goes on")
        assert write_errno(fd, 4096) == 0
        assert read_errno(path, 0) == 0
    finally:
        os.close(fd)
    text = log_of(cluster)
    assert text.count("disk bad: gone: ") == 1
    assert text.count("disk bad: ok again, after") == 1
    # The errors that the test caused may still be told of; that the device is gone may not.
    shown = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False)
    assert "gone" not in shown.stdout + shown.stderr


def test_writes_that_were_not_flushed_before_the_device_went_count_as_lost(
    new_cluster: NewCluster, device: Device
) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link, {"cache": "writeback"}))
    fd = os.open(disks / "bad", os.O_RDWR | os.O_DIRECT)
    try:
        assert write_errno(fd, 0, flush=False) == 0
        device.vanish()
        await_state(disks / "bad", "gone")
        device.come_back()
        await_state(disks / "bad", "ok")
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        os.fsync(fd)
        assert write_errno(fd, 0) == 0
    finally:
        os.close(fd)


def test_another_device_at_the_path_is_not_taken_before_a_reload(
    new_cluster: NewCluster, device: Device, tmp_path: Path
) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link))
    other = Device(tmp_path / "other")
    other.attach()
    fd = os.open(disks / "bad", os.O_RDWR | os.O_DIRECT)
    try:
        device.vanish()
        await_state(disks / "bad", "gone")
        device.link.symlink_to(other.device)
        until(lambda: "is another device" in why_of(disks / "bad"), "the reason says so", 40)
        assert read_errno(fd, 0) == errno.EIO
        os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
        await_state(disks / "bad", "ok")
        assert write_errno(disks / "bad", 0) == 0
        # What was opened before belongs to the device that is no longer there.
        until(lambda: read_errno(fd, 0) in (errno.ESTALE, errno.EIO), "the old open is of no use")
    finally:
        os.close(fd)
        cluster.stop_exporter("n1")
        other.close()


def test_a_device_that_fails_is_failing(new_cluster: NewCluster, device: Device) -> None:
    """Its backing file is cut behind the kernel's back: I/O fails, its capacity stays."""
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link))
    os.truncate(device.image, MIB)
    assert read_errno(disks / "bad", 4 * MIB) == errno.EIO
    await_state(disks / "bad", "failing")
    assert why_of(disks / "bad") == "read: Input/output error"
    assert read_errno(disks / "bad", 0) == 0
    assert cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False).returncode == 1
    assert log_of(cluster).count("disk bad: failing: ") == 1
    assert_good(disks)


# --- growing and shrinking --------------------------------------------------------------------


def await_size(path: Path, size_bytes: int) -> None:
    until(lambda: os.stat(path).st_size == size_bytes, f"{path.name} has {size_bytes} bytes", 20)


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
    # Errors were not long ago; it is ok after a while in which I/O works.
    assert write_errno(path, SIZE // 2) == 0
    assert read_errno(path, SIZE // 2) == 0


def test_a_deleted_image_is_a_problem(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    image = cluster.image("deleted", SIZE)
    disks = up(cluster, image)
    image.path.unlink()
    await_state(disks / "deleted", "failing")
    assert "deleted" in why_of(disks / "deleted")
    assert write_errno(disks / "deleted", 0) == 0


# --- missing at the start -----------------------------------------------------------------------


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
    assert log_of(cluster).count("disk absent: missing: ") == 1
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
    """A reader that holds on to the disk gets errors, never the end of the file, and then its data again."""
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
        # The mount asks for it every second, and says so once.
        time.sleep(3)
        assert (cluster.logs / "n2-meshfs.log").read_text().count("disk comes cannot be opened") == 1
        hidden.rename(image.path)
        await_state(disks / "comes", "ok", 60)
        until(lambda: file.seek(4 * MIB) and file.read(4096) == b"x" * 4096, "the reader goes on")


# --- nothing waits for what is not its own ------------------------------------------------------


@contextmanager
def stuck_file_system(folder: Path) -> Iterator[Path]:
    """A FUSE file system with one file, which answers nothing any more after the file was made a loop device."""
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
    """A loop device of the machine lies on a file system that does not answer: start, login and reload go on."""
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
        assert "disk stuck: did not answer within" in log_of(cluster)
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
