"""A file system on a remote disk is made, filled, checked, and read on another node."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import KIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import run

pytestmark = pytest.mark.mounted


@contextmanager
def attached(disk: Path, *options: str) -> Iterator[str]:
    device = run("losetup", "--find", "--show", *options, disk).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(device: str, point: Path, *options: str) -> Iterator[Path]:
    point.mkdir()
    run("mount", *options, device, point)
    try:
        yield point
    finally:
        run("umount", point)
        point.rmdir()


def make_tree(root: Path) -> Path:
    chosen = random.Random(4)
    for number in range(200):
        path = root / f"d{number % 7}" / f"e{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chosen.randbytes(chosen.randrange(256 * KIB)))
    (root / "link").symlink_to("d0/e0/file0")
    return root


@pytest.mark.parametrize("options", [(), ("--direct-io=on",)], ids=["buffered", "direct"])
def test_ext4_on_a_remote_disk(mesh: LocalCluster, tmp_path: Path, options: tuple[str, ...]) -> None:
    tree = make_tree(tmp_path / "tree")
    writer, reader = (mesh.mountpoint(node) / "disk/by-node/n1/direct" for node in ("n2", "n3"))
    with attached(writer, *options) as device:
        run("mkfs.ext4", "-q", "-F", device)
        with mounted(device, tmp_path / "fs") as point:
            run("cp", "-a", f"{tree}/.", point)
            os.sync()
        run("fsck.ext4", "-f", "-n", device)
    with attached(reader, "--read-only") as device, mounted(device, tmp_path / "seen", "-o", "ro") as point:
        run("diff", "-r", "--no-dereference", "--exclude=lost+found", tree, point)
