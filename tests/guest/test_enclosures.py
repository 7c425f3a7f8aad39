"""A real SES device of the kernel: its pages, lamps and slots over the mesh, compared with what sg_ses and sysfs say.

The device is the shelf of meshlab.shelf, which the kernel's ses driver has attached.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshfs.enclosure.found import DiskPorts
from meshfs.enclosure.matching import occupants
from meshfs.enclosure.ses_device import SesDevice
from meshfs.enclosure.sysfs import find_ses_devices, read_disk_ports, read_slot_links
from meshfs.enclosure_info import EnclosureState
from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from meshlab.shelf.enclosure import RECEIVE_DIAGNOSTIC
from meshlab.shelf.shelf import Shelf, ShelfDisk
from meshlab.shelf.unit import CONDITIONS_CHANGED
from support.commands import run, until
from support.direct import errno_of, read_errno, write_errno
from support.load import Load

pytestmark = pytest.mark.guest

DISK_BYTES = 16 * MIB
CODES = (0x00, 0x01, 0x02, 0x07, 0x0A)
#: A SES device is polled every 5 s, and the emulated machine is slow.
NOTICED_WITHIN_S = 60.0
HEAD_BYTES = 8
SELECT, IDENT, FAULT = 0x80, 0x02, 0x20
#: What the ses driver shows as "fault" if somebody has switched the lamp on. A sensed fault is another number.
FAULT_REQUESTED = "2"


def sg_ses(shelf: Shelf, *options: str) -> bytes:
    command = ["sg_ses", *options, str(shelf.generic)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True).stdout


def real_pages(shelf: Shelf) -> bytes:
    """Return all pages one after the other, as sg_ses reads them from the kernel's device."""
    return b"".join(sg_ses(shelf, f"--page={code:#x}", "--raw", "--raw") for code in CODES)


def lamp(shelf: Shelf, slot: int, name: str) -> str:
    """Return what the kernel's ses driver shows of a lamp of a slot: "0", or a number that means that it is on."""
    return (shelf.sysfs / f"Slot {slot:02d}" / name).read_text().strip()


def control_page(shelf: Shelf, slot: int, ident: int = 0, fault: int = 0) -> bytes:
    """Return a control page that selects one slot. The slots come right after the overall element of their type."""
    status = sg_ses(shelf, "--page=0x2", "--raw", "--raw")
    page = bytearray(status[:HEAD_BYTES].ljust(len(status), b"\0"))
    page[1] = 0
    page[HEAD_BYTES + 4 * slot : HEAD_BYTES + 4 * slot + 4] = bytes((SELECT, 0, ident, fault))
    return bytes(page)


# --- the device alone ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def disks(shelf: Shelf) -> list[ShelfDisk]:
    """Plug disks into the slots 2 and 5, and make one more."""
    disks = [shelf.new_disk(DISK_BYTES) for _ in range(3)]
    shelf.plug(disks[0], 2)
    shelf.plug(disks[1], 5)
    return disks


@pytest.fixture
def device(shelf: Shelf, disks: list[ShelfDisk]) -> Iterator[SesDevice]:
    device = SesDevice(shelf.id, shelf.generic)
    yield device
    device.close()


def test_the_device_gives_the_bytes_that_sg_ses_reads(shelf: Shelf, device: SesDevice) -> None:
    shelf.enclosure.attentions.append(CONDITIONS_CHANGED)
    reading = device.read()
    assert not shelf.enclosure.attentions
    assert reading.content == real_pages(shelf)
    assert (reading.info.state, reading.info.vendor, reading.info.product) == (EnclosureState.OK, "MESHFS", "Shelf")
    slots = {slot.number: slot for slot in reading.info.slots}
    assert list(slots) == list(range(1, 9))
    assert [number for number, slot in slots.items() if slot.status == "ok"] == [2, 5]


def test_sysfs_leads_to_the_device_and_the_addresses_to_the_slots(
    shelf: Shelf, device: SesDevice, disks: list[ShelfDisk]
) -> None:
    (found,) = find_ses_devices()
    assert (found.path, found.folder) == (shelf.generic, shelf.sysfs)
    assert f"enc-{found.logical_id:#018x}" == shelf.id
    ports: list[DiskPorts] = read_disk_ports()
    view = device.read().view
    assert view is not None
    inside = {"Slot_02": (disks[0].device.name,), "Slot_05": (disks[1].device.name,)}
    assert occupants(view, ports, read_slot_links(found, ports)) == inside
    assert occupants(view, ports) == inside


def test_a_control_page_changes_the_slot_that_it_selects_and_a_wrong_one_nothing(
    shelf: Shelf, device: SesDevice
) -> None:
    device.control(control_page(shelf, 3, IDENT, FAULT))
    assert (lamp(shelf, 3, "locate"), lamp(shelf, 3, "fault"), lamp(shelf, 4, "locate")) == ("1", FAULT_REQUESTED, "0")
    right = control_page(shelf, 3)
    for wrong, number in {
        right[:-4]: errno.EINVAL,
        right + bytes(4): errno.EINVAL,
        b"\x05" + right[1:]: errno.EINVAL,
        right[:4] + (99).to_bytes(4, "big") + right[8:]: errno.ESTALE,
    }.items():
        assert errno_of(lambda wrong=wrong: device.control(wrong)) == number  # type: ignore[misc]
    assert lamp(shelf, 3, "locate") == "1"
    device.control(right)
    assert (lamp(shelf, 3, "locate"), lamp(shelf, 3, "fault")) == ("0", "0")


#: Malformed pages by page code: each is made of the right page, and the reason has this word.
MALFORMED = {
    "status-cut": (0x02, lambda page: page[:20]),
    "status-longer-than-sent": (0x02, lambda page: page[:2] + b"\x7f\xff" + page[4:]),
    "status-of-another-generation": (0x02, lambda page: page[:4] + b"\0\0\0\7" + page[8:]),
    "configuration-cut": (0x01, lambda page: page[:30]),
    "configuration-is-another-page": (0x01, lambda page: b"\x05" + page[1:]),
    "texts-end-in-a-text": (0x07, lambda page: page[:2] + b"\0\x10" + page[4:20]),
    "addresses-past-the-end": (0x0A, lambda page: page[:-7] + b"\xff" + page[-6:]),
    "nothing": (0x0A, lambda page: b""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_page_is_refused_with_its_reason(shelf: Shelf, device: SesDevice, name: str) -> None:
    code, damage = MALFORMED[name]
    shelf.enclosure.wrong_pages[code] = damage(shelf.enclosure.page(code))
    try:
        info = device.read().info
    finally:
        shelf.enclosure.wrong_pages.clear()
    assert info.state is EnclosureState.REFUSED
    assert f"{code:02x}" in info.why
    assert device.read().info.state is EnclosureState.OK


# --- over the mesh -------------------------------------------------------------------------


@dataclass
class Mesh:
    """n1 has the shelf, and n2 mounts the mesh."""

    cluster: LocalCluster
    shelf: Shelf
    disks: list[ShelfDisk]

    @property
    def mountpoint(self) -> Path:
        return self.cluster.mountpoint("n2")

    @property
    def file(self) -> Path:
        return self.mountpoint / "enclosure/by-id" / self.shelf.id

    def fact(self, name: str) -> str:
        """Return an extended attribute of the enclosure's file, such as "state"."""
        return os.getxattr(self.file, f"user.meshfs.{name}").decode()

    def slot(self, number: int) -> list[str]:
        """Return what the mount knows of a slot: its status, its lamps and its disk."""
        return self.fact(f"slot.Slot_{number:02d}").split()

    def slots(self) -> dict[str, str]:
        """Return the ids of the disks in /mesh/disk/by-enclosure, by slot."""
        folder = self.mountpoint / "disk/by-enclosure" / self.shelf.id
        return {name: os.path.basename(os.readlink(folder / name)) for name in sorted(os.listdir(folder))}

    def await_slots(self, expected: dict[int, ShelfDisk]) -> None:
        wanted = {f"Slot_{number:02d}": disk.id for number, disk in expected.items()}
        until(lambda: self.slots() == wanted, f"the mount shows {wanted}", NOTICED_WITHIN_S)

    def disk(self, disk: ShelfDisk) -> Path:
        return self.mountpoint / "disk/by-id" / disk.id

    def smbclient(self, command: str) -> str:
        node = self.cluster.nodes["n1"]
        password = self.cluster.meshctl("password", str(self.cluster.config), "--node", "n2", "--to", "n1").stdout
        user = f"n2%{password.strip()}"
        return run("smbclient", f"//{node.address}/enclosures", "-p", str(node.port), "-U", user, "-c", command)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf, disks: list[ShelfDisk]) -> Iterator[Mesh]:
    with LocalCluster(tmp_path_factory.mktemp("enclosures")) as cluster:
        cluster.add_node("n1")
        cluster.nodes["n1"].discovery = 'include = [{ id = "wwn-0x5000c0de*" }]'
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        cluster.mount("n2")
        mesh = Mesh(cluster, shelf, disks)
        until(mesh.file.exists, "the mount shows the enclosure", NOTICED_WITHIN_S)
        yield mesh
    assert list(tracebacks(cluster.logs)) == []


def test_a_mount_and_smbclient_read_what_sg_ses_reads_at_the_owner(mesh: Mesh, tmp_path: Path) -> None:
    expected = real_pages(mesh.shelf)
    assert mesh.file.read_bytes() == expected
    mesh.smbclient(f"get {mesh.shelf.id} {tmp_path}/pages")
    assert (tmp_path / "pages").read_bytes() == expected
    # sg_ses decodes the file as if it were the device.
    shown = run("sg_ses", f"--inhex={tmp_path}/pages", "--raw", "--raw", "--status", "--page=0x2")
    assert "Array device slot" in shown


def test_the_disks_are_in_their_slots(mesh: Mesh) -> None:
    mesh.await_slots({2: mesh.disks[0], 5: mesh.disks[1]})
    assert mesh.slot(2) == ["ok", f"disk={mesh.disks[0].id}"]
    assert mesh.slot(3) == ["not-installed"]
    assert os.stat(mesh.mountpoint / "disk/by-enclosure" / mesh.shelf.id / "Slot_05").st_size == DISK_BYTES


def test_a_lamp_that_another_node_switches_is_on_at_the_owner_and_the_other_way_round(mesh: Mesh) -> None:
    mesh.file.write_bytes(control_page(mesh.shelf, 2, IDENT))
    assert lamp(mesh.shelf, 2, "locate") == "1"
    assert b"Ident=1" in sg_ses(mesh.shelf, "--index=arr,1")
    assert mesh.file.read_bytes() == real_pages(mesh.shelf)
    until(lambda: "locate" in mesh.slot(2), "the mount shows the lamp", NOTICED_WITHIN_S)
    sg_ses(mesh.shelf, "--index=arr,1", "--clear=locate")
    (mesh.shelf.sysfs / "Slot 05/fault").write_text("1")

    def are_shown() -> bool:
        return "fault" in mesh.slot(5) and "locate" not in mesh.slot(2)

    until(are_shown, "the mount shows both lamps", NOTICED_WITHIN_S)
    mesh.smbclient(f"put {_kept(mesh, control_page(mesh.shelf, 5))} {mesh.shelf.id}")
    assert lamp(mesh.shelf, 5, "fault") == "0"


def _kept(mesh: Mesh, page: bytes) -> Path:
    path = mesh.cluster.folder / "page"
    path.write_bytes(page)
    return path


def test_meshctl_switches_a_lamp_from_another_node(mesh: Mesh) -> None:
    for slot, disk in ((2, mesh.disks[0].id), (6, f"{mesh.shelf.id}/6")):
        for word, state in (("on", "1"), ("off", "0")):
            mesh.cluster.meshctl("locate", disk, word, "--mount", str(mesh.mountpoint))
            assert lamp(mesh.shelf, slot, "locate") == state


def test_a_wrong_control_page_is_refused_and_changes_nothing(mesh: Mesh) -> None:
    right = control_page(mesh.shelf, 2, IDENT)
    stale = right[:4] + (99).to_bytes(4, "big") + right[8:]
    assert errno_of(lambda: mesh.file.write_bytes(right[:-4])) == errno.EINVAL
    assert errno_of(lambda: mesh.file.write_bytes(stale)) == errno.ESTALE
    assert lamp(mesh.shelf, 2, "locate") == "0"


def test_a_disk_is_moved_removed_and_returned_under_io(mesh: Mesh) -> None:
    moved, beside, new = mesh.disks
    with Load(mesh.disk(beside)) as other:
        with Load(mesh.disk(moved)) as load:
            mesh.shelf.pull(moved)
            until(lambda: load.errno, "I/O fails", NOTICED_WITHIN_S)
            mesh.await_slots({5: beside})
        assert load.errno in (errno.EIO, errno.ENODEV)
        mesh.shelf.plug(moved, 7)
        mesh.shelf.plug(new, 2)
        mesh.await_slots({2: new, 5: beside, 7: moved})
        until(lambda: read_errno(mesh.disk(moved), 0) == 0, "the disk is back", NOTICED_WITHIN_S)
        assert write_errno(mesh.disk(moved), 0) == 0
        # Two disks change places while the enclosure also gets another generation.
        mesh.shelf.pull(moved)
        mesh.shelf.pull(new)
        mesh.shelf.enclosure.generation += 1
        mesh.shelf.plug(moved, 2)
        mesh.shelf.plug(new, 7)
        mesh.await_slots({2: moved, 5: beside, 7: new})
        assert mesh.file.read_bytes() == real_pages(mesh.shelf)
    assert (other.errno, other.writes > 0) == (0, True)


def test_a_malformed_page_is_shown_with_its_reason_and_the_disks_are_served(mesh: Mesh) -> None:
    page = mesh.shelf.enclosure.page(0x02)
    mesh.shelf.enclosure.wrong_pages[0x02] = page[:20]
    try:
        until(lambda: mesh.fact("state") == "refused", "the enclosure is refused", NOTICED_WITHIN_S)
        assert "page 02" in mesh.fact("why")
        assert "page 02" in mesh.cluster.meshctl("enclosures", str(mesh.mountpoint), check=False).stdout
        assert read_errno(mesh.disk(mesh.disks[1]), 0) == 0
    finally:
        mesh.shelf.enclosure.wrong_pages.clear()
    until(lambda: mesh.fact("state") == "ok", "the enclosure is right again", NOTICED_WITHIN_S)


def test_an_enclosure_that_is_unplugged_disappears_and_comes_back(mesh: Mesh) -> None:
    mesh.shelf.detach()
    until(lambda: not mesh.file.exists(), "the enclosure is no longer shown", NOTICED_WITHIN_S)
    assert read_errno(mesh.disk(mesh.disks[1]), 0) == 0
    mesh.shelf.attach()
    until(lambda: mesh.file.read_bytes() == real_pages(mesh.shelf), "the enclosure is back", NOTICED_WITHIN_S)
    assert mesh.shelf.enclosure.executed[RECEIVE_DIAGNOSTIC] > 0
