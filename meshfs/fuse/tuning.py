"""Set the read-ahead of a FUSE mount, which is possible only through sysfs.

/sys/class/bdi/<major>:<minor>/read_ahead_kb is 128 by default. Only root may write it, and a container may not have it.
The mount works with the default as well, but buffered sequential reads are slower. This module does not access the
mount itself, because that would be a request to this very process.
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
    """Raise the read-ahead of the file system mounted at ``mountpoint``. If that fails, log the reason."""
    mount = topmost(read_mounts(), mountpoint)
    if mount is None:
        logger.debug("the read-ahead is not raised: nothing is mounted at %s", mountpoint)
        return
    device = f"{os.major(mount.device)}:{os.minor(mount.device)}"
    try:
        (_BDI / device / "read_ahead_kb").write_text(str(limits.FUSE_READ_AHEAD_KIB))
    except OSError as error:
        logger.debug("the read-ahead is not raised: %s", error)
