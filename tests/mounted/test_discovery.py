"""Discovered disks come, go and return on every mount, and a disk that this machine uses is never offered.

Real loop devices stand for disks. Only the devices of the test are included, because other tests have some, too.
"""

import errno
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run, until
from support.direct import read_errno, write_errno
from support.loop_device import loop_device

pytestmark = pytest.mark.mounted

SIZE = 64 * MIB
#: A change at the owner shows on every mount within this time.
SHOWN_WITHIN_S = 2.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def device(tmp_path: Path, stack: ExitStack) -> str:
    return stack.enter_context(loop_device(tmp_path / "disk.img", SIZE))


def include(*devices: str) -> str:
    """Return the line of [node.disks] that includes these devices. A path may have wildcards."""
    patterns = ", ".join(f"{{ path = '{device}' }}" for device in devices)
    return f"include = [{patterns}]"


def start(stack: ExitStack, folder: Path, discovery: str, *, mounts: bool = True) -> LocalCluster:
    """Start an exporter n1 that discovers its disks, and mount the mesh on n1 and n2."""
    cluster = stack.enter_context(LocalCluster(folder / "cluster"))
    cluster.add_node("n1")
    cluster.nodes["n1"].discovery = discovery
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    if mounts:
        cluster.mount("n1")
        cluster.mount("n2")
    return cluster


def machine_disk(cluster: LocalCluster, device: str) -> dict[str, Any]:
    """Return what `meshctl disks --all` says of a device."""
    shown = cluster.meshctl("disks", "--all", "--json", "--config", str(cluster.config), "--node", "n1").stdout
    (disk,) = [disk for disk in json.loads(shown)["disks"] if disk["path"] == device]
    return disk


def ids(cluster: LocalCluster, node: str) -> list[str]:
    return sorted(os.listdir(cluster.mountpoint(node) / "disk/by-id"))


def await_ids(cluster: LocalCluster, expected: list[str], timeout_s: float = SHOWN_WITHIN_S) -> None:
    for node in ("n1", "n2"):
        until(lambda node=node: ids(cluster, node) == sorted(expected), f"{node} shows {expected}", timeout_s)


# --- coming and going ----------------------------------------------------------------------


def test_a_disk_that_appears_is_served_and_one_that_is_removed_disappears(tmp_path: Path, stack: ExitStack) -> None:
    first = stack.enter_context(loop_device(tmp_path / "first.img", SIZE))
    second = stack.enter_context(loop_device(tmp_path / "second.img", SIZE))
    run("losetup", "--detach", second)
    cluster = start(stack, tmp_path, include(first, second))
    one = machine_disk(cluster, first)["id"]
    await_ids(cluster, [one])
    run("losetup", second, tmp_path / "second.img")
    until(lambda: len(ids(cluster, "n2")) == 2, "the second disk is shown", SHOWN_WITHIN_S)
    two = machine_disk(cluster, second)["id"]
    await_ids(cluster, [one, two])
    path = cluster.mountpoint("n2") / "disk/by-id" / two
    assert write_errno(path, 4096) == 0
    assert os.stat(path).st_size == SIZE
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.truncate(tmp_path / "second.img", 0)
        run("losetup", "--set-capacity", second)
        await_ids(cluster, [one])
        began = time.monotonic()
        assert read_errno(fd, 0) in (errno.ENODEV, errno.EIO)
        assert time.monotonic() - began < SHOWN_WITHIN_S, "I/O at a disk that is gone waits"
        assert read_errno(cluster.mountpoint("n2") / "disk/by-id" / one, 0) == 0
        os.truncate(tmp_path / "second.img", SIZE)
        run("losetup", "--set-capacity", second)
        await_ids(cluster, [one, two])
    finally:
        os.close(fd)
    assert write_errno(path, 4096) == 0


def test_a_discovered_disk_keeps_its_id_and_content_under_another_name_and_after_a_restart(
    tmp_path: Path, stack: ExitStack
) -> None:
    image = tmp_path / "disk.img"
    first = stack.enter_context(loop_device(image, SIZE))
    other = stack.enter_context(loop_device(tmp_path / "other.img", SIZE))
    run("losetup", "--detach", other)
    cluster = start(stack, tmp_path, include(first, other))
    name = machine_disk(cluster, first)["id"]
    await_ids(cluster, [name])
    path = cluster.mountpoint("n2") / "disk/by-id" / name
    with path.open("r+b") as file:
        file.write(b"kept")
    cluster.stop_exporter("n1")
    run("losetup", "--detach", first)
    run("losetup", other, image)
    cluster.start_exporter("n1")
    assert machine_disk(cluster, other)["id"] == name
    until(lambda: read_errno(path, 0) == 0, "the disk is back", 20)
    assert path.read_bytes()[:4] == b"kept"


def test_an_excluded_disk_is_not_offered_although_it_is_included(tmp_path: Path, stack: ExitStack, device: str) -> None:
    other = stack.enter_context(loop_device(tmp_path / "other.img", SIZE))
    cluster = stack.enter_context(LocalCluster(tmp_path / "cluster"))
    cluster.add_node("n1")
    # A pattern such as /dev/loop* would also match devices of others, which the exporter would claim.
    cluster.nodes["n1"].discovery = f'{include(device, other)}\nexclude = [{{ path = "{device}" }}]'
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    assert "exclude" in machine_disk(cluster, device)["why"]
    assert machine_disk(cluster, other)["offered"]


def test_a_listed_disk_and_the_disk_of_a_listed_partition_are_not_discovered(
    tmp_path: Path, stack: ExitStack, device: str
) -> None:
    whole = stack.enter_context(loop_device(tmp_path / "whole.img", SIZE))
    partition = partition_on(device, tmp_path, stack)
    cluster = stack.enter_context(LocalCluster(tmp_path / "cluster"))
    cluster.add_node("n1")
    cluster.nodes["n1"].discovery = include(device, whole)
    cluster.nodes["n1"].disks += [LocalDisk("part", Path(partition)), LocalDisk("whole", Path(whole))]
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    for path, name in ((device, "part"), (whole, "whole")):
        disk = machine_disk(cluster, path)
        assert (disk["offered"], f"as disk '{name}'" in disk["why"]) == (False, True)
    assert [disk["name"] for disk in cluster.control("n1")["disks"] if disk["state"] == "ok"] == ["part", "whole"]


def test_the_table_tells_people_why_a_disk_is_not_offered(tmp_path: Path, stack: ExitStack, device: str) -> None:
    cluster = start(stack, tmp_path, 'include = [{ bus = "nvme" }]', mounts=False)
    shown = cluster.meshctl("disks", "--all", "--config", str(cluster.config), "--node", "n1").stdout
    line = next(line for line in shown.splitlines() if line.startswith(device + " "))
    assert line.endswith('no: no pattern of "include" in the config matches it')


# --- in use --------------------------------------------------------------------------------


def mounted(device: str, folder: Path, stack: ExitStack) -> None:
    run("mkfs.ext4", "-q", device)
    point = folder / "point"
    point.mkdir()
    run("mount", device, point)
    stack.callback(run, "umount", point)


def swapped(device: str, folder: Path, stack: ExitStack) -> None:
    run("mkswap", device)
    run("swapon", device)
    stack.callback(run, "swapoff", device)


def claimed(device: str, folder: Path, stack: ExitStack) -> None:
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    stack.callback(os.close, fd)


def in_a_loop(device: str, folder: Path, stack: ExitStack) -> None:
    stack.enter_context(loop_device(Path(device), SIZE))


def lvm(device: str, folder: Path, stack: ExitStack) -> None:
    run("pvcreate", "--yes", "--config", "devices { use_devicesfile = 0 }", device)


def btrfs(device: str, folder: Path, stack: ExitStack) -> None:
    run("mkfs.btrfs", "--quiet", device)


def bcache(device: str, folder: Path, stack: ExitStack) -> None:
    run("make-bcache", "-B", device)


def luks(device: str, folder: Path, stack: ExitStack) -> None:
    (folder / "passphrase").write_text("secret")
    options = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    run("cryptsetup", "--batch-mode", "luksFormat", *options, device, folder / "passphrase")


def swap_space(device: str, folder: Path, stack: ExitStack) -> None:
    run("mkswap", device)


def partition_on(device: str, folder: Path, stack: ExitStack) -> str:
    """Make a partition on the device, and return its path."""
    (folder / "table").write_text("2048,32768\n")
    run("sh", "-c", f"sfdisk --quiet {device} < {folder / 'table'}")
    run("partx", "--update", device)
    partition = Path(f"{device}p1")
    if not partition.exists():
        # No udev makes device files here.
        number = Path(f"/sys/class/block/{partition.name}/dev").read_text().split(":")
        os.mknod(partition, 0o600 | stat.S_IFBLK, os.makedev(*map(int, number)))
        stack.callback(partition.unlink)
    stack.callback(run, "partx", "--delete", device)
    return str(partition)


def zfs(device: str, folder: Path, stack: ExitStack) -> None:
    """Write the uberblocks of the first label of a ZFS pool, because no ZFS tool works without the kernel's ZFS."""
    with open(device, "r+b") as disk:
        for number in range(128):
            disk.seek(128 * 1024 + number * 1024)
            disk.write((0x00BAB10C).to_bytes(8, sys.byteorder) + (5000).to_bytes(8, sys.byteorder))


def in_a_partition(device: str, folder: Path, stack: ExitStack) -> None:
    lvm(partition_on(device, folder, stack), folder, stack)


#: How a device is used, and a part of the reason why it is not offered.
USES: dict[str, tuple[Callable[[str, Path, ExitStack], None], str]] = {
    "mounted": (mounted, "this machine uses it: mounted on /"),
    "swap": (swapped, "this machine uses it: swap space"),
    "opened": (claimed, "this machine uses it: a program or the kernel has opened it exclusively"),
    "looped": (in_a_loop, "this machine uses it: the backing file of /dev/loop"),
    "LVM": (lvm, "it belongs to an LVM volume group"),
    "btrfs": (btrfs, "it belongs to a btrfs file system"),
    "ZFS": (zfs, "it belongs to a ZFS pool"),
    "bcache": (bcache, "it belongs to a bcache set"),
    "LUKS": (luks, "it belongs to a LUKS container"),
    "swap-space": (swap_space, "it belongs to swap space"),
    "partition": (in_a_partition, "it belongs to an LVM volume group, by its partition loop"),
}


@dataclass(frozen=True)
class Used:
    """A cluster whose exporter finds one device per use. The uses end when ``using`` is closed."""

    cluster: LocalCluster
    devices: dict[str, str]
    using: ExitStack


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    folder = tmp_path_factory.mktemp("used")
    with ExitStack() as stack:
        using = stack.enter_context(ExitStack())
        devices = {}
        for name, (begin, _) in USES.items():
            place = folder / name
            place.mkdir()
            devices[name] = stack.enter_context(loop_device(place / "disk.img", 2 * SIZE))
            begin(devices[name], place, using)
        yield Used(start(stack, folder, include(*devices.values()), mounts=False), devices, using)
        using.close()


@pytest.mark.parametrize("name", USES)
def test_a_disk_that_is_used_or_belongs_to_something_is_not_offered(used: Used, name: str) -> None:
    disk = machine_disk(used.cluster, used.devices[name])
    assert not disk["offered"]
    assert USES[name][1] in disk["why"]


def test_nothing_that_is_used_was_served(used: Used) -> None:
    assert used.cluster.control("n1")["disks"] == []


def test_a_disk_is_offered_when_its_use_has_ended(used: Used) -> None:
    """Nobody reports the end of a use, so the exporter looks again by itself."""
    used.using.close()
    run("wipefs", "--all", "--quiet", used.devices["mounted"])
    for name in ("mounted", "opened"):
        until(lambda name=name: machine_disk(used.cluster, used.devices[name])["offered"], f"{name} is offered", 30)


def test_a_disk_on_which_the_mesh_put_a_file_system_is_offered_again(tmp_path: Path, stack: ExitStack) -> None:
    device = stack.enter_context(loop_device(tmp_path / "disk.img", 2 * SIZE))
    cluster = start(stack, tmp_path, include(device))
    path = cluster.mountpoint("n2") / "disk/by-id" / machine_disk(cluster, device)["id"]
    run("mkfs.btrfs", "--quiet", "--force", path)
    cluster.stop_exporter("n1")
    cluster.start_exporter("n1")
    assert run("blkid", "-p", "-s", "TYPE", "-o", "value", device).strip() == "btrfs"
    assert machine_disk(cluster, device)["offered"]


def test_two_exporters_of_one_machine_never_offer_one_disk(tmp_path: Path, stack: ExitStack, device: str) -> None:
    cluster = stack.enter_context(LocalCluster(tmp_path / "cluster"))
    for name in ("n1", "n2"):
        cluster.add_node(name)
        cluster.nodes[name].discovery = include(device)
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    cluster.start_exporter("n2")
    assert machine_disk(cluster, device)["offered"]
    assert [disk["state"] for disk in cluster.control("n1")["disks"]] == ["ok"]
    assert cluster.control("n2")["disks"] == []
