"""Settings of a FUSE mount that the kernel takes only through sysfs and fusectl.

max_background    /sys/fs/fuse/connections/<minor>/max_background: asynchronous requests the
                  kernel has at the file system at once, 12 by default
read_ahead_kb     /sys/class/bdi/<major>:<minor>/read_ahead_kb, 128 by default

Only root may, and either may be missing (containers): the mount works without, only slower.
Nothing here touches the mount itself, which would be a request to this very process.
"""

import ctypes
import errno
import logging
import os
import re
from pathlib import Path
from typing import Final

from meshfs import limits

log = logging.getLogger(__name__)

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_BDI: Final = Path("/sys/class/bdi")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")

# The same numbers on every architecture but alpha (asm-generic/unistd.h); linux/mount.h.
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def tune(mountpoint: str) -> None:
    """Raise the limits of the FUSE file system mounted there; logs what could not be done."""
    device = device_of(mountpoint, _MOUNTINFO.read_text(errors="surrogateescape"))
    if device is None:
        log.debug("no mount at %s to tune", mountpoint)
        return
    try:
        (_BDI / device / "read_ahead_kb").write_text(str(limits.FUSE_READ_AHEAD_KIB))
    except OSError as error:
        log.debug("read-ahead stays as it is: %s", error)
    try:
        _raise_background(device.partition(":")[2])
    except OSError as error:
        log.debug("max_background stays as it is: %s", error)


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


def _raise_background(connection: str) -> None:
    if (_CONNECTIONS / connection).is_dir():
        (_CONNECTIONS / connection / "max_background").write_text(str(limits.FUSE_BACKGROUND_MAX))
        return
    fusectl = _open_fusectl()
    try:
        fd = os.open(f"{connection}/max_background", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fusectl)
        try:
            os.write(fd, str(limits.FUSE_BACKGROUND_MAX).encode())
        finally:
            os.close(fd)
    finally:
        os.close(fusectl)


def _open_fusectl() -> int:
    """A directory fd on fusectl where nobody mounted it: a detached mount, seen by nobody
    else and gone with the fd (fsopen(2), fsmount(2); Linux 5.2)."""
    context = _checked(_libc.syscall(_SYS_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC))
    try:
        _checked(_libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        return _checked(_libc.syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0))
    finally:
        os.close(context)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, f"fusectl: {os.strerror(number)}")
    return result
