"""Read udev's database: what udev found out about a device, and the links that it made for the device. Pure but `read`.

A record is the file /run/udev/data/bMAJOR:MINOR, with one entry per line (systemd's src/libsystemd/sd-device):

    S:disk/by-id/ata-MODEL_SERIAL       a link below /dev
    E:ID_BUS=ata                        a property
    other letters                       of no interest here

A container often has no such database. Then every record is empty, and sysfs is the only source. Where udev runs, it
writes the record of a new device after the kernel has announced the device (`is_pending`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshfs.disk.discovery.sysfs import read_bytes


@dataclass(frozen=True, slots=True)
class UdevRecord:
    """Holds the links of a device, relative to /dev, and its properties."""

    links: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    def names_in(self, folder: str) -> list[str]:
        """Return the names of the device's links in ``folder``, such as "disk/by-id", sorted."""
        prefix = folder + "/"
        return sorted(link.removeprefix(prefix) for link in self.links if link.startswith(prefix))


def read_record(device: int, run_root: Path = Path("/run")) -> UdevRecord:
    """Return the record of the block device with the number ``device``. It is empty if udev has none.

    Raises OSError if descriptors or memory are short.
    """
    return parse_record(read_bytes(_path(device, run_root)))


def is_pending(device: int, run_root: Path = Path("/run")) -> bool:
    """Return whether udev runs here but has no record of the device yet."""
    return (run_root / "udev/control").exists() and not _path(device, run_root).exists()


def _path(device: int, run_root: Path) -> Path:
    return run_root / f"udev/data/b{os.major(device)}:{os.minor(device)}"


def parse_record(data: bytes) -> UdevRecord:
    """Return the record in ``data``. A line that is no entry is skipped."""
    links: list[str] = []
    properties: dict[str, str] = {}
    for line in data.decode(errors="replace").split("\n"):
        kind, colon, value = line.partition(":")
        if not colon:
            continue
        if kind == "S":
            links.append(value)
        elif kind == "E":
            key, equals, text = value.partition("=")
            if equals:
                properties[key] = text
    return UdevRecord(tuple(links), properties)
