"""Who asks: what a caller of the file system may see besides what permission bits say."""

import os
from pathlib import Path


def sees_all(uid: int) -> bool:
    """Whether an opener of the status may know of everybody's I/O: root, and the owner of this process."""
    return uid in (0, os.geteuid())


def may_read_disks(uid: int, gid: int, pid: int, disk_gid: int) -> bool:
    """Whether the kernel lets the caller read a disk's file, and therefore its attributes in ``user.``.

    False where that cannot be said: the process is gone, or lives in another pid namespace (FUSE then says 0).
    """
    return uid == 0 or disk_gid in (gid, *_groups(pid))


def _groups(pid: int) -> list[int]:
    """The supplementary groups, which FUSE does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid > 0 else []
    except OSError:
        return []
    return [int(group) for line in lines if line.startswith("Groups:") for group in line.split()[1:]]
