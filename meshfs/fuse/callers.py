"""Decide what a caller of the file system may see, where permission bits do not decide it."""

import os
from pathlib import Path


def sees_all(uid: int) -> bool:
    """Return whether the status file may show everybody's I/O to this user: to root and to this process's user."""
    return uid in (0, os.geteuid())


def may_read_disks(uid: int, gid: int, pid: int, disk_gid: int) -> bool:
    """Return whether the kernel lets the caller read a disk's file, and therefore the file's ``user.`` attributes.

    The caller's supplementary groups do not count if they are unknown. They are unknown if its process has ended, or
    is in another PID namespace (FUSE then reports pid 0).
    """
    return uid == 0 or disk_gid in (gid, *_groups(pid))


def _groups(pid: int) -> list[int]:
    """Return the supplementary groups of a process, because a FUSE request does not contain them."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid > 0 else []
    except OSError:
        return []
    return [int(group) for line in lines if line.startswith("Groups:") for group in line.split()[1:]]
