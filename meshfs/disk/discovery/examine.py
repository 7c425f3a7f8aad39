"""Find out whether this machine uses a disk that might be offered. Every step may block, so a thread does it.

tables       mounts, swap space, holders, backing files of loop devices, also of the disk's partitions (inuse.py)
signatures   of the disk and of each partition (signature.py)
O_EXCL       the kernel, and programs that claim a device, open it exclusively (open(2))
"""

import errno
import os
from pathlib import Path

from meshfs.disk.discovery import inuse
from meshfs.disk.discovery.block_device import BlockDevice
from meshfs.disk.discovery.selection import Examined
from meshfs.disk.discovery.signature import member_of, read_signature
from meshfs.errors import DiskUnavailable


def examine(device: BlockDevice, dev_root: Path = Path("/dev")) -> Examined:
    """Return what is known of the use of a disk. Never raises for a fault of the disk: then the use is unknown."""
    try:
        status = device.path.stat()
        used = inuse.used_by(inuse.family_of(status), inuse.gather(device.path))
        if used is None and _is_opened_exclusively(device.path):
            used = "a program or the kernel has opened it exclusively"
        if used is not None:
            return Examined(used_by=used)
        return Examined(member_of=_member(device, dev_root))
    except OSError as error:
        return Examined(unknown=error.strerror or str(error))
    except DiskUnavailable as error:
        return Examined(unknown=str(error))


def _is_opened_exclusively(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    os.close(fd)
    return False


def _member(device: BlockDevice, dev_root: Path) -> str | None:
    """Return what the disk or one of its partitions belongs to."""
    member = member_of(read_signature(device.path))
    if member is not None:
        return member
    for partition in partitions(device.place):
        member = member_of(read_signature(dev_root / partition.replace("!", "/")))
        if member is not None:
            return f"{member}, by its partition {partition}"
    return None


def partitions(place: Path) -> list[str]:
    """Return the kernel names of the partitions of the disk with this folder in sysfs."""
    return sorted(entry.parent.name for entry in place.glob("*/partition"))
