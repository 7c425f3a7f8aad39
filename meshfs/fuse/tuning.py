"""Read-ahead of a FUSE mount, which the kernel takes only through sysfs.

/sys/class/bdi/<major>:<minor>/read_ahead_kb is 128 by default. Only root may write it, and a
container may not have it: the mount works without, buffered sequential reads are only slower.
Nothing here touches the mount itself, which would be a request to this very process.
"""

import logging
import re
from pathlib import Path
from typing import Final

from meshfs import limits

log = logging.getLogger(__name__)

_BDI: Final = Path("/sys/class/bdi")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


def tune(mountpoint: str) -> None:
    """Raise the read-ahead of the file system mounted there; logs when that cannot be done."""
    device = device_of(mountpoint, _MOUNTINFO.read_text(errors="surrogateescape"))
    if device is None:
        log.debug("no mount at %s to tune", mountpoint)
        return
    try:
        (_BDI / device / "read_ahead_kb").write_text(str(limits.FUSE_READ_AHEAD_KIB))
    except OSError as error:
        log.debug("read-ahead stays as it is: %s", error)


def device_of(mountpoint: str, mountinfo: str) -> str | None:
    """``major:minor`` of the topmost mount at that absolute path (proc_pid_mountinfo(5))."""
    device = None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and _unescaped(fields[4]) == mountpoint:
            device = fields[2]
    return device


def _unescaped(field: str) -> str:
    """Space, tab, newline and backslash are three octal digits in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
