"""Whole disks are found in a made-up sysfs, and each has the id that /dev/disk/by-id would have for it."""

import errno
from pathlib import Path

import pytest

from meshfs.disk.discovery.block_device import BlockDevice, bus_of, link_name, read_block_devices, stable_id
from meshfs.disk.discovery.udev_database import UdevRecord, parse_record

PCI = "devices/pci0000:00/0000:00:17.0"


class Sysfs:
    """A tree of sysfs and a database of udev in a folder of the test."""

    def __init__(self, root: Path) -> None:
        self.sys, self.run, self.dev = root / "sys", root / "run", root / "dev"
        (self.sys / "block").mkdir(parents=True)
        (self.run / "udev/data").mkdir(parents=True)
        self.dev.mkdir()

    def add(
        self, name: str, number: str, place: str, *, size: int = 1 << 21, udev: str = "", **attributes: str
    ) -> Path:
        """Add a disk; the keys of ``attributes`` are paths below its folder, with "__" for "/"."""
        folder = self.sys / place / "block" / name
        folder.mkdir(parents=True)
        (self.sys / "block" / name).symlink_to(folder)
        for key, value in {"dev": number, "size": str(size), **attributes}.items():
            file = folder / key.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value.encode("latin-1") + b"\n")
        if udev:
            (self.run / f"udev/data/b{number}").write_text(udev)
        return folder

    def read(self) -> list[BlockDevice]:
        return read_block_devices(self.sys, self.run, self.dev)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def only(sysfs: Sysfs) -> BlockDevice:
    (device,) = sysfs.read()
    return device


def test_all_facts_of_a_disk_are_read(sysfs: Sysfs) -> None:
    place = f"{PCI}/ata3/host2/target2:0:0/2:0:0:0"
    folder = sysfs.add(
        "sda", "8:0", place, size=7814037168, device__model="ST4000NM0085  ", device__vpd_pg80="\0\x80\0\x08ZC1ABCDE",
        device__wwid="naa.5000C500A1B2C3D4", queue__rotational="1", removable="0", ro="0",
    )  # fmt: skip
    assert only(sysfs) == BlockDevice(
        name="sda",
        path=sysfs.dev / "sda",
        number="8:0",
        size_bytes=7814037168 * 512,
        bus="ata",
        model="ST4000NM0085",
        serial="ZC1ABCDE",
        id="wwn-0x5000c500a1b2c3d4",
        rotational=True,
        removable=False,
        read_only=False,
        place=folder,
    )


@pytest.mark.parametrize("name", ["ram0", "zram0", "sr0", "fd0"])
def test_what_is_never_a_disk_is_left_out(sysfs: Sysfs, name: str) -> None:
    sysfs.add(name, "1:0", "devices/virtual")
    assert sysfs.read() == []


def test_a_hidden_path_of_a_multipath_device_is_left_out(sysfs: Sysfs) -> None:
    sysfs.add("nvme0c0n1", "259:1", f"{PCI}/nvme/nvme0", hidden="1", wwid="eui.01")
    assert sysfs.read() == []


@pytest.mark.parametrize("missing", ["dev", "size"])
def test_a_device_that_disappears_while_it_is_read_is_left_out(sysfs: Sysfs, missing: str) -> None:
    folder = sysfs.add("sda", "8:0", PCI)
    (folder / missing).unlink()
    assert sysfs.read() == []


def test_without_sysfs_there_are_no_disks(tmp_path: Path) -> None:
    assert read_block_devices(tmp_path / "none", tmp_path, tmp_path) == []


def test_a_shortage_of_descriptors_is_no_machine_without_disks(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs.add("sda", "8:0", PCI)

    def fail(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Too many open files"):
        sysfs.read()


def test_a_device_is_pending_until_udev_has_a_record_of_it_but_not_without_udev(sysfs: Sysfs) -> None:
    sysfs.add("sda", "8:0", PCI)
    sysfs.add("sdb", "8:16", f"{PCI}/b", udev="I:12\n")
    assert [device.is_pending for device in sysfs.read()] == [False, False]
    (sysfs.run / "udev/control").touch()
    assert [device.is_pending for device in sysfs.read()] == [True, False]


def test_a_virtual_device_is_only_opened_if_its_id_is_of_interest(sysfs: Sysfs) -> None:
    sysfs.add("loop0", "7:0", "devices/virtual")
    (sysfs.dev / "loop0").symlink_to("/proc/self/does-not-exist")
    asked: list[str] = []

    def may_open(device: BlockDevice) -> bool:
        asked.append(device.name)
        return False

    (device,) = read_block_devices(sysfs.sys, sysfs.run, sysfs.dev, may_open)
    assert (device.id, asked) == ("", ["loop0"])


def test_a_large_minor_number_finds_its_record(sysfs: Sysfs) -> None:
    sysfs.add("sdzz", "65:1048575", PCI, udev="S:disk/by-id/wwn-0x5000c50000000001\n")
    assert only(sysfs).id == "wwn-0x5000c50000000001"


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("sda", {"device__wwid": "naa.5000c500a1b2c3d4"}, "wwn-0x5000c500a1b2c3d4"),
        ("sda", {"device__wwid": "t10.ATA     QEMU HARDDISK      QM00001 "}, "ata-QEMU_HARDDISK_QM00001"),
        ("sda", {"device__model": "Disk", "device__vpd_pg80": "\0\x80\0\x04S 77"}, "scsi-Disk_S_77"),
        ("sda", {"device__wwid": "naa.not hex"}, ""),
        ("nvme0n1", {"wwid": "eui.0025385b71b00f24"}, "nvme-eui.0025385b71b00f24"),
        ("nvme0n1", {"wwid": "uuid.b2f5cf2e-1c3a"}, "nvme-uuid.b2f5cf2e-1c3a"),
        (
            "nvme0n1",
            {"wwid": "nvme.1b36-6d", "device__model": "QEMU NVMe Ctrl", "device__serial": "m1"},
            "nvme-QEMU_NVMe_Ctrl_m1",
        ),
        ("vda", {"serial": "disk one"}, "virtio-disk_one"),
        ("mmcblk0", {"device__name": "SD16G", "device__serial": "0x1f"}, "mmc-SD16G_0x1f"),
        ("sda", {}, ""),
    ],
)
def test_without_udev_the_id_is_made_from_attributes(
    sysfs: Sysfs, name: str, attributes: dict[str, str], expected: str
) -> None:
    sysfs.add(name, "8:0", PCI, **attributes)
    assert only(sysfs).id == expected


def test_links_of_udev_come_before_names_that_are_made(sysfs: Sysfs) -> None:
    udev = "S:disk/by-id/ata-ST4000_ZC1\nS:disk/by-path/pci-0\nE:ID_SERIAL_SHORT=ZC1\n"
    sysfs.add("sda", "8:0", PCI, udev=udev, device__wwid="naa.5000c500a1b2c3d4")
    device = only(sysfs)
    assert (device.id, device.serial) == ("ata-ST4000_ZC1", "ZC1")


@pytest.mark.parametrize(
    ("links", "best"),
    [
        (["ata-M_S", "wwn-0x5000"], "wwn-0x5000"),
        (["nvme-M_S", "nvme-eui.01", "nvme-M_S_1"], "nvme-eui.01"),
        (["scsi-3600", "scsi-0QEMU"], "scsi-0QEMU"),
        (["dm-name-x", "lvm-pv-uuid-y", "wwn-0x"], ""),
        (["nvme-KINGSTON/X_1", "usb-A_B-0:0"], "usb-A_B-0:0"),
        ([r"ata-A\x20B_1", "ata-A~B", "ata-\N{LATIN SMALL LETTER E WITH ACUTE}", "scsi-" + "a" * 255], ""),
        ([], ""),
    ],
)
def test_the_best_link_is_the_one_that_is_unique_in_the_world(links: list[str], best: str) -> None:
    assert stable_id(links, []) == best


@pytest.mark.parametrize(
    ("name", "place", "bus"),
    [
        ("sda", "/sys/devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda", "ata"),
        ("sdb", "/sys/devices/pci0/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0/block/sdb", "sas"),
        ("sdc", "/sys/devices/pci0/usb2/2-1/2-1:1.0/host3/target3:0:0/3:0:0:0/block/sdc", "usb"),
        ("sdd", "/sys/devices/pseudo_0/adapter0/host4/target4:0:0/4:0:0:0/block/sdd", "scsi_debug"),
        ("sde", "/sys/devices/pci0/virtio2/host5/target5:0:0/5:0:0:0/block/sde", "scsi"),
        ("nvme0n1", "/sys/devices/pci0/nvme/nvme0/nvme0n1", "nvme"),
        ("vda", "/sys/devices/pci0/virtio1/block/vda", "virtio"),
        ("loop3", "/sys/devices/virtual/block/loop3", "loop"),
        ("dm-0", "/sys/devices/virtual/block/dm-0", "dm"),
        ("md127", "/sys/devices/virtual/block/md127", "md"),
        ("nullb0", "/sys/devices/virtual/block/nullb0", "null"),
    ],
)
def test_the_bus_of_a_disk(name: str, place: str, bus: str) -> None:
    assert bus_of(name, place, UdevRecord()) == bus


def test_a_link_name_has_only_characters_that_udev_allows() -> None:
    assert link_name("  WDC  WD40/EFRX\t68\x7f ") == "WDC_WD40_EFRX_68_"


def test_a_record_of_udev_is_read_line_by_line() -> None:
    record = parse_record(b"S:disk/by-id/a\nnothing\nE:KEY=a=b\nE:BAD\nI:12\nS:disk/by-path/p\nE:U=\xff\n")
    assert record.names_in("disk/by-id") == ["a"]
    assert record.properties == {"KEY": "a=b", "U": "\ufffd"}
