"""Disks that go away, come back, fail or are replaced, with real loop devices and images: what the mount shows."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import until
from support.direct import read_errno, write_errno
from support.vanishing_device import SIZE, Device, NewCluster, assert_good, await_state, log_of, up, why_of

pytestmark = pytest.mark.mounted


def is_held(cluster: LocalCluster, device: str) -> bool:
    """Return whether n1's exporter has the device open."""
    descriptors = Path(f"/proc/{cluster.exporters['n1'].pid}/fd")
    return any(descriptor.readlink() == Path(device) for descriptor in descriptors.iterdir())


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-name", "other-name"])
def test_a_device_goes_away_and_comes_back(
    new_cluster: NewCluster, device: Device, cache: str, elsewhere: bool
) -> None:
    """Every place shows the state, and I/O fails at once.

    When the device is back, what was open before goes on with it.
    """
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link, {"cache": cache}))
    path = disks / "bad"
    assert write_errno(path, 0) == 0
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        assert is_held(cluster, device.device)
        device.vanish()
        # Where uevents arrive, the exporter notices without I/O. Elsewhere it notices at its next regular look.
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
    assert text.count("disk bad is gone: ") == 1
    assert text.count("disk bad is ok again, after") == 1
    # The errors that the test caused may still be shown, but not that the device is missing.
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
    """The device's backing file is cut behind the kernel's back: I/O fails, and the capacity stays."""
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("bad", device.link))
    os.truncate(device.image, MIB)
    assert read_errno(disks / "bad", 4 * MIB) == errno.EIO
    await_state(disks / "bad", "failing")
    assert why_of(disks / "bad") == "read: Input/output error"
    assert read_errno(disks / "bad", 0) == 0
    assert cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False).returncode == 1
    assert log_of(cluster).count("disk bad is failing: ") == 1
    assert_good(disks)


def test_a_deleted_image_is_a_problem(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    image = cluster.image("deleted", SIZE)
    disks = up(cluster, image)
    image.path.unlink()
    await_state(disks / "deleted", "failing")
    assert "deleted" in why_of(disks / "deleted")
    assert write_errno(disks / "deleted", 0) == 0
