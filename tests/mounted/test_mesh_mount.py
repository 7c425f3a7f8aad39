"""mount(8), fstab, umount(8), and the permission to open a disk."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import BIN, LocalCluster
from support.commands import run, until

pytestmark = [pytest.mark.mounted, pytest.mark.usefixtures("installed")]

NewCluster = Callable[..., LocalCluster]
NOBODY = "65534"


@pytest.fixture
def cluster(new_cluster: NewCluster) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", 8 * MIB)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    return cluster


def serves(point: Path) -> None:
    """Check that the tree is there at once, because the command returns only when the tree is served."""
    assert os.listdir(point / "disk/by-id") == ["meshfs-n1-disk0"]


def gone(cluster: LocalCluster) -> None:
    until(lambda: not cluster.control("n1")["sessions"], "the mount's process ended its session")


@pytest.mark.parametrize("kind", ["meshfs", "fuse.meshfs"])
def test_mount_8_mounts_by_either_type(cluster: LocalCluster, tmp_path: Path, kind: str) -> None:
    point = tmp_path / "mesh"
    point.mkdir()
    run("mount", "-t", kind, cluster.config, point, "-o", "node=n2")
    try:
        serves(point)
        line = run("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", point).split()
        assert line == [str(cluster.config), "fuse.meshfs"]
    finally:
        run("umount", point)
    gone(cluster)


@pytest.mark.parametrize("kind", ["meshfs", "fuse.meshfs"])
@pytest.mark.parametrize("options", ["node=n2", "_netdev,nofail,node=n2,noatime,x-systemd.automount,auto,rw"])
def test_mount_8_mounts_a_line_of_fstab(cluster: LocalCluster, tmp_path: Path, kind: str, options: str) -> None:
    point = tmp_path / "mesh"
    point.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{cluster.config} {point} {kind} {options} 0 0\n")
    run("mount", "--fstab", fstab, point)
    try:
        serves(point)
    finally:
        run("umount", point)
    gone(cluster)


def test_the_command_itself_daemonises(cluster: LocalCluster, tmp_path: Path) -> None:
    point = tmp_path / "mesh"
    point.mkdir()
    run(BIN / "meshfs", cluster.config, point, "-o", "node=n2")
    try:
        serves(point)
    finally:
        run("umount", point)
    gone(cluster)


def test_mistakes_of_mounting_are_named_with_their_status(cluster: LocalCluster, tmp_path: Path) -> None:
    point = tmp_path / "mesh"
    point.mkdir()
    assert "node" in run(BIN / "meshfs", cluster.config, point, status=2)
    assert "nonsense" in run(BIN / "meshfs", cluster.config, point, "-o", "node=n2,nonsense=1", status=1)
    assert "absent" in run(BIN / "meshfs", cluster.config, tmp_path / "absent", "-o", "node=n2", status=32)
    assert not os.path.ismount(point)


def test_the_tree_and_its_attributes(cluster: LocalCluster) -> None:
    point = cluster.mount("n2")
    disk = point / "disk/by-id/meshfs-n1-disk0"
    status = disk.stat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_size == 8 * MIB
    assert disk.owner() == "root"
    assert disk.group() == "disk"
    assert (point / "disk/by-node/n1/disk0").resolve() == disk.resolve()
    attributes = run("getfattr", "--dump", disk)
    assert 'user.meshfs.node="n1"' in attributes
    for refused in (["rm", disk], ["mv", disk, point / "x"], ["ln", disk, point / "disk/by-id/x"]):
        assert "Operation not permitted" in run(*refused, status=1)
    assert "File too large" in run("truncate", "-s", f"{8 * MIB + 1}", disk, status=1)
    run("truncate", "-s", "1", disk)
    disk.write_bytes(b"O_TRUNC keeps the size")
    assert disk.stat().st_size == 8 * MIB


def test_who_may_open_a_disk(cluster: LocalCluster) -> None:
    """A disk is 0660 root:disk, like a block device's node. The kernel checks, and therefore the group is enough."""
    point = cluster.mount("n2")
    disk = Path("disk/by-node/n1/disk0")
    # The path is relative to the mount, because the folders above it are closed to other users.
    read = ["dd", f"if={disk}", "of=/dev/null", "bs=4k", "count=1"]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"]
    assert "Permission denied" in run(*nobody, "--clear-groups", *read, cwd=point, status=1)
    run(*nobody, f"--groups={(point / disk).stat().st_gid}", *read, cwd=point)


def test_umount_while_in_use_is_refused_and_harmless(cluster: LocalCluster) -> None:
    point = cluster.mount("n2")
    with (point / "disk/by-node/n1/disk0").open("rb") as file:
        assert "busy" in run("umount", point, status=32)
        assert len(file.read(4096)) == 4096
    cluster.unmount("n2")


def test_the_status_counts_the_io_of_local_and_remote_disks(cluster: LocalCluster) -> None:
    for node in ("n1", "n2"):
        point = cluster.mount(node, "cache=none")
        status = point / ".meshfs/status"
        (before,) = json.loads(status.read_text())["disks"]
        assert before["local"] is (node == "n1")
        assert (before["io"]["reads"], before["io"]["read_latency_ms"]["p50"]) == (0, None)
        disk = point / "disk/by-node/n1/disk0"
        run("dd", "if=/dev/zero", f"of={disk}", "bs=4k", "count=16", "conv=notrunc,fsync", "oflag=direct")
        run("dd", f"if={disk}", "of=/dev/null", "bs=64k", "count=4", "iflag=direct")
        (after,) = json.loads(status.read_text())["disks"]
        io = after["io"]
        assert [io[name] for name in ("reads", "writes", "errors")] == [4, 16, 0]
        assert (io["read_bytes"], io["written_bytes"], io["flushes"]) == (256 * KIB, 64 * KIB, 1)
        for op, many in (("read", "reads"), ("write", "writes"), ("flush", "flushes")):
            assert sum(io[f"{op}_histogram"]) == io[many]
            assert 0 < io[f"{op}_latency_ms"]["p50"] <= io[f"{op}_latency_ms"]["p99"]
        cluster.unmount(node)
