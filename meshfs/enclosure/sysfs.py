"""The SES devices of this machine, and which disks the kernel sees in their slots, as sysfs has them.

    find_ses_devices     every SES device, with the node /dev/sgN to which its commands go
    read_slot_links      the disks that the kernel's ses driver linked to the slots of an enclosure
    read_disk_ports      by which addresses each disk of the machine is reached

Places (Documentation/ABI/stable/sysfs-class-enclosure, drivers/misc/enclosure.c):

    class/scsi_generic/sgN/device                   the SCSI device H:C:T:L, with "type" (13) and "wwid"
    class/enclosure/H:C:T:L                         the enclosure, if the ses driver knows it. "id" is its logical id
    class/enclosure/H:C:T:L/SLOT/{slot,device}      a slot: its number on the chassis, and a link to the SCSI device
    block/NAME/device/enclosure_device:SLOT         the link in the other direction
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshfs.disk.discovery.sysfs import raise_shortage, read_bytes, read_text, serial_of
from meshfs.enclosure.found import DiskPorts, SesFound, SlotLink
from meshfs.enclosure.vpd import port_addresses

_TYPE_ENCLOSURE: Final = "13"
_ADDRESS: Final = re.compile(r"[0-9]+:[0-9]+:[0-9]+:[0-9]+")
_NUMBER_64: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")
_LINK_PREFIX: Final = "enclosure_device:"


def find_ses_devices(sys_root: Path = Path("/sys"), dev_root: Path = Path("/dev")) -> list[SesFound]:
    """Return all SES devices, in the order of their addresses. Raises OSError if descriptors or memory are short.

    A disk may also say that it has enclosure services (EncServ). Many such disks refuse all pages, so a disk only
    counts if the kernel's ses driver could read its pages.
    """
    folders = {(folder / "device").resolve(): folder for folder in _entries(sys_root / "class/enclosure")}
    nodes = {(node / "device").resolve(): dev_root / node.name for node in _entries(sys_root / "class/scsi_generic")}
    devices = {device for device in folders.keys() | nodes.keys() if _ADDRESS.fullmatch(device.name)}
    found = [
        _found(device, nodes.get(device), folders.get(device))
        for device in devices
        if device in folders or read_text(device, "type") == _TYPE_ENCLOSURE
    ]
    return sorted(found, key=lambda each: [int(part) for part in each.address.split(":")])


def _found(device: Path, path: Path | None, folder: Path | None) -> SesFound:
    logical_id = "" if folder is None else read_text(folder, "id")
    return SesFound(
        address=device.name,
        path=path,
        folder=folder,
        logical_id=int(logical_id, 16) if _NUMBER_64.fullmatch(logical_id) else None,
        wwid=read_text(device, "wwid"),
    )


def read_disk_ports(sys_root: Path = Path("/sys")) -> list[DiskPorts]:
    """Return how each disk of the machine can be recognised, sorted by name. Virtual disks are left out."""
    return [_disk_ports(block) for block in _entries(sys_root / "block") if (block / "device").exists()]


def _disk_ports(block: Path) -> DiskPorts:
    device = (block / "device").resolve()
    addresses = set(port_addresses(read_bytes(device / "vpd_pg83")))
    ends = [folder / "sas_device" / folder.name for folder in device.parents if folder.name.startswith("end_device-")]
    for folder in (device, *ends):
        text = read_text(folder, "sas_address")
        if _NUMBER_64.fullmatch(text):
            addresses.add(int(text, 16))
    slots = [link.resolve() for link in _entries(device) if link.name.startswith(_LINK_PREFIX)]
    return DiskPorts(
        name=block.name,
        device=device,
        sas_addresses=frozenset(addresses - {0}),
        serial=serial_of(block),
        model=read_text(device, "model"),
        links=tuple((slot.parent.name, slot.name) for slot in slots),
    )


def read_slot_links(found: SesFound, disks: Sequence[DiskPorts]) -> list[SlotLink]:
    """Return the slots that the kernel's ses driver knows of an enclosure, each with those of ``disks`` in it."""
    if found.folder is None:
        return []
    slots = [
        slot for slot in _entries(found.folder) if slot.name != "power" and slot.is_dir() and not slot.is_symlink()
    ]
    return [_slot_link(found, slot, disks) for slot in slots]


def _slot_link(found: SesFound, slot: Path, disks: Sequence[DiskPorts]) -> SlotLink:
    device = (slot / "device").resolve()
    there = [disk.name for disk in disks if disk.device == device or (found.address, slot.name) in disk.links]
    number = read_text(slot, "slot")
    return SlotLink(slot.name, int(number) if re.fullmatch("[0-9]{1,9}", number) else None, tuple(there))


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder of sysfs, sorted. A folder that is missing or cannot be read has none."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise_shortage(error)
        return []
