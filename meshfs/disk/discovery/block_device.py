"""The block devices of this machine, as sysfs and udev describe them.

    read_block_devices    every whole disk in /sys/block, with its facts; partitions belong to their disk
    stable_id             the name by which a disk is known in the cluster

Theory of the id. Another kernel name, another slot or another node must not change it, and no other disk may have it.
So it is a name that the maker gave to the disk, in the spelling of /dev/disk/by-id. Of several such names the first of
this list counts, because the earlier ones are unique in the world:

    wwn-0x5000c500a1b2c3d4          World Wide Name of a SCSI, SAS or ATA disk
    nvme-eui.0025385b71b00f24       EUI-64 or NGUID of an NVMe namespace
    nvme-uuid.b2f5...               UUID of an NVMe namespace
    ata-MODEL_SERIAL, scsi-, nvme-MODEL_SERIAL, usb-, mmc-, virtio-SERIAL
                                    serial numbers, which are unique per model at best

udev's own links are used if there are some. Otherwise the same names are made from the attributes in sysfs. A virtual
device, such as a loop device, has a name made of its lasting identity (`identity.py`). A disk without any such name has
no id and is not discovered. A name that cannot be a file name in every share is skipped, such as one with "/" or "\\".
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from meshfs.disk.discovery.identity import identify
from meshfs.disk.discovery.sysfs import raise_shortage, read_text, serial_of
from meshfs.disk.discovery.udev_database import UdevRecord, is_pending, read_record

_SECTOR_BYTES: Final = 512
#: The kinds of block devices that the kernel makes in software, so that no disk of the machine is behind them.
VIRTUAL_BUSES: Final = frozenset(("loop", "null", "nbd", "rbd", "drbd", "dm", "md", "bcache", "scsi_debug"))
_BUS_BY_NAME: Final = {
    "loop": "loop",
    "nullb": "null",
    "nbd": "nbd",
    "rbd": "rbd",
    "drbd": "drbd",
    "dm-": "dm",
    "md": "md",
    "bcache": "bcache",
    "nvme": "nvme",
    "vd": "virtio",
    "xvd": "xen",
    "mmcblk": "mmc",
    "pmem": "pmem",
}
#: Devices that are never a disk: RAM disks, compressed swap, optical drives, tapes' and floppy drives' block devices.
_NEVER: Final = re.compile(r"(ram|zram|sr|scd|fd|mtdblock)[0-9]")
#: Kinds of links in /dev/disk/by-id, the best ones first.
_LINK_ORDER: Final = ("wwn-0x", "nvme-eui.", "nvme-uuid.", "ata-", "scsi-", "nvme-", "usb-", "mmc-", "virtio-")
#: Characters that udev keeps in the names of its links (udev's UDEV_ALLOWED_CHARS_INPUT, without "/").
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9#+\-.:=@_]")
#: An id is a file name, also with the endings of the files in the state folder. No name may have "~" (short names).
_ID: Final = re.compile(r"[A-Za-z0-9#+\-.:=@_]{1,200}")


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """Holds the facts of one whole disk.

    ``name`` is the kernel's name, ``path`` is in /dev, ``number`` is "MAJOR:MINOR". ``bus`` is ata, sas, scsi, nvme,
    usb, virtio, mmc, or a kind of `VIRTUAL_BUSES`. ``place`` is the device's folder in sysfs. ``id`` is "" if the disk
    has no name of its own. If ``is_pending``, udev runs but has not finished with the device, so its links are unknown.
    """

    name: str
    path: Path
    number: str
    size_bytes: int
    bus: str
    model: str
    serial: str
    id: str
    rotational: bool
    removable: bool
    read_only: bool
    place: Path
    is_pending: bool = False

    @property
    def is_virtual(self) -> bool:
        return self.bus in VIRTUAL_BUSES


def read_block_devices(
    sys_root: Path = Path("/sys"),
    run_root: Path = Path("/run"),
    dev_root: Path = Path("/dev"),
    may_open: Callable[[BlockDevice], bool] = lambda _: True,
) -> list[BlockDevice]:
    """Return all whole disks, sorted by kernel name. A device that disappears meanwhile is left out.

    The kernel hides some devices, such as the single paths of an NVMe multipath device. They are left out, too. The id
    of a virtual device costs an open(2) of the device and of its image. So only devices that ``may_open`` get such an
    id. Raises OSError if the disks cannot be read, for example because descriptors are short.
    """
    try:
        folders = sorted((sys_root / "block").iterdir())
    except FileNotFoundError:
        return []
    devices = (_read(folder, run_root, dev_root) for folder in folders if not _NEVER.match(folder.name))
    return [_named(device, may_open) for device in devices if device is not None]


def _read(folder: Path, run_root: Path, dev_root: Path) -> BlockDevice | None:
    number = read_text(folder, "dev")
    size = read_text(folder, "size")
    if not re.fullmatch(r"[0-9]+:[0-9]+", number) or not size.isdecimal() or read_text(folder, "hidden") == "1":
        return None
    major, minor = map(int, number.split(":"))
    is_pending_now = is_pending(os.makedev(major, minor), run_root)
    record = read_record(os.makedev(major, minor), run_root)
    place, path = folder.resolve(), dev_root / folder.name.replace("!", "/")
    bus = bus_of(folder.name, str(place), record)
    model = read_text(folder, "device/model") or read_text(folder, "device/name")
    serial = serial_of(folder)
    return BlockDevice(
        name=folder.name,
        path=path,
        number=number,
        size_bytes=int(size) * _SECTOR_BYTES,
        bus=bus,
        model=model,
        serial=serial or record.properties.get("ID_SERIAL_SHORT", ""),
        id=stable_id(record.names_in("disk/by-id"), names_from_sysfs(folder, bus, model, serial)),
        rotational=read_text(folder, "queue/rotational") == "1",
        removable=read_text(folder, "removable") == "1",
        read_only=read_text(folder, "ro") == "1",
        place=place,
        is_pending=is_pending_now,
    )


def _named(device: BlockDevice, may_open: Callable[[BlockDevice], bool]) -> BlockDevice:
    """Return the device with the id of its lasting identity, if it is virtual and has no other id."""
    if device.id or not device.is_virtual or not may_open(device):
        return device
    return replace(device, id=lasting_name(device.bus, device.path))


def lasting_name(bus: str, path: Path) -> str:
    """Return a name made of a virtual device's lasting identity, or "" if it has none. Opens the device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise_shortage(error)
        return ""
    try:
        identity = identify(fd)
    except OSError as error:
        raise_shortage(error)
        return ""
    finally:
        os.close(fd)
    return "" if identity.place else f"{bus}-{identity.instance}"


def bus_of(name: str, place: str, record: UdevRecord) -> str:
    """Return the bus of a disk, from its kernel name and its folder in sysfs."""
    for prefix, bus in _BUS_BY_NAME.items():
        if re.match(re.escape(prefix) + r"[0-9a-z]", name):
            return bus
    if "/usb" in place:
        return "usb"
    if "/end_device-" in place:
        return "sas"
    if re.search(r"/ata[0-9]+/", place) or record.properties.get("ID_BUS") == "ata":
        return "ata"
    if "/pseudo_" in place:
        return "scsi_debug"
    return "scsi"


def stable_id(links: Iterable[str], made: Iterable[str]) -> str:
    """Return the best name that can be a file name: of udev's ``links``, otherwise of those ``made``. It may be ""."""
    for names in (list(links), list(made)):
        for prefix in _LINK_ORDER:
            for name in sorted(names):
                if name.startswith(prefix) and len(name) > len(prefix) and _ID.fullmatch(name):
                    return name
    return ""


def names_from_sysfs(folder: Path, bus: str, model: str, serial: str) -> list[str]:
    """Return the names that udev would give to a disk, from the attributes of its folder in sysfs."""
    names = []
    wwid = read_text(folder, "wwid") or read_text(folder, "device/wwid")
    kind, _, value = wwid.partition(".")
    if bus == "nvme":
        if kind in ("eui", "uuid"):
            names.append(f"nvme-{link_name(wwid)}")
    elif kind in ("naa", "eui") and re.fullmatch(r"[0-9a-fA-F]+", value):
        names.append(f"wwn-0x{value.lower()}")
    elif kind == "t10" and value.startswith("ATA"):
        names.append(f"ata-{link_name(value.removeprefix('ATA'))}")
    if serial:
        prefix = {"nvme": "nvme", "virtio": "virtio", "mmc": "mmc", "usb": "usb"}.get(bus, "scsi")
        full = serial if bus == "virtio" or not model else f"{model}_{serial}"
        names.append(f"{prefix}-{link_name(full)}")
    return names


def link_name(raw: str) -> str:
    """Return ``raw`` as udev would put it into the name of a link: blanks become one "_", and so does all else."""
    return _UNSAFE.sub("_", re.sub(r"\s+", "_", raw.strip()))
