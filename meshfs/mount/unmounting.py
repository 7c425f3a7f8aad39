"""Unmount when the mount's process is asked to end, but not while somebody still uses a disk.

A file system on a loop device over a disk of the mesh keeps the mount busy. If the process ended at once, everything
that this file system has not written yet would be lost. At a shutdown, SIGTERM comes early: a mount made by hand runs
in the scope of its login, and systemd ends this scope while file systems are still being unmounted. So the first
signal unmounts as umount(8) does. While the mount is busy, the process continues to serve, and tries again to unmount:

    SIGTERM -> umount: done                                 the process ends
               umount: busy -> serve, try again -> done     the process ends
                               after UNMOUNT_BUSY_S, or at a second signal: the process ends, and programs get ENOTCONN
"""

import logging
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from meshfs import limits
from meshfs.linux.mountinfo import read_mounts, topmost

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class OwnMount:
    """Recognises this process's mount. `is_there` is false before `note`, and after an umount."""

    point: str
    device: int | None = None

    def note(self) -> None:
        """Remember the mount at ``point`` as this process's own. Call this when mount(2) has returned."""
        mount = topmost(read_mounts(), self.point)
        self.device = None if mount is None else mount.device

    def is_there(self) -> bool:
        """Return whether the topmost mount at ``point`` is this process's own. A mount over it hides it."""
        mount = topmost(read_mounts(), self.point)
        return mount is not None and mount.device == self.device


async def unmount_when_free(mount: OwnMount) -> None:
    """Unmount as soon as nobody uses the mount. After ``limits.UNMOUNT_BUSY_S``, return although it is still busy."""
    command = ["umount", "--no-canonicalize"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    warned = False
    with trio.move_on_after(limits.UNMOUNT_BUSY_S):
        while mount.is_there():
            why = await _umount([*command, "--", mount.point])
            if not why:
                return
            if not warned:
                logger.warning("the mount is still served, for at most %g s, because %s", limits.UNMOUNT_BUSY_S, why)
                warned = True
            await trio.sleep(limits.UNMOUNT_RETRY_S)


async def _umount(command: Sequence[str]) -> str:
    """Run the command. Return why the command did not unmount, or an empty text if it did."""
    why = ""
    try:
        done = await trio.run_process(command, check=False, stdout=subprocess.DEVNULL, capture_stderr=True)
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip() or f"{command[0]} has exit status {done.returncode}"
    except* OSError as group:
        # The process may have no free descriptor or memory for the command. Its users still need the mount, so go on.
        why = f"{command[0]} cannot be started: {group.exceptions[0]}"
    return why
