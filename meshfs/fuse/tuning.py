"""Read-ahead of a FUSE mount, which the kernel takes only through sysfs.

/sys/class/bdi/<major>:<minor>/read_ahead_kb is 128 by default. Only root may write it, and a
container may not have it: the mount works without, buffered sequential reads are only slower.
Nothing here touches the mount itself, which would be a request to this very process.
"""

import logging
import os
from pathlib import Path
from typing import Final

from meshfs import limits
from meshfs.linux.mountinfo import read_mounts, topmost

logger = logging.getLogger(__name__)

_BDI: Final = Path("/sys/class/bdi")


def tune(mountpoint: str) -> None:
    """Raise the read-ahead of the file system mounted there, and log where that cannot be done."""
    mount = topmost(read_mounts(), mountpoint)
    if mount is None:
        logger.debug("no mount at %s to tune", mountpoint)
        return
    device = f"{os.major(mount.device)}:{os.minor(mount.device)}"
    try:
        (_BDI / device / "read_ahead_kb").write_text(str(limits.FUSE_READ_AHEAD_KIB))
    except OSError as error:
        logger.debug("read-ahead stays as it is: %s", error)
