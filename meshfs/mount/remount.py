"""`mount -o remount` and `meshctl reload`: ask the mount's process to reload, and the kernel to change its flags.

mount(8) calls its helper for a remount in the same way as for a mount. It passes the options of /etc/fstab, or else
those that the kernel lists, and then the given options. The helper has to make the system call.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from meshfs.limits import RELOAD_TIMEOUT_S
from meshfs.linux import libc
from meshfs.mount.exit_status import EXIT_CONFIG, EXIT_FAILURE
from meshfs.mount.options import MountOptions
from meshfs.program.control_client import NOT_ALLOWED, NoAnswer, read_control, read_mount
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.mount_records import MountRecord, ReloadRecord

# The values are from linux/mount.h. statvfs(3) returns the same bits.
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_SYNCHRONOUS = 1, 2, 4, 8, 16
_MS_REMOUNT, _MS_DIRSYNC, _MS_NOATIME, _MS_RELATIME = 32, 128, 1024, 1 << 21
_FLAGS: Final = {
    "ro": _MS_RDONLY,
    "noexec": _MS_NOEXEC,
    "noatime": _MS_NOATIME,
    "sync": _MS_SYNCHRONOUS,
    "dirsync": _MS_DIRSYNC,
}
_CLEARS: Final = {"rw": "ro", "exec": "noexec", "atime": "noatime", "async": "sync"}
_SEEN: Final = _MS_RDONLY | _MS_NOEXEC | _MS_NOATIME | _MS_SYNCHRONOUS


def remount(options: MountOptions) -> int:
    """Remount, and return the exit status. Print what was refused to standard error."""
    point = os.path.realpath(options.mountpoint)
    try:
        outcome = ReloadRecord(ask_reload(Path(point), options.own, os.path.abspath(options.config)).raw)
    except NoAnswer as error:
        print(f"meshfs: {options.mountpoint}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    if outcome.failure:
        print(f"meshfs: nothing was changed: {outcome.failure}", file=sys.stderr)
        return EXIT_CONFIG
    for line in outcome.refused:
        print(f"meshfs: {line}", file=sys.stderr)
    return EXIT_FAILURE if outcome.refused else _change_flags(point, options.kernel)


def ask_reload(point: Path, own: Sequence[str] = (), config: str = "") -> Fields:
    """Ask the mount's process to reload, and return its answer (`ReloadRecord`). Raises NoAnswer."""
    mount = MountRecord(read_mount(point).raw)
    if mount.is_partial:
        raise NoAnswer("only root and the user of the mount's process may reload this mount", NOT_ALLOWED)
    if not mount.control:
        raise NoAnswer("the mount's process has no control socket; send it SIGHUP, and read the result in its log")
    request = {"verb": "reload", "options": list(own), "config": config}
    return read_control(Path(mount.control), request, RELOAD_TIMEOUT_S, who="the mount's process")


def _change_flags(point: str, kernel: Iterable[str]) -> int:
    flags = mount_flags(kernel)
    if os.statvfs(point).f_flag & _SEEN == flags & _SEEN and not flags & _MS_DIRSYNC:
        return 0
    if libc.function("mount")(None, os.fsencode(point), None, ctypes.c_ulong(flags | _MS_REMOUNT), None) == 0:
        return 0
    print(f"meshfs: {point}: the kernel refuses the options: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    return EXIT_FAILURE


def mount_flags(kernel: Iterable[str]) -> int:
    """Return mount(2)'s flags. A later option overrides an earlier one. Device files and set-user-id are always off."""
    flags = _MS_NOSUID | _MS_NODEV
    for option in kernel:
        flags |= _FLAGS.get(option, 0)
        flags &= ~_FLAGS.get(_CLEARS.get(option, ""), 0)
    return flags if flags & _MS_NOATIME else flags | _MS_RELATIME
