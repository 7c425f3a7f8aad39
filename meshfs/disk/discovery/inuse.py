"""Is a disk used by something else on this machine, and by what.

Two writers destroy a file system, so a disk is not exported while it is mounted, swapped
to, or held (by LVM, MD, dm-crypt, a loop device, ...). ``gather`` reads what the kernel
says, ``used_by`` decides; the exclusive claim in disk/file.py catches what the kernel
doesn't say here (a multi-device file system, another exporter).

Another file system than the disk's own may be stuck: a stat(2) of a path in it never ends. What lies there can be
neither the disk nor its device file, so that only paths of the disk's file system and of /dev are looked at
(`reached`).

Sources: proc(5) (/proc/self/mountinfo, /proc/swaps), sysfs (dev/block, holders,
loop/backing_file).
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.linux.mountinfo import Mount, read_mounts, unescape

# File systems that hold device files and answer without a server or a device.
_IN_MEMORY: Final = ("devtmpfs", "tmpfs", "ramfs")

# What is compared: ("dev", st_rdev) of a block device, ("file", st_dev, st_ino) of a file.
Identity = tuple[str, int] | tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class UseFacts:
    """Everything on this machine that uses disks, by the identity of the disk used."""

    # (identity, mount point), (identity, path), (identity, loop device)
    mounts: tuple[tuple[Identity, str], ...] = ()
    swaps: tuple[tuple[Identity, str], ...] = ()
    loops: tuple[tuple[Identity, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """The disk itself, or for a block device a relative whose use is a use of the disk."""

    identity: Identity
    # "" for the disk itself, else as "partition sda1" or "whole disk sda".
    relative: str = ""
    holders: tuple[str, ...] = ()


def used_by(family: tuple[Relation, ...], facts: UseFacts) -> str | None:
    """By what the disk is used, for people; None when by nothing."""
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
    """The disk, its partitions, and the whole disk when it is a partition itself."""
    if not stat.S_ISBLK(status.st_mode):
        return (Relation(identity_of(status)),)
    folder = sys_root / "dev/block" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    family = [Relation(identity_of(status), holders=_names(folder / "holders"))]
    if not folder.exists():
        return tuple(family)
    folder = folder.resolve()
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
    """What the kernel says now of what may use the disk at ``disk_path``; sources that don't exist here are empty."""
    mounts = read_mounts(proc_root / "self/mountinfo")
    looked_at = reached(mounts, os.path.realpath(disk_path))
    return UseFacts(
        mounts=tuple(mounted(mounts, looked_at)),
        swaps=tuple(parse_swaps(os.fsencode(_text(proc_root / "swaps")), looked_at)),
        loops=tuple(_loops(sys_root, looked_at)),
    )


#: Whether a path may be looked at without a wait for a file system that is nobody's business here.
Reached = Callable[[str], bool]


def reached(mounts: Sequence[Mount], disk_path: str) -> Reached:
    """Of absolute paths: those in the file system of ``disk_path``, and those that lie in memory, as /dev does."""
    own = holder(mounts, disk_path)

    def is_reached(path: str) -> bool:
        mount = holder(mounts, path)
        return mount is None or mount.type in _IN_MEMORY or (own is not None and mount.device == own.device)

    return is_reached


def holder(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that an absolute path without symlinks lies in, found without a look at the path."""
    found: Mount | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of two at one point the newer one hides the older one.
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def mounted(mounts: Iterable[Mount], looked_at: Reached) -> Iterator[tuple[Identity, str]]:
    """The devices of the mounts, each with its mount point."""
    for mount in mounts:
        yield ("dev", mount.device), mount.point
        # btrfs shows an anonymous number; its source tells one of its devices.
        if mount.source.startswith("/"):
            for identity in _identity_at(mount.source, looked_at):
                if identity[0] == "dev":
                    yield identity, mount.point


def parse_swaps(swaps: bytes, looked_at: Reached) -> Iterator[tuple[Identity, str]]:
    """A heading, then lines: path type size used priority."""
    for line in swaps.split(b"\n")[1:]:
        if fields := line.split():
            path = unescape(fields[0])
            for identity in _identity_at(path, looked_at):
                yield identity, path


def _loops(sys_root: Path, looked_at: Reached) -> Iterator[tuple[Identity, str]]:
    for file in sorted(sys_root.glob("block/loop*/loop/backing_file")):
        for identity in _identity_at(_text(file).rstrip("\n"), looked_at):
            yield identity, f"/dev/{file.parent.parent.name}"


def _identity_at(path: str, looked_at: Reached) -> Iterator[Identity]:
    """The identity of what is at ``path``; nothing when it is gone, or where it is not to be looked at."""
    if not looked_at(path):
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
    """A small file of proc or sysfs; "" when it is not there (any more)."""
    try:
        return file.read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        # A loop device without a file, or a device on its way out, answers with an error.
        return ""
