"""Unmounting when the mount's process is asked to end, without taking a disk from under who still uses it.

A file system on a loop device over a disk of the mesh keeps the mount busy. If the process ended
at once, all that this file system still has to write would be lost. A shutdown does send
SIGTERM early: a mount made by hand runs in the scope of its login, which systemd ends while file
systems are still being unmounted. So the first signal unmounts as umount(8) does, and while
the mount is busy it is served and tried again:

    SIGTERM -> umount: done                                 the process ends
               umount: busy -> serve, try again -> done     the process ends
                               UNMOUNT_BUSY_S over, or a second signal -> the process ends, users get ENOTCONN
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
    """This process's mount. It is not there before ``note``, nor after somebody unmounted it or mounted over it."""

    point: str
    device: int | None = None

    def note(self) -> None:
        """Remember which mount is ours; call it when mount(2) has returned."""
        mount = topmost(read_mounts(), self.point)
        self.device = None if mount is None else mount.device

    def is_there(self) -> bool:
        mount = topmost(read_mounts(), self.point)
        return mount is not None and mount.device == self.device


async def unmount_when_free(mount: OwnMount) -> None:
    """Return when nobody uses the mount any more and it is unmounted, or after ``limits.UNMOUNT_BUSY_S``."""
    command = ["umount", "--no-canonicalize"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    warned = False
    with trio.move_on_after(limits.UNMOUNT_BUSY_S):
        while mount.is_there():
            why = await _umount([*command, "--", mount.point])
            if not why:
                return
            if not warned:
                logger.warning("still serving, for %g s at most, as %s", limits.UNMOUNT_BUSY_S, why)
                warned = True
            await trio.sleep(limits.UNMOUNT_RETRY_S)


async def _umount(command: Sequence[str]) -> str:
    """Run the command, and return why it did not unmount; the text is empty when it did."""
    why = ""
    try:
        done = await trio.run_process(command, check=False, stdout=subprocess.DEVNULL, capture_stderr=True)
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip() or f"{command[0]} has exit status {done.returncode}"
    except* OSError as group:
        # There may be no descriptor or no memory for it. Whoever uses the mount needs it all the same.
        why = f"{command[0]} cannot be started: {group.exceptions[0]}"
    return why
