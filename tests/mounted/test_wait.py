"""The mount's own option and `meshctl wait` wait for a disk."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster

pytestmark = pytest.mark.mounted

GUARD_S = 60


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", MIB)])
    cluster.add_node("n2", [cluster.image("disk1", MIB)])
    cluster.write()
    cluster.keygen()
    return cluster


@pytest.fixture
def point(cluster: LocalCluster) -> Iterator[Path]:
    point = cluster.folder / "mesh"
    point.mkdir()
    yield point
    while os.path.ismount(point):
        subprocess.run(["umount", "-l", point], check=True)


def start_mount(cluster: LocalCluster, point: Path, options: str, *, own_group: bool = False) -> subprocess.Popen[str]:
    command = [BIN / "meshfs", cluster.config, point, "-o", f"node=n1,log={cluster.logs / 'mount.log'},{options}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=own_group)


def test_a_mount_returns_when_the_disks_it_waits_for_can_be_used(cluster: LocalCluster, point: Path) -> None:
    mounting = start_mount(cluster, point, f"wait=own,wait_timeout={GUARD_S}")
    try:
        wait = cluster.meshctl("wait", str(point / "disk/by-node/n1/disk0"), "--timeout", "0", check=False)
        assert wait.returncode == 1
        # The tree is served all the time, and other programs can see which disk the mount waits for.
        deadline = time.monotonic() + GUARD_S
        while not os.path.ismount(point):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        assert mounting.poll() is None
        cluster.start_exporter("n1")
        assert mounting.wait(GUARD_S) == 0
        assert os.stat(point / "disk/by-node/n1/disk0").st_size == MIB
    finally:
        mounting.kill()
        _, stderr = mounting.communicate()
    assert stderr == ""


def test_a_mount_serves_without_the_disks_that_did_not_come(cluster: LocalCluster, point: Path) -> None:
    cluster.start_exporter("n1")
    mounting = start_mount(cluster, point, "wait=n1/disk0,wait=n2/disk1,wait_timeout=1")
    _, stderr = mounting.communicate(timeout=GUARD_S)
    assert mounting.returncode == 0
    assert "after 1 s (wait_timeout) disk n2/disk1 is not there: exporter n2 is" in stderr
    assert stderr.count("\n") == 1
    assert "n2/disk1" in (cluster.logs / "mount.log").read_text()
    assert (point / "disk/by-node/n1/disk0").read_bytes() == bytes(MIB)


def test_control_c_while_it_waits_ends_the_mount(cluster: LocalCluster, point: Path) -> None:
    mounting = start_mount(cluster, point, f"wait=own,wait_timeout={GUARD_S}", own_group=True)
    try:
        deadline = time.monotonic() + GUARD_S
        while not os.path.ismount(point):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # A terminal sends SIGINT to the whole process group, which the mount's process has not left yet.
        os.killpg(mounting.pid, signal.SIGINT)
        _, stderr = mounting.communicate(timeout=GUARD_S)
    finally:
        mounting.kill()
        mounting.wait()
    assert (mounting.returncode, stderr) == (32, "")
    assert not os.path.ismount(point)


def test_a_disk_to_wait_for_that_the_config_does_not_have_is_a_mistake(cluster: LocalCluster, point: Path) -> None:
    mounting = start_mount(cluster, point, "wait=n2/disk7")
    _, stderr = mounting.communicate(timeout=GUARD_S)
    assert mounting.returncode == 2
    assert "no disk 'n2/disk7' to wait for; disks here: n1/disk0, n2/disk1" in stderr
    assert not os.path.ismount(point)


def test_meshctl_waits_for_disks(cluster: LocalCluster) -> None:
    point = cluster.mount("n1")
    # Other meshes of this machine may have disks of the same names. Paths say which mount is meant.
    names = [str(point / "disk/by-id/meshfs-n2-disk1"), str(point / "disk/by-node/n2/disk1")]
    waiting = subprocess.Popen([BIN / "meshctl", "wait", *names, "--timeout", str(GUARD_S)], stderr=subprocess.PIPE)
    try:
        time.sleep(1)
        assert waiting.poll() is None
        cluster.start_exporter("n2")
        _, stderr = waiting.communicate(timeout=GUARD_S)
        assert (waiting.returncode, stderr) == (0, b"")
    finally:
        waiting.kill()
        waiting.wait()


def test_meshctl_names_what_did_not_come(cluster: LocalCluster) -> None:
    cluster.start_exporter("n1")
    point = cluster.mount("n1")
    own, other = str(point / "disk/by-node/n1/disk0"), str(point / "disk/by-node/n2/disk1")
    done = cluster.meshctl("wait", own, other, "--timeout", "0.5", "--json", check=False)
    assert done.returncode == 1
    assert "meshctl: after 0.5 s disk n2/disk1 is not there: exporter n2 is" in done.stderr
    assert "n1/disk0" not in done.stderr
    document = json.loads(done.stdout)
    assert (document["ok"], len(document["problems"])) == (False, 1)
    assert cluster.meshctl("wait", "/dev/null", check=False).returncode == 2
    assert cluster.meshctl("wait", "n1/disk0", "--timeout", "nan", check=False).returncode == 2
