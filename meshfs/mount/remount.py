"""`mount -o remount` and `meshctl reload`: asking the mount's process to change, and the kernel for its flags.

mount(8) calls its helper for a remount as for a mount, with the options of /etc/fstab, or else those
the kernel lists, and then the ones given; it leaves the system call to the helper.
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

# linux/mount.h; statvfs(3) gives the same bits.
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
    """Remount, and return the exit status. What was refused is printed to standard error."""
    point = os.path.realpath(options.mountpoint)
    try:
        outcome = ReloadRecord(ask_reload(Path(point), options.said, os.path.abspath(options.config)).raw)
    except NoAnswer as error:
        print(f"meshfs: {options.mountpoint}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    if outcome.failure:
        print(f"meshfs: not changed: {outcome.failure}", file=sys.stderr)
        return EXIT_CONFIG
    for line in outcome.refused:
        print(f"meshfs: {line}", file=sys.stderr)
    return EXIT_FAILURE if outcome.refused else _change_flags(point, options.kernel)


def ask_reload(point: Path, said: Sequence[str] = (), config: str = "") -> Fields:
    """Have the mount reload, and return what came of it (`ReloadRecord`). Raises NoAnswer."""
    mount = MountRecord(read_mount(point).raw)
    if mount.is_partial:
        raise NoAnswer("only root and the user whose process it is may reload this mount", NOT_ALLOWED)
    if not mount.control:
        raise NoAnswer("its process has no control socket; send it SIGHUP, and see its log for what came of it")
    request = {"verb": "reload", "options": list(said), "config": config}
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
    """Return mount(2)'s flags; a later option takes back an earlier one. Devices and set-user-id are always off."""
    flags = _MS_NOSUID | _MS_NODEV
    for option in kernel:
        flags |= _FLAGS.get(option, 0)
        flags &= ~_FLAGS.get(_CLEARS.get(option, ""), 0)
    return flags if flags & _MS_NOATIME else flags | _MS_RELATIME
