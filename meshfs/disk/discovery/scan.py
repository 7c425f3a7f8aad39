"""Read the facts of a disk: its kind, size, block sizes, model and identity.

Sources: stat(2), ioctl(2) BLK* (linux/fs.h), sysfs (Documentation/ABI/stable/sysfs-block).
"""

import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.disk.discovery import inuse
from meshfs.disk.discovery.identity import Identity, identify
from meshfs.disk.discovery.sysfs import device_folder, read_text, serial_of, whole_disk
from meshfs.errors import ConfigError, DiskUnavailable
from meshfs.granules import NO_GRANULES, Granules

_BLKROGET: Final = 0x125E
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B
_BLKGETSIZE64: Final = 0x80081272

# An image file has no sectors. Every partitioning tool accepts 512 bytes.
IMAGE_LOGICAL_BLOCK_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Holds the facts of one disk.

    ``identity`` names the device or file until the machine reboots. ``device`` distinguishes this disk from another
    device or image that takes its place (`meshfs.disk.discovery.identity`). ``kernel_name`` is the kernel's name of the
    device, such as "sda", or of the disk that a partition belongs to. It is "" for an image.
    """

    path: Path
    is_block_device: bool
    size_bytes: int
    logical_block_size_bytes: int
    physical_block_size_bytes: int
    rotational: bool
    read_only: bool
    model: str
    serial: str
    identity: str
    device: Identity
    #: The units in which the disk can discard. Whether an image can, is tried when it is claimed.
    granules: Granules = NO_GRANULES
    kernel_name: str = ""

    @property
    def instance(self) -> str:
        """Return the identity, which is equal only for the same device or image, even under another kernel name."""
        return self.device.instance


def scan_disk(path: Path) -> DiskFacts:
    """Return the facts of the disk at ``path``. Blocks as long as its file system or device blocks.

    Raises ConfigError if the path can never be a disk (a directory, a FIFO, ...). Raises DiskUnavailable if it may
    become one: it does not exist, cannot be read, is empty, or something on this machine uses it. The error text
    names the path and the reason.
    """
    try:
        fd = _open(path)
        try:
            status = os.fstat(fd)
            facts = _block_facts(path, fd, status) if stat.S_ISBLK(status.st_mode) else _image_facts(path, fd, status)
        finally:
            os.close(fd)
    except OSError as error:
        raise DiskUnavailable(f"disk {path}: {error.strerror}") from error
    if not facts.size_bytes:
        raise DiskUnavailable(f"disk {path} is empty")
    user = inuse.used_by(inuse.family_of(status), inuse.gather(path))
    if user is not None:
        raise DiskUnavailable(f"disk {path} is used on this machine: {user}")
    return facts


def identity_of(status: os.stat_result) -> str:
    """Return a name of the file or device that is valid until the machine reboots."""
    return " ".join(str(part) for part in inuse.identity_of(status))


def identity_of_file(device: int, inode: int) -> str:
    """Return what `identity_of` returns for the image with that inode on the file system ``device``."""
    return f"file {device} {inode}"


def _open(path: Path) -> int:
    """Open the path for reading, after a check of its type: opening a FIFO would wait, and a tape would be rewound."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ConfigError(f"disk {path} is a directory, expected an image file or a block device")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ConfigError(f"disk {path} is neither an image file nor a block device")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _image_facts(path: Path, fd: int, status: os.stat_result) -> DiskFacts:
    return DiskFacts(
        path=path,
        is_block_device=False,
        size_bytes=status.st_size,
        logical_block_size_bytes=IMAGE_LOGICAL_BLOCK_BYTES,
        physical_block_size_bytes=4096,
        rotational=read_text(whole_disk(device_folder(status.st_dev)), "queue/rotational") == "1",
        read_only=False,
        model="",
        serial="",
        identity=identity_of(status),
        device=identify(fd),
        granules=Granules(mmap.PAGESIZE),
    )


def _block_facts(path: Path, fd: int, status: os.stat_result) -> DiskFacts:
    disk = whole_disk(device_folder(status.st_rdev))
    logical_bytes = _ioctl_int(fd, _BLKSSZGET)
    # If the size is no multiple of the block, the bytes of the last, incomplete block cannot be addressed.
    size_bytes = _ioctl_u64(fd, _BLKGETSIZE64) // logical_bytes * logical_bytes
    return DiskFacts(
        path=path,
        is_block_device=True,
        size_bytes=size_bytes,
        logical_block_size_bytes=logical_bytes,
        physical_block_size_bytes=_ioctl_int(fd, _BLKPBSZGET),
        rotational=read_text(disk, "queue/rotational") == "1",
        read_only=bool(_ioctl_int(fd, _BLKROGET)),
        model=read_text(disk, "device/model"),
        serial=serial_of(disk),
        identity=identity_of(status),
        device=identify(fd),
        granules=_granules(device_folder(status.st_rdev), disk, logical_bytes),
        kernel_name=disk.name,
    )


def _granules(device: Path, disk: Path, logical_bytes: int) -> Granules:
    """Return the granules of a block device. ``disk`` is the folder of the whole disk, which has the queue."""
    size, offset = read_text(disk, "queue/discard_granularity"), read_text(device, "discard_alignment")
    if read_text(disk, "queue/discard_max_bytes") in ("", "0") or not size.isdecimal() or not int(size):
        return NO_GRANULES
    # The kernel discards whole logical blocks only.
    size_bytes = -(-int(size) // logical_bytes) * logical_bytes
    offset_bytes = int(offset) % size_bytes if offset.isdecimal() else 0
    return Granules(size_bytes, offset_bytes if offset_bytes % logical_bytes == 0 else 0)


def device_size(fd: int) -> int | None:
    """Return the size of the block device in bytes. Never blocks.

    The size is 0 if the device was removed, and None if the ioctl fails.
    """
    try:
        return _ioctl_u64(fd, _BLKGETSIZE64)
    except OSError:
        return None


def _ioctl_int(fd: int, request: int) -> int:
    value: int = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    return value


def _ioctl_u64(fd: int, request: int) -> int:
    value: int = struct.unpack("Q", fcntl.ioctl(fd, request, bytes(8)))[0]
    return value
