"""Find the folders of block devices in sysfs, and read their attributes (Documentation/ABI/stable/sysfs-block)."""

import os
from pathlib import Path


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
    """Return an attribute of sysfs, or b"" if the device does not have it or cannot be read now."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
