"""Discard granules of a disk: tell the device, or the file system of an image, that their data is not needed.

    block device    ioctl BLKDISCARD, which the device carries out as TRIM, UNMAP or DEALLOCATE
    image           fallocate PUNCH_HOLE, by which the file system frees the blocks

A discard of a device is a hint: afterwards the range may read as anything until it is written again. So only whole
granules are discarded (`meshfs.granules`), and never a part of one.

A disk has at most one discard at its device. Devices carry out discards one after the other anyway, and BLKDISCARD
blocks a thread (Linux has no asynchronous form before 6.12). So a disk that hangs takes one thread and not all.

A failed discard damages nothing. If the device cannot discard at all, the disk has no granules from then on.
"""

import errno
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from meshfs import limits
from meshfs.disk.base import DiskRequest, Engine
from meshfs.disk.file.zero import PUNCH
from meshfs.granules import NO_GRANULES, Granules

#: The errnos of a device or a file system that cannot discard. If a disk refuses the command, the kernel's SCSI driver
#: gives EREMOTEIO once and then EOPNOTSUPP. ENODEV is not among them, because a device that was removed gives it.
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EREMOTEIO)


class _Target(Protocol):
    """Lists the parts of a disk that a discard uses."""

    engine: Engine
    fd: int
    #: The granules of the disk, or NO_GRANULES if the disk cannot discard.
    granules: Granules


class Discards:
    """Discards ranges of one disk, one after the other. ``ended`` gets each request with its length, or -errno.

    Until then the caller holds the range of the request in the disk's WriteOrder.
    """

    __slots__ = ("_again", "_disk", "_ended", "_is_device", "_waiting")

    def __init__(self, disk: _Target, ended: Callable[[DiskRequest, int], None], *, is_device: bool) -> None:
        self._disk = disk
        self._ended = ended
        self._is_device = is_device
        # The requests in order of arrival. The first one is at the device.
        self._waiting: deque[DiskRequest] = deque()
        self._again = 0

    def add(self, request: DiskRequest) -> None:
        """Discard the granules of the request's range, which lies inside the disk, when it is the request's turn."""
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._start()

    def _start(self) -> None:
        disk, request = self._disk, self._waiting[0]
        if not disk.granules:
            # The request before this one has shown that the device cannot discard.
            self._end(-errno.EOPNOTSUPP)
            return
        start, stop = disk.granules.whole(request.offset, request.offset + request.length)
        if self._is_device:
            disk.engine.queue_discard(disk.fd, start, stop - start, self._done)
        else:
            disk.engine.queue_fallocate(disk.fd, PUNCH, start, stop - start, self._done)
        disk.engine.flush()

    def _done(self, result: int) -> None:
        if result in (-errno.EAGAIN, -errno.EINTR) and self._again < limits.DISK_AGAIN_MAX:
            self._again += 1
            self._start()
            return
        if -result in _UNSUPPORTED:
            self._disk.granules = NO_GRANULES
            result = -errno.EOPNOTSUPP
        self._end(result)

    def _end(self, result: int) -> None:
        request = self._waiting.popleft()
        self._again = 0
        if self._waiting:
            self._start()
        self._ended(request, request.length if result >= 0 else result)
