"""Find the folders of block devices in sysfs, and read their attributes (Documentation/ABI/stable/sysfs-block)."""

import errno
import os
from pathlib import Path
from typing import Final

#: The errors that say nothing about a file: this process or the machine lacks descriptors or memory.
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def device_folder(device: int, sys_root: Path = Path("/sys")) -> Path:
    """Return the folder of the block device with the number ``device``. The folder may not exist."""
    folder = sys_root / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
    return folder.resolve() if folder.exists() else folder


def whole_disk(device: Path) -> Path:
    """Return the folder of the disk that contains the partition ``device``. For a whole disk, return its own folder."""
    if not device.exists():
        return device
    device = device.resolve()
    return device.parent if (device / "partition").exists() else device


def read_bytes(file: Path) -> bytes:
    """Return an attribute of sysfs, or b"" if the device does not have it or cannot be read now.

    Raises OSError if descriptors or memory are short. Otherwise a disk would seem to have lost its name or its size.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise_shortage(error)
        return b""


def serial_of(folder: Path) -> str:
    """Return the serial number of a whole disk, or "" if it has none.

    NVMe, SCSI and MMC disks have the number in the folder "device", and virtio disks in the disk's own folder. SCSI
    disks have it in VPD page 0x80, too.
    """
    found = read_text(folder, "device/serial") or read_text(folder, "serial")
    if found:
        return found
    page = read_bytes(folder / "device/vpd_pg80")
    # Page header: peripheral, page code, length (2 bytes, big-endian), then the serial (SPC-4 7.8.15).
    return _printable(page[4 : 4 + int.from_bytes(page[2:4], "big")]) if len(page) >= 4 else ""


def read_text(folder: Path, name: str) -> str:
    """Return an attribute of sysfs as text, or "" if the device does not have it."""
    return _printable(read_bytes(folder / name))


def _printable(data: bytes) -> str:
    """Return the printable characters of an ASCII text, without the blanks, zeros and line ends around it."""
    decoded = data.decode("ascii", errors="replace").strip("\0 \n\t")
    return "".join(character for character in decoded if character.isprintable())


def raise_shortage(error: OSError) -> None:
    """Raise ``error`` if it only says that descriptors or memory are short."""
    if error.errno in _SHORTAGES:
        raise error
