"""Holds what a look into sysfs finds of SES devices, of their slots, and of the disks that may be in them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SesFound:
    """Describes one SES device of the machine.

    ``address`` is the kernel's H:C:T:L, which may be another one after a reboot. ``path`` is None if the device has no
    node, because the kernel's module sg is not loaded. ``folder`` is the folder in class/enclosure, or None if the
    kernel's ses driver does not know the device. ``logical_id`` is what that driver read when it found the device.
    ``wwid`` names the SES device itself, and not its enclosure.
    """

    address: str
    path: Path | None
    folder: Path | None = None
    logical_id: int | None = None
    wwid: str = ""


@dataclass(frozen=True, slots=True)
class DiskPorts:
    """Describes how one disk of the machine can be recognised in a slot. ``name`` is the kernel's, such as "sda".

    ``device`` is the folder of its SCSI device or NVMe controller. ``links`` are the slots that the kernel's ses driver
    linked it to, each as the address of the enclosure and the name of the slot's folder.
    """

    name: str
    device: Path
    sas_addresses: frozenset[int] = frozenset()
    serial: str = ""
    model: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SlotLink:
    """Describes a slot as the kernel's ses driver sees it.

    ``name`` is the name of its folder, ``number`` the slot's number on the chassis, or None. ``disks`` are the kernel's
    names of the disks in the slot.
    """

    name: str
    number: int | None = None
    disks: tuple[str, ...] = ()
