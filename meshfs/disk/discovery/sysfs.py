"""Block devices in sysfs (Documentation/ABI/stable/sysfs-block): where they are, and small files there."""

import os
from pathlib import Path


def device_folder(device: int, sys_root: Path = Path("/sys")) -> Path:
    """The folder of the block device with that number, which may not exist."""
    folder = sys_root / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
    return folder.resolve() if folder.exists() else folder


def whole_disk(device: Path) -> Path:
    """The sysfs folder of the disk a partition is on; itself for a whole disk."""
    if not device.exists():
        return device
    device = device.resolve()
    return device.parent if (device / "partition").exists() else device


def read_bytes(file: Path) -> bytes:
    """An attribute of sysfs; b"" where the device does not have it (or cannot tell now)."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
