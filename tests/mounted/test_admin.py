"""meshctl suspend, drain and resume with real devices, and the I/O of another node meanwhile."""

import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run, until
from support.direct import errno_of, read_errno, write_errno
from support.vanishing_device import SIZE, Device, NewCluster, assert_good, await_state, log_of, state_of, up, why_of

pytestmark = pytest.mark.mounted


def meshctl(cluster: LocalCluster, *arguments: str, status: int = 0) -> str:
    done = cluster.meshctl(*arguments, "--config", str(cluster.config), "--node", "n1", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def control_disk(cluster: LocalCluster, name: str) -> dict[str, object]:
    found: dict[str, object] = {disk["name"]: disk for disk in cluster.control("n1")["disks"]}[name]
    return found


def written(device: Device) -> int:
    """Return the number of sectors that were written to the loop device so far."""
    return int(Path("/sys/class/block", Path(device.device).name, "stat").read_text().split()[6])


@contextmanager
def writing(path: Path) -> Iterator[list[int]]:
    """Write and verify blocks one after the other in a thread. Yield the list of the errnos of all calls so far."""
    results: list[int] = []
    over = threading.Event()

    def work() -> None:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            number = 0
            while not over.is_set():
                offset = number % 64 * 4096
                results.append(write_errno(fd, offset, flush=number % 8 == 0))
                results.append(read_errno(fd, offset))
                number += 1
        finally:
            os.close(fd)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join()


def test_io_of_a_suspended_disk_waits_and_goes_on_without_an_error(new_cluster: NewCluster, device: Device) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("moved", device.link))
    path = disks / "moved"
    with writing(path) as results:
        until(lambda: len(results) > 50, "I/O runs")
        shown = meshctl(cluster, "suspend", "moved")
        assert "suspended" in shown
        assert "9min 5" in shown
        before, sectors = len(results), written(device)
        await_state(path, "suspended")
        assert "an administrator suspended it" in why_of(path)
        time.sleep(1.5)
        assert len(results) <= before + 1, "calls wait"
        assert written(device) == sectors, "nothing is sent to the device"
        assert_good(disks)
        status = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False)
        assert (status.returncode, "disk n1/moved: the disk is suspended" in status.stderr) == (1, True)
        assert "suspended" in cluster.meshctl("disks", check=False).stdout
        assert control_disk(cluster, "moved")["state"] == "suspended"
        cluster.exporters["n1"].process.send_signal(1)
        until(lambda: "reloaded " in log_of(cluster), "the config was read again")
        time.sleep(0.5)
        assert (state_of(path), len(results) <= before + 1) == ("suspended", True), "a reload keeps it suspended"
        assert "ok" in meshctl(cluster, "resume", "n1/moved")
        await_state(path, "ok")
        until(lambda: len(results) > before + 50, "I/O goes on")
    assert set(results) == {0}
    cluster.meshctl("status", str(cluster.mountpoint("n2")))


def test_a_suspended_device_is_moved_and_nobody_notices(new_cluster: NewCluster, device: Device) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("moved", device.link))
    path = disks / "moved"
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    verifier = verifier_of(cluster)
    try:
        assert write_errno(fd, 0, flush=False) == 0
        with writing(path) as results:
            until(lambda: len(results) > 50, "I/O runs")
            meshctl(cluster, "suspend", "moved")
            device.vanish()
            until(lambda: "the device is gone" in why_of(path), "the exporter notices", 30)
            assert state_of(path) == "suspended"
            before = len(results)
            assert before > 50
            device.come_back_elsewhere()
            until(lambda: "gone" not in why_of(path), "the device is claimed again", 30)
            assert state_of(path) == "suspended"
            assert len(results) <= before + 1
            meshctl(cluster, "resume", "moved")
            until(lambda: len(results) > before + 50, "I/O goes on")
        assert set(results) == {0}
        assert errno_of(lambda: os.fsync(fd)) == 0, "a write that was acknowledged before is not lost"
        assert verifier_of(cluster) == verifier
    finally:
        os.close(fd)


def verifier_of(cluster: LocalCluster) -> str:
    """Return the write verifier of n1's disk "moved", as n2's mount knows it."""
    document = json.loads((cluster.mountpoint("n2") / ".meshfs/status").read_text())
    return next(str(disk["verifier"]) for disk in document["disks"] if disk["name"] == "moved")


def test_a_call_of_a_suspended_disk_ends_at_its_bound_and_the_disk_counts_as_hung_nowhere(
    new_cluster: NewCluster, device: Device
) -> None:
    cluster = new_cluster(io_timeout_s=2)
    disks = up(cluster, LocalDisk("moved", device.link))
    path = disks / "moved"
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        assert write_errno(fd, 0) == 0
        meshctl(cluster, "suspend", "moved", "--for", "9")
        for call in (read_errno, write_errno, read_errno):
            start = time.monotonic()
            assert call(fd, 4096) == errno.ETIMEDOUT
            assert 1.9 < time.monotonic() - start < 3.5, "each call waits for its own bound"
        shown = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False).stderr
        assert "hangs" not in shown
        assert "has not answered" not in shown
        assert_good(disks)
        # The suspension ends by itself.
        until(lambda: state_of(path) == "ok", "it is resumed", 10)
        assert (read_errno(fd, 0), write_errno(fd, 4096)) == (0, 0)
    finally:
        os.close(fd)
    assert "hangs" not in (cluster.logs / "n2-meshfs.log").read_text()
    assert "the time of its suspension is over" in log_of(cluster)


def test_a_drained_disk_is_released_and_is_served_again_with_every_write(
    new_cluster: NewCluster, device: Device
) -> None:
    cluster = new_cluster(io_timeout_s=3)
    disks = up(cluster, LocalDisk("moved", device.link))
    path = disks / "moved"
    verifier = verifier_of(cluster)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        assert write_errno(fd, 0, flush=False) == 0
        assert "drained" in meshctl(cluster, "drain", "meshfs-n1-moved")
        await_state(path, "drained")
        run("blockdev", "--flushbufs", device.device)
        assert not is_held(cluster, device.device)
        assert read_errno(path, 0) == errno.ENXIO, "new opens are refused"
        start = time.monotonic()
        assert read_errno(fd, 0) == errno.ETIMEDOUT
        assert time.monotonic() - start < 4
        start = time.monotonic()
        assert read_errno(fd, 0) == errno.ETIMEDOUT
        assert time.monotonic() - start < 1, "later calls fail at once"
        assert_good(disks)
        status = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False).stderr
        assert "disk n1/moved: the disk is drained" in status
        assert "hangs" not in status
        meshctl(cluster, "suspend", "moved", status=1)
        assert "ok" in meshctl(cluster, "resume", "moved")
        await_state(path, "ok")
        assert (read_errno(fd, 0), write_errno(fd, 4096)) == (0, 0), "what was open before goes on"
        assert errno_of(lambda: os.fsync(fd)) == 0
        assert verifier_of(cluster) == verifier
    finally:
        os.close(fd)


def is_held(cluster: LocalCluster, device: str) -> bool:
    descriptors = Path(f"/proc/{cluster.exporters['n1'].pid}/fd")
    return any(descriptor.readlink() == Path(device) for descriptor in descriptors.iterdir())


def test_a_drained_node_is_stopped_and_started_and_no_write_is_lost(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("moved", 4 * MIB, cache="writeback")])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    point = cluster.mount("n2")
    path = point / "disk/by-node/n1/moved"
    verifier = verifier_of(cluster)
    with writing(path) as results:
        until(lambda: len(results) > 50, "I/O runs")
        shown = meshctl(cluster, "drain")
        assert "node n1 is drained" in shown
        await_state(path, "drained")
        before = len(results)
        cluster.stop_exporter("n1")
        until(lambda: "exporter-drained" in codes(cluster, point), "the mount knows that it was on purpose")
        assert state_of(path) == "drained"
        assert "exporter-away" not in codes(cluster, point)
        cluster.start_exporter("n1")
        until(lambda: len(results) > before + 50, "I/O goes on", 30)
    assert set(results) == {0}
    assert verifier_of(cluster) == verifier
    until(lambda: codes(cluster, point) == [], "all is well")


def codes(cluster: LocalCluster, point: Path) -> list[str]:
    shown = json.loads(cluster.meshctl("status", str(point), "--json", check=False).stdout)
    return [problem["code"] for problem in shown["problems"] if not problem["code"].startswith("exporter-s")]


def test_fio_verifies_what_it_wrote_while_the_disk_was_suspended_drained_and_its_exporter_restarted(
    new_cluster: NewCluster, device: Device
) -> None:
    cluster = new_cluster()
    disks = up(cluster, LocalDisk("moved", device.link))
    command = [
        *("fio", "--name=j", f"--filename={disks / 'moved'}", "--rw=randrw", "--bs=4k", "--direct=1"),
        *("--ioengine=libaio", "--iodepth=16", f"--size={SIZE}", "--io_size=40M", "--verify=crc32c", "--rate_iops=800"),
        *("--verify_backlog=64", "--verify_fatal=1", "--allow_file_create=0", "--fsync=32", "--verify_state_save=0"),
    ]
    fio = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for change in (lambda: meshctl(cluster, "suspend", "moved"), lambda: meshctl(cluster, "drain", "moved")):
            time.sleep(1)
            change()
            time.sleep(0.5)
            meshctl(cluster, "resume", "moved")
        time.sleep(1)
        cluster.stop_exporter("n1")
        cluster.start_exporter("n1")
        out, _ = fio.communicate(timeout=120)
    finally:
        fio.kill()
    assert fio.returncode == 0, out
