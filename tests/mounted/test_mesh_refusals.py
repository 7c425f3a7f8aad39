"""The real commands name mistakes in config, disks and keys, end with exit status 2, and leave nothing half started."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster, LocalDisk
from support.commands import run, until

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]


@pytest.fixture
def cluster(new_cluster: NewCluster) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", 8 * MIB)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    return cluster


def refused_by(cluster: LocalCluster, *commands: str) -> list[str]:
    """Return what each command printed. Each must end with status 2, leave nothing behind, and print no traceback."""
    point = cluster.mountpoint("n1")
    point.mkdir(parents=True, exist_ok=True)
    lines = {
        "meshfsd": ["meshfsd", "--config", str(cluster.config), "--node", "n1"],
        "meshfs": ["meshfs", str(cluster.config), str(point), "-o", "node=n1"],
        "meshctl": ["meshctl", "password", str(cluster.config), "--node", "n1", "--to", "n2"],
    }
    said = []
    for command in commands:
        output = run(BIN / lines[command][0], *lines[command][1:], status=2, timeout_s=20)
        assert "Traceback" not in output
        assert command in output, f"a message starts with the command's name: {output!r}"
        said.append(output)
    assert not os.path.ismount(point)
    assert not list((cluster.folder / "run").glob("*"))
    return said


CONFIG_MISTAKES = [
    pytest.param("[cluster\n", "cluster.toml", id="malformed"),
    pytest.param("[cluster]\nname = 'x'\n", "node", id="no-nodes"),
    pytest.param(
        "[cluster]\nname = 'x'\nport = 3\n[[node]]\nname='n1'\naddresses=['127.0.0.2']\n", "port", id="unknown-key"
    ),
    pytest.param(
        "[cluster]\nname = 'x'\n"
        "[[node]]\nname='n1'\naddresses=['127.0.0.2']\n[[node]]\nname='n1'\naddresses=['127.0.0.3']\n",
        "n1",
        id="two-of-one-name",
    ),
]


@pytest.mark.parametrize(("text", "named"), CONFIG_MISTAKES)
def test_mistakes_in_a_config_end_every_command_with_2(cluster: LocalCluster, text: str, named: str) -> None:
    cluster.config.write_text(text)
    for said in refused_by(cluster, "meshfsd", "meshfs", "meshctl"):
        assert named in said
        assert str(cluster.config) in said


def test_a_config_that_is_missing_or_a_directory(cluster: LocalCluster) -> None:
    cluster.config.unlink()
    for said in refused_by(cluster, "meshfsd", "meshfs", "meshctl"):
        assert str(cluster.config) in said
    cluster.config.mkdir()
    for said in refused_by(cluster, "meshfsd", "meshfs", "meshctl"):
        assert str(cluster.config) in said


def test_a_config_that_is_unreadable(cluster: LocalCluster) -> None:
    """root can read every file, and therefore another user runs the commands."""
    cluster.config.chmod(0o600)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for command in (
        [BIN / "meshfsd", "--config", cluster.config, "--node", "n1"],
        [BIN / "meshfs", cluster.config, cluster.logs, "-o", "node=n1"],
        [BIN / "meshctl", "password", cluster.config, "--node", "n1", "--to", "n1"],
    ):
        said = run(*nobody, *command, status=2)
        assert f"{cluster.config}: cannot read the config: Permission denied" in said
        assert len(said.splitlines()) == 1


def with_disk(cluster: LocalCluster, path: Path) -> None:
    cluster.nodes["n1"].disks.append(LocalDisk("bad", path))
    cluster.write()


def why_missing(cluster: LocalCluster, name: str = "bad") -> str:
    """Return why the disk is missing, as the exporter says, which serves its other disks."""
    cluster.start_exporter("n1")
    disks = {disk["name"]: disk for disk in cluster.control("n1")["disks"]}
    assert disks[name]["state"] == "missing"
    assert all(disk["state"] == "ok" for other, disk in disks.items() if other != name)
    cluster.stop_exporter("n1")
    return str(disks[name]["why"])


def test_a_disk_that_does_not_exist(cluster: LocalCluster) -> None:
    with_disk(cluster, cluster.folder / "absent.img")
    assert why_missing(cluster) == f"{cluster.folder}/absent.img: No such file or directory"


def test_a_disk_that_is_a_directory(cluster: LocalCluster) -> None:
    with_disk(cluster, cluster.logs)
    (said,) = refused_by(cluster, "meshfsd")
    assert str(cluster.logs) in said
    assert "directory" in said


def test_a_disk_that_is_mounted(cluster: LocalCluster, tmp_path: Path) -> None:
    device = cluster.loop("bad", cluster.image("fs", 16 * MIB).path)
    run("mkfs.ext4", "-q", device.path)
    point = tmp_path / "fs"
    point.mkdir()
    run("mount", device.path, point)
    try:
        with_disk(cluster, device.path)
        assert why_missing(cluster) == f"{device.path} is used on this machine: mounted on {point}"
    finally:
        run("umount", point)


def test_a_disk_that_is_swap(cluster: LocalCluster) -> None:
    device = cluster.loop("bad", cluster.image("swap", 16 * MIB).path)
    run("mkswap", "-q", device.path, status=None)
    run("swapon", device.path)
    try:
        with_disk(cluster, device.path)
        assert why_missing(cluster) == f"{device.path} is used on this machine: swap space ({device.path})"
    finally:
        run("swapoff", device.path)


@pytest.mark.parametrize("kind", ["image", "device"])
def test_a_disk_that_another_exporter_holds(new_cluster: NewCluster, kind: str) -> None:
    first, second = new_cluster("first"), new_cluster("second", name="second")
    image = first.image("disk0", 8 * MIB)
    disk = image if kind == "image" else first.loop("disk0", image.path)
    for cluster in (first, second):
        cluster.add_node("n1", [disk])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
    first.start_exporter("n1")
    assert why_missing(second, "disk0") == f"{disk.path} is claimed by another exporter or file system"
    assert first.control("n1")["disks"][0]["state"] == "ok"


def test_an_unknown_node_ends_exporter_and_mount_with_2(cluster: LocalCluster) -> None:
    said = run(BIN / "meshfsd", "--config", cluster.config, "--node", "n9", status=2)
    assert "n9" in said
    said = run(BIN / "meshfs", cluster.config, cluster.logs, "-o", "node=n9", status=2)
    assert "n9" in said


def test_a_private_key_readable_by_others(cluster: LocalCluster) -> None:
    key = cluster.folder / "keys/n1.key"
    key.chmod(0o644)
    for said in refused_by(cluster, "meshfsd", "meshfs", "meshctl"):
        assert str(key) in said
        assert "0600" in said


def test_a_private_key_that_is_missing_or_no_key(cluster: LocalCluster) -> None:
    key = cluster.folder / "keys/n1.key"
    key.write_text("nonsense\n")
    for said in refused_by(cluster, "meshfsd", "meshfs", "meshctl"):
        assert str(key) in said
        assert "nonsense" not in said
    key.unlink()
    for said in refused_by(cluster, "meshfsd", "meshfs"):
        assert str(key) in said


def test_keygen_never_overwrites(cluster: LocalCluster) -> None:
    keys = cluster.folder / "keys"
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    cluster.meshctl("keygen", str(cluster.config))
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_a_node_with_another_key_gets_in_nowhere(cluster: LocalCluster) -> None:
    """n2's machine has a key pair that the cluster does not know. n1 serves all others as before."""
    cluster.start_exporter("n1")
    strange = cluster.folder / "strange"
    shutil.copytree(cluster.folder / "keys", strange / "keys")
    shutil.copy(cluster.config, strange)
    for ending in ("key", "pub"):
        (strange / f"keys/n2.{ending}").unlink()
    cluster.meshctl("keygen", str(strange / "cluster.toml"))
    point = cluster.folder / "mnt/strange"
    point.mkdir(parents=True)
    command = [BIN / "meshfs", strange / "cluster.toml", point, "-f", "-o", "node=n2"]
    with (cluster.logs / "strange.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as mount:
        try:
            until(lambda: os.path.ismount(point), "the mount serves")
            assert os.listdir(point / "disk/by-id") == []
            assert cluster.meshctl("status", str(point), check=False).returncode == 1
            assert not cluster.control("n1")["sessions"]
            assert os.listdir(cluster.mount("n2", label="honest") / "disk/by-id") == ["meshfs-n1-disk0"]
        finally:
            run("umount", point, status=None)
            mount.terminate()
    log_text = (cluster.logs / "n1-meshfsd.log").read_text()
    assert "n2" in log_text
