"""Refuse a second mesh at the same mount point, even if several processes mount at the same time.

The kernel stacks mounts. A second mesh would hide the first one, and nobody would notice. The table of mounts shows
whether a mesh is mounted already. But another process may mount between a look at the table and the mount. For
example, an automounter and `mount -a` may both mount during boot. Therefore a process looks at the table and mounts
while it holds a lock (flock(2)) on the folder. The lock is advisory, and anybody who may read the folder can hold it.
So the lock may delay a mount, but never prevents one.
"""

import errno
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from meshfs import limits
from meshfs.errors import MountFailed
from meshfs.linux.mountinfo import read_mounts, topmost

_POLL_S: Final = 0.01


def refuse_second_mount(mountpoint: str) -> None:
    """Raise MountFailed if a mesh is already mounted at the path, which must be absolute and without symlinks."""
    mount = topmost(read_mounts(), mountpoint)
    # If another mount, on a folder above, hides this one, then the devices differ.
    if mount is not None and mount.is_mesh and mount.device == os.stat(mountpoint).st_dev:
        raise MountFailed(f"{mountpoint}: {mount.source} is mounted here already; umount it first")


@asynccontextmanager
async def alone(mountpoint: str) -> AsyncIterator[None]:
    """Lock the folder during the block. If another process holds the lock, wait for it at most MOUNT_TURN_S."""
    try:
        folder = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # A mount needs no right to read the folder, but a lock does. So continue without a lock.
        yield
        return
    try:
        with trio.move_on_after(limits.MOUNT_TURN_S):
            # Try again and again, because nothing reports that another process has released the lock.
            while True:
                if _locked(folder):
                    break
                await trio.sleep(_POLL_S)
        yield
    finally:
        os.close(folder)


def _locked(folder: int) -> bool:
    """Try to lock the folder. Return False only if another process holds the lock.

    Some network file systems have no locks, so waiting would not help there.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    return True
