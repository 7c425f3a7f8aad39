"""Check an open disk: its presence, its size now, and its lasting fault.

`look` asks the kernel, and may block if an image's file system is stuck. `judge` draws the conclusion and is pure.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.disk.discovery.scan import DiskFacts, device_size
from meshfs.disk.discovery.sysfs import device_folder

_GONE_ERRNOS: Final = (errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)


@dataclass(frozen=True, slots=True)
class Sight:
    """Holds the kernel's facts of an open disk.

    ``size_bytes``   the size, for a device in whole logical blocks; None if the kernel did not report the size
    ``registered``   True if the device has an entry in sysfs, and for an image
    ``links``        the number of names (hard links) of the image, or 1 for a device
    ``error``        the errno of the look itself, or 0 if the look succeeded
    """

    size_bytes: int | None
    registered: bool = True
    links: int = 1
    error: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Holds the conclusion from a look at a disk.

    ``vanished``     the reason why the disk counts as gone, or "" if it is there
    ``fault``        the fault of the disk that lasts until someone mends it, or "" if there is none
    ``size_bytes``   the size now, or the size at the look before if the kernel did not report it
    """

    size_bytes: int
    vanished: str = ""
    fault: str = ""


def look(fd: int, facts: DiskFacts) -> Sight:
    """Ask the kernel for the facts of the disk behind the descriptor ``fd``."""
    try:
        status = os.fstat(fd)
    except OSError as error:
        return Sight(None, error=error.errno or errno.EIO)
    if not facts.is_block_device:
        return Sight(status.st_size, links=status.st_nlink)
    size_bytes = device_size(fd)
    if size_bytes is not None:
        size_bytes -= size_bytes % facts.logical_block_size_bytes
    return Sight(size_bytes, registered=is_registered(status.st_rdev))


def is_registered(device: int, sys_root: Path = Path("/sys")) -> bool:
    """Return whether the block device has an entry in sysfs. Return True if sysfs itself is missing."""
    return device_folder(device, sys_root).exists() or not (sys_root / "dev/block").is_dir()


def judge(facts: DiskFacts, sight: Sight, served_bytes: int, end_bytes: int) -> Judgement:
    """Return the conclusion for a disk served with ``served_bytes``, which had ``end_bytes`` at the look before."""
    if sight.error in _GONE_ERRNOS:
        return Judgement(end_bytes, vanished=f"its image went away: {os.strerror(sight.error)}")
    if sight.error:
        return Judgement(end_bytes, fault=f"it cannot be looked at: {os.strerror(sight.error)}")
    if not sight.registered:
        return Judgement(end_bytes, vanished="the device was removed")
    size_bytes = end_bytes if sight.size_bytes is None else sight.size_bytes
    if facts.is_block_device and not size_bytes:
        return Judgement(end_bytes, vanished="the device was removed (its size is 0)")
    if size_bytes < served_bytes:
        lost = "what lies behind its new end can be neither read nor written until it has its size again"
        return Judgement(size_bytes, fault=f"it shrank from {served_bytes} to {size_bytes} bytes: {lost}")
    if not sight.links:
        kept = "what it holds is lost when the exporter stops, unless it is copied before"
        return Judgement(size_bytes, fault=f"its image file was deleted: {kept}")
    return Judgement(size_bytes)
