"""A tree of sysfs with SCSI devices, enclosures and disks, in a folder of a test."""

import os
from pathlib import Path

from meshfs.enclosure.found import DiskPorts, SesFound
from meshfs.enclosure.sysfs import find_ses_devices, read_disk_ports


def page_83(*addresses: int) -> bytes:
    """Return a VPD page 83 of a SAS disk: a name of the logical unit, and a target port for each address."""
    designators = [b"\x01\x03\0\x08" + (0x5000_C500_0000_0000).to_bytes(8, "big")]
    designators += [b"\x61\x93\0\x08" + address.to_bytes(8, "big") for address in addresses]
    designators.append(b"\x61\x94\0\x04\0\0\0\x01")
    content = b"".join(designators)
    return b"\0\x83" + len(content).to_bytes(2, "big") + content


class ScsiSysfs:
    """Holds the tree. Attributes that a test passes are files in the folder of the device, "__" stands for "/"."""

    def __init__(self, root: Path) -> None:
        self.sys, self.dev = root / "sys", root / "dev"
        self.host = self.sys / "devices/pci0000:00/host6"
        for name in ("class/enclosure", "class/scsi_generic", "block"):
            (self.sys / name).mkdir(parents=True)

    def find(self) -> list[SesFound]:
        return find_ses_devices(self.sys, self.dev)

    def disks(self) -> list[DiskPorts]:
        return read_disk_ports(self.sys)

    def device(self, address: str, above: str = "", **attributes: str | bytes) -> Path:
        """Add a SCSI device. ``above`` is a folder between the host and the target, such as "end_device-6:0:1"."""
        folder = self.host / above / f"target{address.rpartition(':')[0]}" / address
        folder.mkdir(parents=True)
        for name, value in attributes.items():
            file = folder / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value if isinstance(value, bytes) else value.encode() + b"\n")
        return folder

    def node(self, name: str, device: Path) -> None:
        """Add the generic node of a device."""
        folder = device / "scsi_generic" / name
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(device)
        (self.sys / "class/scsi_generic" / name).symlink_to(folder)

    def enclosure(self, device: Path, logical_id: str = "0x500e004aaaaaaa1e") -> Path:
        """Add what the kernel's ses driver makes for an enclosure."""
        folder = device / "enclosure" / device.name
        (folder / "power").mkdir(parents=True)
        (folder / "components").write_text("4\n")
        if logical_id:
            (folder / "id").write_text(f"{logical_id}\n")
        (folder / "device").symlink_to(device)
        (self.sys / "class/enclosure" / device.name).symlink_to(folder)
        return folder

    def slot(self, enclosure: Path, name: str | bytes, number: int | None = None, device: Path | None = None) -> None:
        """Add a slot of an enclosure, with the device in it."""
        folder = enclosure / os.fsdecode(name)
        folder.mkdir()
        if number is not None:
            (folder / "slot").write_text(f"{number}\n")
        if device is not None:
            (folder / "device").symlink_to(device)
            (device / f"enclosure_device:{os.fsdecode(name)}").symlink_to(folder)

    def disk(self, name: str, device: Path) -> None:
        """Add the block device of a disk."""
        folder = device / "block" / name
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(device)
        (self.sys / "block" / name).symlink_to(folder)
