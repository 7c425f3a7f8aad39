"""SES devices, their slots and the addresses of disks are found in a made-up sysfs."""

import os
from pathlib import Path

import pytest

from meshfs.enclosure.found import DiskPorts, SesFound, SlotLink
from meshfs.enclosure.sysfs import read_slot_links
from meshfs.enclosure.vpd import port_addresses
from support.fake_scsi_sysfs import ScsiSysfs, page_83

LOGICAL_ID = 0x500E_004A_AAAA_AA1E


@pytest.fixture
def sysfs(tmp_path: Path) -> ScsiSysfs:
    return ScsiSysfs(tmp_path)


def test_an_enclosure_of_the_ses_driver_is_found_with_its_node(sysfs: ScsiSysfs) -> None:
    device = sysfs.device("6:0:24:0", type="13", wwid="naa.500e004aaaaaaa3d")
    sysfs.node("sg7", device)
    sysfs.enclosure(device)
    assert sysfs.find() == [
        SesFound(
            "6:0:24:0",
            sysfs.dev / "sg7",
            sysfs.sys / "class/enclosure/6:0:24:0",
            LOGICAL_ID,
            "naa.500e004aaaaaaa3d",
        )
    ]


def test_a_device_that_the_ses_driver_does_not_know_is_found_by_its_type(sysfs: ScsiSysfs) -> None:
    sysfs.node("sg1", sysfs.device("6:0:1:0", type="13"))
    sysfs.node("sg2", sysfs.device("6:0:2:0", type="0"))
    assert sysfs.find() == [SesFound("6:0:1:0", sysfs.dev / "sg1")]


def test_a_disk_with_enclosure_services_counts_if_the_ses_driver_could_read_them(sysfs: ScsiSysfs) -> None:
    inquiry = bytes((0, 0, 6, 2, 31, 0, 0x40)) + bytes(29)
    devices = [sysfs.device(f"6:0:{number}:0", type="0", inquiry=inquiry) for number in range(2)]
    for number, device in enumerate(devices):
        sysfs.node(f"sg{number}", device)
    sysfs.enclosure(devices[1])
    assert [each.path for each in sysfs.find()] == [sysfs.dev / "sg1"]


def test_an_enclosure_without_a_node_is_found_too(sysfs: ScsiSysfs) -> None:
    sysfs.enclosure(sysfs.device("6:0:1:0", type="13"), logical_id="")
    (found,) = sysfs.find()
    assert (found.path, found.logical_id) == (None, None)


def test_enclosures_are_sorted_by_their_addresses_as_numbers(sysfs: ScsiSysfs) -> None:
    for address in ("10:0:0:0", "6:0:24:0", "6:0:3:0"):
        sysfs.node(f"sg{address.replace(':', '')}", sysfs.device(address, type="13"))
    assert [each.address for each in sysfs.find()] == ["6:0:3:0", "6:0:24:0", "10:0:0:0"]


def test_a_machine_without_scsi_has_none(tmp_path: Path) -> None:
    sysfs = ScsiSysfs(tmp_path)
    assert (sysfs.find(), sysfs.disks()) == ([], [])
    for folder in ("class/enclosure", "class/scsi_generic", "block"):
        (sysfs.sys / folder).rmdir()
    assert (sysfs.find(), sysfs.disks()) == ([], [])


def test_an_entry_that_leads_nowhere_is_skipped(sysfs: ScsiSysfs) -> None:
    (sysfs.sys / "class/enclosure/6:0:0:0").symlink_to(sysfs.sys / "gone")
    (sysfs.sys / "class/scsi_generic/sg0").symlink_to(sysfs.sys / "gone")
    (sysfs.sys / "block/sda").symlink_to(sysfs.sys / "gone")
    assert (sysfs.find(), sysfs.disks()) == ([], [])


@pytest.mark.parametrize("text", ["", "0x", "no", "0x123456789abcdef01", "0x5g", "-1"])
def test_a_logical_id_that_is_none_is_unknown(sysfs: ScsiSysfs, text: str) -> None:
    sysfs.enclosure(sysfs.device("6:0:1:0", type="13"), logical_id=text)
    assert sysfs.find()[0].logical_id is None


# --- slots and disks -------------------------------------------------------------------------


def test_the_disks_that_the_ses_driver_linked_to_slots_are_read(sysfs: ScsiSysfs) -> None:
    enclosure = sysfs.enclosure(sysfs.device("6:0:24:0", type="13"))
    first = sysfs.device("6:0:0:0", type="0")
    sysfs.disk("sda", first)
    sysfs.slot(enclosure, "Slot 01", 1, first)
    sysfs.slot(enclosure, "Slot 02", 2)
    sysfs.slot(enclosure, "Slot 03")
    (found,) = sysfs.find()
    assert read_slot_links(found, sysfs.disks()) == [
        SlotLink("Slot 01", 1, ("sda",)),
        SlotLink("Slot 02", 2, ()),
        SlotLink("Slot 03", None, ()),
    ]


def test_a_link_in_one_direction_is_enough(sysfs: ScsiSysfs) -> None:
    enclosure = sysfs.enclosure(sysfs.device("6:0:24:0", type="13"))
    devices = [sysfs.device(f"6:0:{number}:0", type="0") for number in range(2)]
    for name, device in zip(("sda", "sdb"), devices, strict=True):
        sysfs.disk(name, device)
    sysfs.slot(enclosure, "a", 1, devices[0])
    sysfs.slot(enclosure, "b", 2, devices[1])
    (devices[0] / "enclosure_device:a").unlink()
    (enclosure / "b/device").unlink()
    assert [link.disks for link in read_slot_links(sysfs.find()[0], sysfs.disks())] == [("sda",), ("sdb",)]


def test_slots_may_have_any_names(sysfs: ScsiSysfs) -> None:
    enclosure = sysfs.enclosure(sysfs.device("6:0:24:0", type="13"))
    strange = [b" ", b"a\nb", b"\xff\xfe", b"x" * 255, b"-1", "Fach Süd".encode(), b"a!b", b"\x1b[2J"]
    for number, name in enumerate(strange):
        device = sysfs.device(f"6:0:{number}:0", type="0")
        sysfs.disk(f"sd{number}", device)
        folder = enclosure / os.fsdecode(name)
        folder.mkdir()
        (folder / "slot").write_text(f"{number}\n")
        (folder / "device").symlink_to(device)
    links = read_slot_links(sysfs.find()[0], sysfs.disks())
    assert sorted((link.number, os.fsencode(link.name), link.disks) for link in links) == [
        (number, name, (f"sd{number}",)) for number, name in enumerate(strange)
    ]


def test_an_enclosure_without_the_ses_driver_has_no_links(sysfs: ScsiSysfs) -> None:
    sysfs.node("sg1", sysfs.device("6:0:1:0", type="13"))
    assert read_slot_links(sysfs.find()[0], []) == []


def test_the_addresses_of_a_disk_are_read_from_wherever_they_are(sysfs: ScsiSysfs) -> None:
    by_page = sysfs.device("6:0:0:0", vpd_pg83=page_83(0x5000_C500_AAAA_0001, 0x5000_C500_AAAA_0002))
    by_attribute = sysfs.device("6:0:1:0", sas_address="0x500304801234567d")
    above = "end_device-6:0:2"
    by_transport = sysfs.device("6:0:2:0", above)
    sas_device = sysfs.host / above / "sas_device" / above
    sas_device.mkdir(parents=True)
    (sas_device / "sas_address").write_text("0x5000c500bbbb0001\n")
    without = sysfs.device("6:0:3:0", sas_address="0x0", vpd_pg83=b"\0\x83")
    for name, device in zip("abcd", (by_page, by_attribute, by_transport, without), strict=True):
        sysfs.disk(f"sd{name}", device)
    assert [disk.sas_addresses for disk in sysfs.disks()] == [
        frozenset((0x5000_C500_AAAA_0001, 0x5000_C500_AAAA_0002)),
        frozenset((0x5003_0480_1234_567D,)),
        frozenset((0x5000_C500_BBBB_0001,)),
        frozenset(),
    ]


def test_a_disk_has_its_serial_number_and_model(sysfs: ScsiSysfs) -> None:
    device = sysfs.device("6:0:0:0", serial="S123  ", model="Model X ")
    sysfs.disk("nvme0n1", device)
    assert sysfs.disks() == [DiskPorts("nvme0n1", device, serial="S123", model="Model X")]


def test_a_virtual_disk_is_in_no_slot(sysfs: ScsiSysfs) -> None:
    (sysfs.sys / "block/loop0").mkdir()
    assert sysfs.disks() == []


# --- VPD page 83 -----------------------------------------------------------------------------


def test_only_sas_addresses_of_target_ports_are_taken() -> None:
    address = bytes.fromhex("5000c500aaaa0001")
    designators = [
        b"\x61\x93\0\x08" + address,  # a target port of SAS
        b"\x01\x13\0\x08" + bytes.fromhex("5000c500aaaa0002"),  # a target port without a protocol
        b"\x61\x83\0\x08" + address[::-1],  # the logical unit
        b"\x61\xa3\0\x08" + address[::-1],  # the target device
        b"\x01\x93\0\x08" + address[::-1],  # a port of Fibre Channel
        b"\x61\x94\0\x08" + address[::-1],  # a number of a port
        b"\x62\x93\0\x08" + address[::-1],  # a text
        b"\x61\x93\0\x10" + address * 2,  # an address of another length
    ]
    content = b"".join(designators)
    page = b"\0\x83" + len(content).to_bytes(2, "big") + content
    assert port_addresses(page) == (0x5000_C500_AAAA_0001, 0x5000_C500_AAAA_0002)


def test_a_page_83_cut_at_any_byte_has_the_addresses_before_the_cut() -> None:
    whole = page_83(1 << 60, 2 << 60)
    for end in range(len(whole) + 1):
        expected = ((1 << 60,) if end >= 28 else ()) + ((2 << 60,) if end >= 40 else ())
        assert port_addresses(whole[:end]) == expected
    assert port_addresses(whole + b"\x61\x93\0\x08" + bytes(8)) == (1 << 60, 2 << 60)
