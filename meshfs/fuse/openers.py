"""What a caller of the file system may see beyond what permission bits say."""

import os
from pathlib import Path


def sees_all(uid: int) -> bool:
    """Return whether an opener of the status may see everybody's I/O: root and the owner of this process may."""
    return uid in (0, os.geteuid())


def may_read_disks(uid: int, gid: int, pid: int, disk_gid: int) -> bool:
    """Return whether the kernel lets the caller read a disk's file, and therefore its attributes in ``user.``.

    It is False where that is not known: the process is gone, or is in another pid namespace (FUSE then gives 0).
    """
    return uid == 0 or disk_gid in (gid, *_groups(pid))


def _groups(pid: int) -> list[int]:
    """Return the supplementary groups, which a FUSE request does not carry."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid > 0 else []
    except OSError:
        return []
    return [int(group) for line in lines if line.startswith("Groups:") for group in line.split()[1:]]
