"""Discovery of real kernel disks: their ids, the disks that this machine uses, and removal and return under I/O.

The guest has no udev, so the ids are made from sysfs.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from meshlab.shelf.shelf import Shelf, ShelfDisk
from support.commands import run, until
from support.direct import errno_of, read_errno, write_errno
from support.guest_disks import Removal, await_disk
from support.load import Load

pytestmark = pytest.mark.guest

DISK_BYTES = 16 * MIB
#: A disk whose use has ended is examined every 15 s, and the emulated machine is slow.
NOTICED_WITHIN_S = 60.0
FAILS_WITHIN_S = 10.0
REMOVED = (errno.EIO, errno.ENODEV)
SCSI_DEBUG_DISKS = 3
#: The machine's disks by what they report of themselves, with the id that discovery makes of it.
IDS = {
    "virtio-blk": "virtio-virtio-blk-0",
    "virtio-scsi": "scsi-QEMU_HARDDISK_virtio-scsi-1",
    "nvme": "nvme-QEMU_NVMe_Ctrl_nvme-2",
}
INCLUDE = ", ".join(f'{{ bus = "{bus}" }}' for bus in ("virtio", "scsi", "nvme", "null", "scsi_debug"))


@dataclass
class Mesh:
    """n1 discovers the machine's disks, except those that the machine uses. n2 mounts the mesh."""

    cluster: LocalCluster
    mountpoint: Path
    shelf: Shelf
    #: The disks that are offered, by id.
    offered: dict[str, Path]
    #: A disk of the shelf among them.
    pulled: ShelfDisk
    used: dict[str, Path]

    def path(self, name: str) -> Path:
        return self.mountpoint / "disk/by-id" / name

    def verdicts(self, node: str = "n1") -> dict[str, dict[str, Any]]:
        """Return what an exporter says of each disk of the machine, by path."""
        return {disk["path"]: disk for disk in self.cluster.control(node)["machine_disks"]}

    def offers(self, node: str = "n1") -> set[str]:
        """Return the ids of the disks that an exporter offers."""
        return {disk["id"] for disk in self.verdicts(node).values() if disk["offered"]}

    def await_refusal(self, device: Path, reason: str) -> None:
        def refused() -> bool:
            return reason in self.verdicts().get(str(device), {}).get("why", "")

        until(refused, f"{device} is refused: {reason}", NOTICED_WITHIN_S)

    def await_readable(self, name: str) -> None:
        until(lambda: read_errno(self.path(name), 0) == 0, f"{name} can be read", NOTICED_WITHIN_S)

    @contextmanager
    def removed(self, name: str) -> Iterator[None]:
        """Remove a disk, and bring it back at the end: a disk of the shelf in another slot."""
        if name != self.pulled.id:
            with Removal(await_disk("nvme")):
                yield
            return
        self.shelf.pull(self.pulled)
        try:
            yield
        finally:
            self.shelf.plug(self.pulled, 6)


@pytest.fixture(scope="module")
def scsi_debug() -> Iterator[dict[str, Path]]:
    """Make SCSI disks in memory, each with a host and content of its own."""
    run("modprobe", "scsi_debug", "dev_size_mb=16", f"add_host={SCSI_DEBUG_DISKS}", "per_host_store=1")
    blocks = [block for block in Path("/sys/block").iterdir() if "/pseudo_" in str(block.resolve())]
    assert len(blocks) == SCSI_DEBUG_DISKS
    wwids = {block.name: (block / "device/wwid").read_text().strip() for block in blocks}
    yield {f"wwn-0x{wwid.removeprefix('naa.')}": Path("/dev") / name for name, wwid in sorted(wwids.items())}
    run("modprobe", "-r", "scsi_debug")


@pytest.fixture(scope="module")
def null_blk() -> Iterator[Path]:
    run("modprobe", "null_blk", "nr_devices=1", "memory_backed=1", "gb=1")
    yield Path("/dev/nullb0")
    run("modprobe", "-r", "null_blk")


@pytest.fixture(scope="module")
def mesh(
    tmp_path_factory: pytest.TempPathFactory, scsi_debug: dict[str, Path], null_blk: Path, shelf: Shelf
) -> Iterator[Mesh]:
    pulled, *others = (shelf.new_disk(DISK_BYTES) for _ in range(3))
    for slot, disk in enumerate((pulled, *others), start=1):
        shelf.plug(disk, slot)
    (debug_id, debug), *legs = scsi_debug.items()
    dm, lvm = (disk.device for disk in others)
    used = {"md": legs[0][1], "dm": dm, "lvm": lvm, "null": null_blk}
    offered = {**{IDS[kind]: await_disk(kind) for kind in IDS}, debug_id: debug, pulled.id: pulled.device}
    with ExitStack() as stack:
        stack.enter_context(md_array([leg for _, leg in legs]))
        stack.enter_context(linear(dm))
        stack.enter_context(volume_group(lvm))
        cluster = stack.enter_context(LocalCluster(tmp_path_factory.mktemp("discovery")))
        for name in ("n1", "n2"):
            cluster.add_node(name)
            cluster.nodes[name].discovery = f"include = [{INCLUDE}]"
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        cluster.mount("n2")
        yield Mesh(cluster, cluster.mountpoint("n2"), shelf, offered, pulled, used)
    assert list(tracebacks(cluster.logs)) == []


@contextmanager
def md_array(legs: list[Path]) -> Iterator[None]:
    run("mdadm", "--create", "/dev/md127", "--level=1", "--raid-devices=2", "--run", "--assume-clean", *legs)
    try:
        yield
    finally:
        run("mdadm", "--stop", "/dev/md127", status=None)


@contextmanager
def linear(device: Path) -> Iterator[None]:
    run("dmsetup", "create", "linear", "--noudevsync", "--table", f"0 {DISK_BYTES // 512} linear {device} 0")
    try:
        yield
    finally:
        run("dmsetup", "remove", "--noudevsync", "linear", status=None)


@contextmanager
def volume_group(device: Path) -> Iterator[None]:
    lvm("pvcreate", device, only=device)
    lvm("vgcreate", "group", device, only=device)
    lvm("lvcreate", "--name", "volume", "--extents", "1", "--zero", "n", "--wipesignatures", "n", "group", only=device)
    try:
        yield
    finally:
        lvm("vgchange", "--activate", "n", "group", only=device)


def lvm(command: str, *words: str | Path, only: Path) -> None:
    """Run a command of LVM, which makes the device files itself and looks only at one disk."""
    devices = f'devices {{ use_devicesfile = 0 obtain_device_list_from_udev = 0 filter = [ "a|^{only}$|", "r|.*|" ] }}'
    run(command, "--yes", "--config", f"{devices} activation {{ udev_sync = 0 udev_rules = 0 }}", *words)


def test_every_kind_of_disk_is_offered_under_its_id_and_claimed(mesh: Mesh) -> None:
    for name, device in mesh.offered.items():
        path = mesh.path(name)
        until(path.exists, f"the mount shows {name}", NOTICED_WITHIN_S)
        assert os.stat(path).st_size == int(Path(f"/sys/block/{device.name}/size").read_text()) * 512
        assert write_errno(path, MIB, MIB) == 0
        run("cmp", f"--bytes={MIB}", "--ignore-initial=1M", path, device)
        assert errno_of(lambda device=device: os.close(os.open(device, os.O_RDONLY | os.O_EXCL))) == errno.EBUSY
    assert sorted(os.listdir(mesh.path(""))) == sorted(mesh.offered)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("md", "this machine uses it: held by md127"),
        ("dm", "this machine uses it: held by dm-"),
        ("lvm", "this machine uses it: held by dm-"),
        ("null", "it has no WWN and no serial number"),
    ],
)
def test_a_disk_that_is_used_or_has_no_name_is_refused(mesh: Mesh, kind: str, reason: str) -> None:
    verdict = mesh.verdicts()[str(mesh.used[kind])]
    assert not verdict["offered"]
    assert reason in verdict["why"]


def test_when_its_use_ends_a_member_stays_refused_and_another_disk_is_offered(mesh: Mesh) -> None:
    run("mdadm", "--stop", "/dev/md127")
    lvm("vgchange", "--activate", "n", "group", only=mesh.used["lvm"])
    run("dmsetup", "remove", "--noudevsync", "linear")
    dm = str(mesh.used["dm"])
    until(lambda: mesh.verdicts()[dm]["offered"], f"{dm} is offered", NOTICED_WITHIN_S)
    mesh.await_refusal(mesh.used["md"], "it belongs to an md array")
    mesh.await_refusal(mesh.used["lvm"], "it belongs to an LVM volume group")


@pytest.mark.parametrize("kind", ["shelf", "nvme"])
def test_a_disk_that_is_pulled_under_io_fails_at_once_and_serves_again(mesh: Mesh, kind: str) -> None:
    name = mesh.pulled.id if kind == "shelf" else IDS["nvme"]
    path = mesh.path(name)
    before = start_of(path)
    with ExitStack() as stack:
        pulled, beside = (stack.enter_context(Load(mesh.path(each))) for each in (name, IDS["virtio-blk"]))
        kept = stack.enter_context(opened(path))
        with mesh.removed(name):
            until(lambda: pulled.errno, "I/O fails", FAILS_WITHIN_S)
            until(lambda: not path.exists(), f"{name} is no longer shown", NOTICED_WITHIN_S)
            began = time.monotonic()
            assert read_errno(kept, 0) in REMOVED
            assert time.monotonic() - began < FAILS_WITHIN_S
        mesh.await_readable(name)
        assert start_of(path) == before
        assert write_errno(path, 4096) == 0
    assert pulled.errno in REMOVED
    assert (beside.errno, beside.writes > 0) == (0, True)


def test_a_second_disk_with_the_same_id_is_told_apart_and_refused(mesh: Mesh) -> None:
    twin = mesh.shelf.new_disk(DISK_BYTES, naa=mesh.pulled.unit.identity.naa)
    mesh.shelf.plug(twin, 8)
    try:
        mesh.await_refusal(twin.device, f"{mesh.pulled.device.name} has the same id")
        assert mesh.verdicts()[str(mesh.pulled.device)]["offered"]
        assert write_errno(mesh.path(mesh.pulled.id), 0) == 0
    finally:
        mesh.shelf.pull(twin)


def test_another_exporter_of_the_machine_offers_a_disk_only_when_the_first_one_has_left_it(mesh: Mesh) -> None:
    cluster, offered = mesh.cluster, mesh.offers()
    assert offered >= set(mesh.offered)
    cluster.start_exporter("n2")
    assert mesh.offers("n2") == set()
    assert cluster.control("n2")["disks"] == []
    contents = {name: start_of(mesh.path(name)) for name in mesh.offered}
    cluster.nodes["n1"].discovery = 'include = [{ path = "/dev/none" }]'
    cluster.write()
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: mesh.offers("n2") == offered, "n2 offers the disks", NOTICED_WITHIN_S)
    for name, content in contents.items():
        mesh.await_readable(name)
        assert os.readlink(mesh.mountpoint / "disk/by-node/n2" / name).endswith(name)
        assert start_of(mesh.path(name)) == content


def start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)
