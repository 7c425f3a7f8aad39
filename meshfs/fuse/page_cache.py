"""The kernel's cached pages of this mount, dropped where a disk changed without the kernel's knowledge.

The order goes to the kernel as a notification written to the session's device (FUSE_NOTIFY_INVAL_INODE with a
range). The kernel first writes back the dirty pages of the range, which are requests to this very process, and
waits for every locked page of it, which another request may hold until it is answered. So a notification is
written in a thread, and nobody waits for it without a bound: the thread then ends later, by itself.

Layout: struct fuse_out_header and fuse_notify_inval_inode_out of linux/fuse.h.
"""

import logging
import mmap
import os
import struct
import threading
from typing import Final

import trio

from meshfs import limits

logger = logging.getLogger(__name__)

PAGE_BYTES: Final = mmap.PAGESIZE
_INVAL_INODE: Final = 2
# len, error (the notification's code), unique (0); ino, off, len
_NOTIFICATION: Final = struct.Struct("<IiQ Qqq")


def whole_pages(start: int, stop: int) -> tuple[int, int]:
    """Return the range of bytes that the pages touched by [start, stop) cover."""
    return start // PAGE_BYTES * PAGE_BYTES, -(-stop // PAGE_BYTES) * PAGE_BYTES


class PageCache:
    """The pages of one mount; ``close`` it before the session's descriptor is closed."""

    def __init__(self, device_fd: int) -> None:
        # A descriptor of its own: when a thread is late, the session's number may already be another file's.
        self._fd = os.dup(device_fd)
        self._lock = threading.Lock()
        self._users = 1
        self._limiter = trio.CapacityLimiter(limits.FUSE_WORKERS_MAX)

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        """Write back the dirty ones of the whole pages from ``start`` to ``stop``, and drop all of them, in order.

        In a trio task. After ``timeout_s`` it returns and leaves the rest to the thread.
        """
        with trio.move_on_after(timeout_s) as scope:
            await trio.to_thread.run_sync(
                self._notify, inode, start, stop - start, abandon_on_cancel=True, limiter=self._limiter
            )
        if scope.cancelled_caught:
            logger.debug("pages %d to %d of inode %d are held by others", start, stop, inode)

    async def drop_file(self, inode: int) -> None:
        """Do the same for all pages of a file, and drop its attributes, without a bound on the time."""
        await trio.to_thread.run_sync(self._notify, inode, 0, 0, abandon_on_cancel=True, limiter=self._limiter)

    def close(self) -> None:
        self._leave()

    def _notify(self, inode: int, offset: int, length: int) -> None:
        with self._lock:
            if not self._users:
                return
            self._users += 1
        try:
            os.write(self._fd, _NOTIFICATION.pack(_NOTIFICATION.size, _INVAL_INODE, 0, inode, offset, length))
        except OSError as error:
            # ENOENT: the kernel has no such inode, hence no pages of it. Others: the mount is ending.
            logger.debug("pages %d+%d of inode %d are not dropped: %s", offset, length, inode, error)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self._fd)
