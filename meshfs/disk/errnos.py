"""Translate the errnos of a disk. Each has a meaning for the caller, and a meaning for the state of the disk. Pure.

Theory. For a block device, the kernel answers a read, write, flush, fallocate or discard with one of the errnos that
block/blk-core.c derives from a blk_status_t. For an image, it may answer with any errno of the file system. A caller
at another node knows neither of these tables. So only four errnos may leave the owner:

    EIO      the disk could not do the operation, and a retry is of no use
    ENOSPC   there is no room: the file system under a sparse image, or the pool under a thin device, is full
    EROFS    the disk is read-only now
    EAGAIN   the owner lacks memory or a slot: the initiator retries within its time limit

A discard may also give EOPNOTSUPP, because not every disk can discard. That is no fault of the disk.

Each row of the table also says what follows for the disk (`Sign`):

    NOTHING    the request met a passing shortage of this machine, and the disk is well
    FAILED     the disk answered with an error
    GONE       the device, or the file system that holds the image, went away

The errno alone does not show that a device was removed. After a removal Linux sets the device's capacity to 0. A read
then ends early, a write lies beyond the end (ENOSPC), and a fallocate has an invalid range (EINVAL). A device that
shrank gives the same errnos beyond its new end. A thin pool without free space also gives ENOSPC, but its device keeps
its size. So `verdict` needs the size of the device as it is now.

ETIMEDOUT must not leave the owner. An initiator would take it for its own time limit, and then would not count
unflushed writes as lost.

Sources: blk_errors in block/blk-core.c, blkdev_write_iter in block/fops.c; errno(3), write(2), fallocate(2), fsync(2).
"""

import enum
import errno
from collections.abc import Mapping
from typing import Final, NamedTuple

from meshfs.disk.base import Op


class Sign(enum.Enum):
    """Tells what an errno means for the state of the disk. The header of this module explains the values."""

    NOTHING = enum.auto()
    FAILED = enum.auto()
    GONE = enum.auto()


class ErrnoRow(NamedTuple):
    """Holds the errno for the caller, the meaning for the disk, and the cause."""

    answer: int
    sign: Sign
    why: str


_N, _F, _G = Sign.NOTHING, Sign.FAILED, Sign.GONE


#: One row for each errno that block devices or file systems are known to give.
ROWS: Final[Mapping[int, ErrnoRow]] = {
    # The medium, the target, or the path to the target failed.
    errno.EIO: ErrnoRow(errno.EIO, _F, "the device or the file system could not do it"),
    errno.ENODATA: ErrnoRow(errno.EIO, _F, "a medium error: these blocks are lost (BLK_STS_MEDIUM)"),
    errno.EILSEQ: ErrnoRow(errno.EIO, _F, "the protection information does not match (BLK_STS_PROTECTION)"),
    errno.EREMOTEIO: ErrnoRow(errno.EIO, _F, "the target failed for good (BLK_STS_TARGET)"),
    errno.ENOLINK: ErrnoRow(errno.EIO, _F, "the way to the target failed (BLK_STS_TRANSPORT)"),
    errno.ETIMEDOUT: ErrnoRow(errno.EIO, _F, "the device, or a server, did not answer in time (BLK_STS_TIMEOUT)"),
    errno.ETIME: ErrnoRow(errno.EIO, _F, "the command's duration limit passed (BLK_STS_DURATION_LIMIT)"),
    errno.EBADE: ErrnoRow(errno.EIO, _F, "another host holds a reservation (BLK_STS_RESV_CONFLICT)"),
    errno.EREMCHG: ErrnoRow(errno.EIO, _F, "device mapper gave a request back (BLK_STS_DM_REQUEUE)"),
    errno.ETOOMANYREFS: ErrnoRow(errno.EIO, _F, "too many open zones (BLK_STS_ZONE_OPEN_RESOURCE)"),
    errno.EOVERFLOW: ErrnoRow(errno.EIO, _F, "too many active zones (BLK_STS_ZONE_ACTIVE_RESOURCE)"),
    errno.EUCLEAN: ErrnoRow(errno.EIO, _F, "the file system found itself damaged (EFSCORRUPTED)"),
    errno.EBADMSG: ErrnoRow(errno.EIO, _F, "a checksum of the file system does not match (EFSBADCRC)"),
    errno.ENOKEY: ErrnoRow(errno.EIO, _F, "the key of an encrypted image was removed"),
    # Devices and file systems that went away.
    errno.ENODEV: ErrnoRow(errno.EIO, _G, "the device is offline or removed (BLK_STS_OFFLINE)"),
    errno.ENXIO: ErrnoRow(errno.EIO, _G, "no such device or address: it was removed"),
    errno.ENOMEDIUM: ErrnoRow(errno.EIO, _G, "the medium was taken out"),
    errno.ESHUTDOWN: ErrnoRow(errno.EIO, _G, "the transport, or the file system, was shut down"),
    errno.ENOTCONN: ErrnoRow(errno.EIO, _G, "the process behind a FUSE file system ended"),
    errno.ESTALE: ErrnoRow(errno.EIO, _G, "the image was removed at the file server"),
    # There is no room. A device that still has its size is thin. `verdict` handles devices that were removed or shrank.
    errno.ENOSPC: ErrnoRow(
        errno.ENOSPC, _F, "the pool of a thin device, or the file system of a sparse image, is full"
    ),
    errno.EDQUOT: ErrnoRow(errno.ENOSPC, _F, "the quota of the image's owner is used up"),
    errno.EFBIG: ErrnoRow(errno.EIO, _F, "the image is larger than its file system, or RLIMIT_FSIZE, allows"),
    # The write is not permitted. Read-only devices and seals give EPERM, read-only file systems give EROFS.
    errno.EROFS: ErrnoRow(errno.EROFS, _F, "the file system was made read-only, perhaps after an error"),
    errno.EPERM: ErrnoRow(errno.EROFS, _F, "the device was set read-only, or the image sealed or made immutable"),
    errno.EACCES: ErrnoRow(errno.EIO, _F, "the file server refuses what it allowed at the open"),
    errno.ETXTBSY: ErrnoRow(errno.EIO, _F, "the image became swap space or a running program"),
    # The kernel rejects the request. This is never the caller's fault, because a caller may use any alignment.
    errno.EINVAL: ErrnoRow(errno.EIO, _F, "the alignment for direct I/O is another than at the open"),
    errno.EOPNOTSUPP: ErrnoRow(errno.EIO, _F, "the device does not do this operation (BLK_STS_NOTSUPP)"),
    errno.EBADF: ErrnoRow(errno.EIO, _F, "the descriptor does not allow it: an error of the exporter"),
    errno.EFAULT: ErrnoRow(errno.EIO, _F, "the buffer's memory is not there: an error of the exporter"),
    errno.ECANCELED: ErrnoRow(errno.EIO, _F, "the kernel ended the request with its ring"),
    # The machine has a passing shortage.
    errno.ENOMEM: ErrnoRow(errno.EAGAIN, _N, "no memory (BLK_STS_RESOURCE)"),
    errno.ENOBUFS: ErrnoRow(errno.EAGAIN, _N, "no buffers for the network of a file server"),
    errno.EAGAIN: ErrnoRow(errno.EAGAIN, _N, "it would have to wait (BLK_STS_AGAIN), DISK_AGAIN_MAX times in a row"),
    errno.EINTR: ErrnoRow(errno.EAGAIN, _N, "interrupted, DISK_AGAIN_MAX times in a row"),
    errno.EBUSY: ErrnoRow(errno.EAGAIN, _N, "no free slot at the device (BLK_STS_DEV_RESOURCE)"),
}
#: The row for an errno that the table does not have.
UNKNOWN: Final = ErrnoRow(errno.EIO, _F, "disks are not known to give this errno")

_OF_A_WRITE: Final = (errno.EIO, errno.EAGAIN, errno.ENOSPC, errno.EROFS)
#: The errnos that an operation may return, if they are fewer than those of a write. A read needs no room. A flush only
#: writes data that was accepted before, so it cannot fail for lack of permission.
_ANSWERS: Final[Mapping[Op, tuple[int, ...]]] = {
    Op.READ: (errno.EIO, errno.EAGAIN),
    Op.FLUSH: (errno.EIO, errno.EAGAIN, errno.ENOSPC),
}
_BEHIND_THE_END: Final = (errno.ENOSPC, errno.EINVAL)


def verdict(number: int, op: Op, *, stop: int, device_bytes: int | None) -> tuple[int, Sign]:
    """Return the errno for the caller, and the meaning for the disk.

    ``number``         the kernel's errno (positive)
    ``stop``           the offset at which the request ends, in bytes, or 0 for a flush
    ``device_bytes``   the size of the block device now, or None for an image or if the size is unknown
    """
    row = ROWS.get(number, UNKNOWN)
    if device_bytes is not None and row.sign is not Sign.NOTHING:
        if not device_bytes:
            return errno.EIO, Sign.GONE
        if device_bytes < stop and number in _BEHIND_THE_END:
            return errno.EIO, Sign.FAILED
    if op is Op.DISCARD and number == errno.EOPNOTSUPP:
        return number, Sign.NOTHING
    if row.answer not in _ANSWERS.get(op, _OF_A_WRITE):
        return errno.EIO, row.sign
    return row.answer, row.sign
