"""One mesh at a mount point, also where several are mounted at once.

The kernel stacks mounts, so a second mesh on a first one would hide it, and nobody would notice. The table of mounts
tells whether there is one already. Between looking there and mounting, another process may mount: at a boot, for
example, an automounter and `mount -a`. Therefore a process looks again and mounts while it holds a lock (flock(2)) on
the folder below. The lock is advisory and anybody who may read the folder could hold it, so it delays a mount, but
never prevents one.
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
    """Raise MountFailed where a mesh is mounted already at the path, which is absolute and without links."""
    mount = topmost(read_mounts(), mountpoint)
    # The devices differ where another mount on a folder above hides this one.
    if mount is not None and mount.is_mesh and mount.device == os.stat(mountpoint).st_dev:
        raise MountFailed(f"{mountpoint}: {mount.source} is mounted here already; umount it first")


@asynccontextmanager
async def alone(mountpoint: str) -> AsyncIterator[None]:
    """Wait until nobody else is in this block for the same folder, for MOUNT_TURN_S at most."""
    try:
        folder = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # Mounting takes no right to read the folder. Without it there is no lock.
        yield
        return
    try:
        with trio.move_on_after(limits.MOUNT_TURN_S):
            # Another process holds the lock, and its end is no event here.
            while True:
                if _locked(folder):
                    break
                await trio.sleep(_POLL_S)
        yield
    finally:
        os.close(folder)


def _locked(folder: int) -> bool:
    """Return whether the folder is locked now, or can never be, as on some network file systems."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    return True
