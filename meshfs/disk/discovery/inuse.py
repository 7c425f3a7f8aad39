"""Find out whether something else on this machine uses a disk.

Two writers destroy a file system. So a disk is not exported while it is mounted, is swap space, or is held by another
device (LVM, MD, dm-crypt, a loop device). ``gather`` reads the kernel's tables, and ``used_by`` decides. The exclusive
claim in disk/file/claim.py catches the users that these tables do not show, such as a multi-device file system or
another exporter.

If a file system is stuck, a stat(2) of a path in it never returns. A path outside the disk's own file system and
outside the file systems in memory, such as /dev, can be neither the disk nor its device file. Therefore such paths are
not accessed (`safe_paths`).

Sources: proc(5) (/proc/self/mountinfo, /proc/swaps), sysfs (dev/block, holders, loop/backing_file).
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.disk.discovery.sysfs import device_folder
from meshfs.linux.mountinfo import MountEntry, read_mounts, unescape

# File systems that hold device files and answer without a server or a device.
_IN_MEMORY: Final = ("devtmpfs", "tmpfs", "ramfs")

# Compares disks. The value is ("dev", st_rdev) for a block device, and ("file", st_dev, st_ino) for a file.
Identity = tuple[str, int] | tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class UseFacts:
    """Holds all uses of disks on this machine, each with the identity of the disk that is used."""

    # mounts: (identity, mount point); swaps: (identity, path); loops: (identity, loop device)
    mounts: tuple[tuple[Identity, str], ...] = ()
    swaps: tuple[tuple[Identity, str], ...] = ()
    loops: tuple[tuple[Identity, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """Names the disk itself, or a partition or whole disk that shares its blocks. A user of one uses them all."""

    identity: Identity
    # "" for the disk itself, otherwise for example "partition sda1" or "whole disk sda".
    relative: str = ""
    holders: tuple[str, ...] = ()


def used_by(family: tuple[Relation, ...], facts: UseFacts) -> str | None:
    """Return a text that names a user of the disk, such as "mounted on /srv". Return None if the disk has no user."""
    for relation in family:
        prefix = f"its {relation.relative} is " if relation.relative else ""
        for uses, text in (
            (facts.mounts, "mounted on {}"),
            (facts.swaps, "swap space ({})"),
            (facts.loops, "the backing file of {}"),
        ):
            for identity, what in uses:
                if identity == relation.identity:
                    return prefix + text.format(what)
        if relation.holders:
            return f"{prefix}held by {', '.join(relation.holders)}"
    return None


def identity_of(status: os.stat_result) -> Identity:
    if stat.S_ISBLK(status.st_mode):
        return ("dev", status.st_rdev)
    return ("file", status.st_dev, status.st_ino)


def family_of(status: os.stat_result, sys_root: Path = Path("/sys")) -> tuple[Relation, ...]:
    """Return the disk and its relatives: its partitions, or the whole disk if the disk is itself a partition."""
    if not stat.S_ISBLK(status.st_mode):
        return (Relation(identity_of(status)),)
    folder = device_folder(status.st_rdev, sys_root)
    family = [Relation(identity_of(status), holders=_names(folder / "holders"))]
    if not folder.exists():
        return tuple(family)
    relatives = [("partition", child.parent) for child in sorted(folder.glob("*/partition"))]
    if (folder / "partition").exists():
        relatives.append(("whole disk", folder.parent))
    for kind, relative in relatives:
        device = _device_number(relative / "dev")
        if device is not None:
            name = f"{kind} {relative.name}"
            family.append(Relation(("dev", device), name, _names(relative / "holders")))
    return tuple(family)


def gather(disk_path: Path, proc_root: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> UseFacts:
    """Read the kernel's tables of uses that may concern the disk at ``disk_path``. A table that is missing is empty."""
    mounts = read_mounts(proc_root / "self/mountinfo")
    is_safe = safe_paths(mounts, os.path.realpath(disk_path))
    return UseFacts(
        mounts=tuple(mounted(mounts, is_safe)),
        swaps=tuple(parse_swaps(os.fsencode(_text(proc_root / "swaps")), is_safe)),
        loops=tuple(_loops(sys_root, is_safe)),
    )


#: Returns whether a path may be accessed, without the risk of waiting for an unrelated file system that is stuck.
IsSafe = Callable[[str], bool]


def safe_paths(mounts: Sequence[MountEntry], disk_path: str) -> IsSafe:
    """Return a function that tells whether a path is in the file system of ``disk_path``, or in memory as /dev is."""
    own = holder(mounts, disk_path)

    def is_safe(path: str) -> bool:
        mount = holder(mounts, path)
        return mount is None or mount.type in _IN_MEMORY or (own is not None and mount.device == own.device)

    return is_safe


def holder(mounts: Sequence[MountEntry], path: str) -> MountEntry | None:
    """Return the mount that contains an absolute path without symlinks. The path itself is not accessed."""
    found: MountEntry | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # If two mounts have the same mount point, the newer one hides the older one.
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def mounted(mounts: Iterable[MountEntry], is_safe: IsSafe) -> Iterator[tuple[Identity, str]]:
    """Yield the devices of the mounts, each with its mount point."""
    for mount in mounts:
        yield ("dev", mount.device), mount.point
        # btrfs shows an anonymous device number, but its mount source is the path of one of its devices.
        if mount.source.startswith("/"):
            for identity in _identity_at(mount.source, is_safe):
                if identity[0] == "dev":
                    yield identity, mount.point


def parse_swaps(swaps: bytes, is_safe: IsSafe) -> Iterator[tuple[Identity, str]]:
    """Parse /proc/swaps: a heading, then lines of the form: path type size used priority."""
    for line in swaps.split(b"\n")[1:]:
        if fields := line.split():
            path = unescape(fields[0])
            for identity in _identity_at(path, is_safe):
                yield identity, path


def _loops(sys_root: Path, is_safe: IsSafe) -> Iterator[tuple[Identity, str]]:
    for file in sorted(sys_root.glob("block/loop*/loop/backing_file")):
        for identity in _identity_at(_text(file).rstrip("\n"), is_safe):
            yield identity, f"/dev/{file.parent.parent.name}"


def _identity_at(path: str, is_safe: IsSafe) -> Iterator[Identity]:
    """Yield the identity of the file at ``path``. Yield nothing if it is gone, or if the path must not be accessed."""
    if not is_safe(path):
        return
    try:
        yield identity_of(os.stat(path))
    except OSError:
        return


def _device_number(file: Path) -> int | None:
    major, separator, minor = _text(file).strip().partition(":")
    return os.makedev(int(major), int(minor)) if separator else None


def _names(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in folder.iterdir()))
    except FileNotFoundError:
        return ()


def _text(file: Path) -> str:
    """Return the text of a small file of /proc or sysfs, or "" if the file is missing or cannot be read."""
    try:
        return file.read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        # A loop device without a file, or a device that is being removed, gives an error.
        return ""
