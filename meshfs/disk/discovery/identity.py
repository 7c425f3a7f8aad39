"""The identity of a disk: it distinguishes a device or image from another one at the same path.

An initiator's open files are bound to this identity. The identity must therefore stay the same over restarts of the
exporter and reboots of the machine. It must differ as soon as another device or image is at the path. It is made from:

    image            the file's handle (inode number and generation) and birth time, and the
                     identity of its file system
    block device     the names that its hardware or its maker gave it (WWID, serial, UUID); for a
                     partition also its number and its start
    loop device      the image behind it, and the offset
    any other        its place in sysfs, and diskseq, a number that the kernel increments for every new
                     device. diskseq starts from 1 at each boot, so such an identity lasts for one boot only.
                     By `Identity.place` a reader can recognise the device after a reboot

Every identity also contains the machine's id, because serial numbers of virtual disks and inode numbers of copied
file systems repeat on other machines.
"""

import fcntl
import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.disk.discovery.sysfs import device_folder, read_bytes, whole_disk
from meshfs.linux.statx import birth_time, file_handle

_LOOP_GET_STATUS64: Final = 0x4C05
# struct loop_info64 of linux/loop.h: device, inode, rdevice, offset, then fields that are not read here.
_LOOP_INFO: Final = struct.Struct("<QQQQ")
_LOOP_INFO_BYTES: Final = 232
# Attributes of a whole disk in sysfs that name the device itself, whichever slot it is plugged into.
_NAMES: Final = ("wwid", "device/wwid", "device/cid", "dm/uuid", "md/uuid", "serial", "device/serial")


@dataclass(frozen=True, slots=True)
class Identity:
    """Holds the identity of one device or image.

    instance    is equal only for the same device or image
    place       is "" if ``instance`` stays the same over reboots. Otherwise it is the place of a device that
                has no name of its own
    sequence    is the diskseq of a block device. If it differs within one boot while ``instance`` is equal,
                the device was removed and came back
    """

    instance: str
    place: str = ""
    sequence: str = ""


def identify(fd: int, sys_root: Path = Path("/sys")) -> Identity:
    """Return the identity of an open image or block device."""
    status = os.fstat(fd)
    machine = _text(Path("/etc/machine-id"))
    if not stat.S_ISBLK(status.st_mode):
        return Identity(_digest(machine, *_names_of_image(fd, status, sys_root)))
    folder = device_folder(status.st_rdev, sys_root)
    sequence = _text(whole_disk(folder) / "diskseq")
    names = _names_of_device(folder) or _names_of_loop(fd, folder, sys_root)
    if names:
        return Identity(_digest(machine, *names), sequence=sequence)
    place = _digest(machine, *_place(folder, status.st_rdev))
    boot_id = _text(Path("/proc/sys/kernel/random/boot_id"))
    return Identity(_digest(place, boot_id, sequence), place, sequence)


def _names_of_image(fd: int, status: os.stat_result, sys_root: Path) -> list[str]:
    handle = file_handle(fd) or str(status.st_ino)
    return ["image", handle, str(birth_time(fd)), *_names_of_file_system(fd, status.st_dev, sys_root)]


def _names_of_file_system(fd: int, device: int, sys_root: Path) -> list[str]:
    """Return names of the file system itself, because files of a snapshot have the same handles as the original.

    The file system's id (f_fsid) is only used for file systems without a device of their own (major number 0). For
    others, the id may be the device number, which may change at the next boot.
    """
    if os.major(device) == 0:
        return [f"file system {os.fstatvfs(fd).f_fsid:x}"]
    return _names_of_device(device_folder(device, sys_root))


def _names_of_device(folder: Path) -> list[str]:
    """Return the names of a device that stay the same over reboots, or an empty list if it has no such name."""
    disk = whole_disk(folder)
    names = [f"{name} {text}" for name in _NAMES if (text := _text(disk / name))]
    page = read_bytes(disk / "device/vpd_pg80")
    if not names and page:
        names.append(f"vpd_pg80 {page.hex()}")
    return [*names, *_part_of_disk(folder)] if names else []


def _names_of_loop(fd: int, folder: Path, sys_root: Path) -> list[str]:
    """Return names of the image behind a loop device.

    The list is empty if the device is no loop device or its image cannot be found.
    """
    backing = _text(whole_disk(folder) / "loop/backing_file")
    if not backing:
        return []
    try:
        _, inode, _, offset = _LOOP_INFO.unpack_from(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES)))
        image = os.open(backing, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        status = os.fstat(image)
        # Since the loop device was set up, another file may have replaced the image at this path.
        if status.st_ino != inode or not stat.S_ISREG(status.st_mode):
            return []
        return [*_names_of_image(image, status, sys_root), f"offset {offset}", *_part_of_disk(folder)]
    finally:
        os.close(image)


def _place(folder: Path, device: int) -> list[str]:
    """Return the place of a device without a name of its own: the sysfs path of its parent, without the kernel name.

    The kernel name (sda, sdb) is left out, because it may change at the next boot.
    """
    disk = whole_disk(folder)
    if disk.parent.name == "block" and disk.parent.parent.name != "virtual":
        return [str(disk.parent.parent), *_part_of_disk(folder)]
    return [str(disk) if disk.exists() else f"{os.major(device)}:{os.minor(device)}", *_part_of_disk(folder)]


def _part_of_disk(folder: Path) -> list[str]:
    number = _text(folder / "partition")
    return [f"partition {number} from {_text(folder / 'start')}"] if number else []


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def _text(file: Path) -> str:
    return read_bytes(file).decode(errors="surrogateescape").strip("\0 \n\t")
