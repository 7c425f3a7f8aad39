"""Notifications of folders in which a file appears, disappears, is renamed, or is closed after writing: inotify(7).

A folder is watched by its inode. So a watch follows a renamed folder, and does not notice a new folder at the old path.
Therefore the caller adds the watch again from time to time. The call then returns the number of the same watch, or that
of a new watch if another folder is at the path.

Writing to a file causes no notification, because the exporter itself writes to the images in a folder.

Layout: struct inotify_event of linux/inotify.h (watch, mask, cookie, length of the name, then the name).
"""

import os
import struct
from pathlib import Path
from typing import Final

import trio

from meshfs import limits
from meshfs.linux import libc

_CLOSE_WRITE: Final = 0x008
_MOVED: Final = 0x040 | 0x080
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_SELF: Final = 0x400 | 0x800
_ONLYDIR: Final = 0x0100_0000
_MASK: Final = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF | _ONLYDIR
_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("=iIII")
_READ_BYTES: Final = 64 * 1024

_init: Final = libc.function("inotify_init1")
_add_watch: Final = libc.function("inotify_add_watch")
_rm_watch: Final = libc.function("inotify_rm_watch")


def changed_watches(data: bytes) -> tuple[set[int], bool]:
    """Return the watches that the events in ``data`` belong to, and whether events were lost."""
    watches: set[int] = set()
    lost = False
    start = 0
    while start + _EVENT.size <= len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, start)
        if mask & _OVERFLOW:
            lost = True
        else:
            watches.add(watch)
        start += _EVENT.size + length
    return watches, lost


class FolderChanges:
    """Watches folders. Raises OSError if the kernel gives no inotify descriptor."""

    def __init__(self) -> None:
        self._fd = libc.check(_init(os.O_NONBLOCK | os.O_CLOEXEC))

    def watch(self, folder: Path) -> int:
        """Watch the folder from now on, and return the number of its watch. Blocks if the file system is stuck.

        Raises OSError if there is no folder, or if the user has no watches left.
        """
        return libc.check(_add_watch(self._fd, os.fsencode(folder), _MASK))

    def forget(self, watch: int) -> None:
        """Stop a watch. The kernel may have ended it already, because the folder was removed."""
        _rm_watch(self._fd, watch)

    async def wait(self) -> set[int] | None:
        """Wait for changes, and return the watches of the folders that have changed, or None if any may have.

        Changes within DEVICE_SETTLE_S count as one.
        """
        await trio.lowlevel.wait_readable(self._fd)
        watches, lost = self._drain()
        await trio.sleep(limits.DEVICE_SETTLE_S)
        more, lost_too = self._drain()
        return None if lost or lost_too else watches | more

    def _drain(self) -> tuple[set[int], bool]:
        watches: set[int] = set()
        lost = False
        for _ in range(limits.DEVICE_MESSAGES_MAX):
            try:
                more, lost_now = changed_watches(os.read(self._fd, _READ_BYTES))
            except BlockingIOError:
                break
            watches |= more
            lost = lost or lost_now
        return watches, lost

    def close(self) -> None:
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)
