"""A device that vanishes and comes back, a cluster that owns it, and what the mount shows of a disk."""

import os
from collections.abc import Callable
from pathlib import Path

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run, until
from support.direct import read_errno, write_errno

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
        """Make the device vanish. Its data is kept in another file meanwhile, because its image must become empty."""
        run("cp", "--sparse=always", self.image, self._kept)
        self.resize(0)
        self.link.unlink()

    def come_back(self) -> None:
        """Make the device come back under the kernel name that it had."""
        run("dd", f"if={self._kept}", f"of={self.image}", "bs=1M", "conv=notrunc,sparse", "status=none")
        os.truncate(self.image, SIZE)
        run("losetup", "--set-capacity", self.device)
        self.link.symlink_to(self.device)

    def come_back_elsewhere(self) -> None:
        """Make the device come back under another kernel name, because another image holds the old name."""
        old, holder = self.device, self._kept.with_name("holder.img")
        run("losetup", "--detach", old)
        holder.write_bytes(bytes(MIB))
        # If another process was faster, the old name is taken as well.
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


def up(cluster: LocalCluster, *disks: LocalDisk) -> Path:
    """Mount on n2 the disks of n1 and a good one of n1's. Return the folder of n1's disks as n2 sees it."""
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


def log_of(cluster: LocalCluster) -> str:
    return (cluster.logs / "n1-meshfsd.log").read_text()


def assert_good(disks: Path) -> None:
    assert write_errno(disks / "good", 4096) == 0
    assert read_errno(disks / "good", 4096) == 0


def await_size(path: Path, size_bytes: int) -> None:
    until(lambda: os.stat(path).st_size == size_bytes, f"{path.name} has {size_bytes} bytes", 20)
