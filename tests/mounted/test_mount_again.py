"""The same mount a second time is refused by name, and left out by `mount -a`, whatever the config is called."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.linux.mountinfo import MountEntry, read_mounts
from meshlab.cluster.cluster import BIN, LocalCluster
from support.commands import run

pytestmark = [pytest.mark.mounted, pytest.mark.usefixtures("installed")]

GUARD_S = 60
NewCluster = Callable[..., LocalCluster]
OPTIONS = "node=n1,log=/dev/null"
# Names of a config's folder. The last one is not valid UTF-8.
LABELS = ["plain", "m\u00e9t\u00e9o", "two words", "a,b=c", "back\\slash", "quote'\"$x", "\u0085\u2028", "raw\udcff"]


def idle_cluster(new_cluster: NewCluster, label: str) -> LocalCluster:
    """Make a cluster of one node without disks, whose exporter does not run."""
    cluster = new_cluster(label)
    cluster.add_node("n1")
    cluster.write()
    cluster.keygen()
    return cluster


def mounts_at(point: Path) -> list[MountEntry]:
    return [mount for mount in read_mounts() if mount.point == str(point)]


def mount_point(folder: Path) -> Path:
    point = folder / "a mesh"
    point.mkdir()
    return point


def fstab_field(path: Path) -> bytes:
    """Return the word as fstab(5) wants it, with \\040 for a blank.

    libmount reads every octal escape, so a backslash is \\134.
    """
    return os.fsencode(path).replace(b"\\", rb"\134").replace(b" ", rb"\040")


def write_fstab(folder: Path, config: Path, point: Path, kind: str) -> Path:
    fstab = folder / "fstab"
    fstab.write_bytes(b" ".join((fstab_field(config), fstab_field(point), kind.encode(), f"{OPTIONS} 0 0\n".encode())))
    return fstab


@pytest.mark.parametrize("kind", ["meshfs", "fuse.meshfs"])
@pytest.mark.parametrize("label", LABELS)
def test_mount_a_is_idempotent(new_cluster: NewCluster, tmp_path: Path, label: str, kind: str) -> None:
    cluster = idle_cluster(new_cluster, label)
    point = mount_point(tmp_path)
    fstab = write_fstab(tmp_path, cluster.config, point, kind)
    try:
        assert run("mount", "-a", "--fstab", fstab) == ""
        assert [mount.source for mount in mounts_at(point)] == [str(cluster.config)]
        assert run("mount", "-a", "--fstab", fstab) == ""
        assert len(mounts_at(point)) == 1
    finally:
        while mounts_at(point):
            run("umount", point)


def test_a_second_mount_is_refused_and_harmless(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = idle_cluster(new_cluster, "c")
    point = mount_point(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(point)
    command = [BIN / "meshfs", cluster.config]
    run(*command, point, "-o", OPTIONS)
    try:
        for place in (point, link, Path("a mesh"), Path("./a mesh/")):
            text = run(*command, place, "-o", OPTIONS, status=32, cwd=tmp_path)
            assert text == f"meshfs: {point}: {cluster.config} is mounted here already; umount it first\n"
        assert "mounted here already" in run("mount", "-t", "meshfs", cluster.config, point, "-o", OPTIONS, status=32)
        assert len(mounts_at(point)) == 1
        # With -f, mount(8) passes on an entry that is mounted already.
        run("mount", "-f", "-t", "meshfs", cluster.config, point, "-o", OPTIONS)
    finally:
        while mounts_at(point):
            run("umount", point)


def test_another_file_system_may_lie_between(new_cluster: NewCluster, tmp_path: Path) -> None:
    """Only a mesh directly on a mesh is certainly a mistake."""
    cluster = idle_cluster(new_cluster, "c")
    folder = tmp_path / "folder"
    folder.mkdir()
    point = mount_point(folder)
    run(BIN / "meshfs", cluster.config, point, "-o", OPTIONS)
    run("mount", "-t", "tmpfs", "between", folder)
    try:
        mount_point(folder)
        run(BIN / "meshfs", cluster.config, point, "-o", OPTIONS)
        assert [mount.type for mount in mounts_at(point)] == ["fuse.meshfs"] * 2
        run("umount", point)
    finally:
        run("umount", "--lazy", folder)
        while mounts_at(point):
            run("umount", point)


def test_one_set_of_relative_paths_behind_a_link(new_cluster: NewCluster, tmp_path: Path) -> None:
    """mount(8) resolves the link to CONFIG before the helper sees the path, so every command must resolve it."""
    cluster = idle_cluster(new_cluster, "real")
    cluster.config.write_text(cluster.config.read_text().replace(f"{cluster.folder}/", ""))
    point = mount_point(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = elsewhere / "link.toml"
    config.symlink_to(Path("../real") / cluster.config.name)
    assert f"{cluster.folder}/keys/n1" in run(BIN / "meshctl", "keygen", config)
    commands = (
        ("mount", "-t", "meshfs", config, point, "-o", OPTIONS),
        ("mount", "-t", "fuse.meshfs", config, point, "-o", OPTIONS),
        (BIN / "meshfs", config, point, "-o", OPTIONS),
    )
    for command in commands:
        run(*command)
        try:
            assert [mount.source for mount in mounts_at(point)] == [str(cluster.config)]
            assert run("mount", "-a", "--fstab", write_fstab(tmp_path, config, point, "meshfs")) == ""
            assert len(mounts_at(point)) == 1
        finally:
            while mounts_at(point):
                run("umount", point)
    assert sorted(entry.name for entry in elsewhere.iterdir()) == ["link.toml"]


def test_of_mounts_at_once_one_is_made(new_cluster: NewCluster, tmp_path: Path) -> None:
    """Each mount sees no other mount when it begins, as with an automounter and `mount -a` at a boot."""
    cluster = idle_cluster(new_cluster, "c")
    point = mount_point(tmp_path)
    command = [str(part) for part in (BIN / "meshfs", cluster.config, point, "-o", OPTIONS)]
    try:
        begun = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
        ended = [(process.communicate(timeout=GUARD_S)[1], process.returncode) for process in begun]
        assert len(mounts_at(point)) == 1
        assert sorted(status for _, status in ended) == [0, 32, 32, 32]
        assert all("is mounted here already" in text for text, status in ended if status)
    finally:
        while mounts_at(point):
            run("umount", point)
