"""Drop the kernel's cached pages of this mount after a disk has changed without the kernel's knowledge.

A notification (FUSE_NOTIFY_INVAL_INODE with a range) asks the kernel to drop pages. It is written to the session's
device. The kernel first writes back the dirty pages of the range, by requests to this very process. It also waits for
every locked page of the range, and another request may hold a page until that request is answered. So a thread writes
the notification. `PageCache.drop` waits for the thread only for a limited time, and the thread then ends later.

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
    """Drops cached pages of one mount. Call ``close`` before the session's descriptor is closed."""

    def __init__(self, device_fd: int) -> None:
        # The threads need a descriptor of their own. If a thread is late, the number of the session's descriptor may
        # already belong to another file.
        self._fd = os.dup(device_fd)
        self._lock = threading.Lock()
        self._users = 1
        self._limiter = trio.CapacityLimiter(limits.FUSE_WORKERS_MAX)

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        """Write back the dirty pages between the offsets ``start`` and ``stop``, then drop all pages between them.

        Both offsets must be page boundaries. This must be called in a trio task. After ``timeout_s`` it returns, and
        the thread finishes the work later.
        """
        with trio.move_on_after(timeout_s) as scope:
            await trio.to_thread.run_sync(
                self._notify, inode, start, stop - start, abandon_on_cancel=True, limiter=self._limiter
            )
        if scope.cancelled_caught:
            logger.debug("the pages of bytes %d to %d of inode %d are still locked by requests", start, stop, inode)

    async def drop_file(self, inode: int) -> None:
        """Write back and drop all pages of a file, and drop its attributes, without a time limit."""
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
            # ENOENT says that the kernel does not know the inode, so it has no pages. Any other error says that the
            # mount is ending.
            logger.debug(
                "the pages of inode %d, offset %d, length %d, are not dropped: %s", inode, offset, length, error
            )
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self._fd)
