"""Convert between errno and NTSTATUS, by tables. Pure.

The exporter converts the errno of its disk into a status, and the initiator converts the status into the errno that its
caller gets. Errors that a caller acts on, such as ENOSPC or EROFS, become the same errno again.
"""

import errno
from typing import Final

from smbprotocol.header import NtStatus as KnownStatus

from meshfs.smb.constants import NtStatus

_STATUS_OF_ERRNO: Final[dict[int, NtStatus]] = {
    errno.EIO: NtStatus.IO_DEVICE_ERROR,
    errno.ENODATA: NtStatus.DEVICE_DATA_ERROR,
    errno.EILSEQ: NtStatus.DEVICE_DATA_ERROR,
    errno.EREMOTEIO: NtStatus.IO_DEVICE_ERROR,
    errno.ENOSPC: NtStatus.DISK_FULL,
    errno.EDQUOT: NtStatus.DISK_FULL,
    errno.EROFS: NtStatus.MEDIA_WRITE_PROTECTED,
    errno.EACCES: NtStatus.ACCESS_DENIED,
    errno.EPERM: NtStatus.ACCESS_DENIED,
    errno.ENOENT: NtStatus.OBJECT_NAME_NOT_FOUND,
    errno.ENODEV: NtStatus.NO_SUCH_DEVICE,
    errno.ENXIO: NtStatus.NO_SUCH_DEVICE,
    errno.ENOMEDIUM: NtStatus.DEVICE_NOT_READY,
    errno.EBUSY: NtStatus.SHARING_VIOLATION,
    errno.EINVAL: NtStatus.INVALID_PARAMETER,
    errno.EOPNOTSUPP: NtStatus.NOT_SUPPORTED,
    errno.ENOMEM: NtStatus.INSUFFICIENT_RESOURCES,
    errno.EAGAIN: NtStatus.INSUFFICIENT_RESOURCES,
    errno.ETIMEDOUT: NtStatus.IO_TIMEOUT,
    errno.ECANCELED: NtStatus.CANCELLED,
    errno.EBADF: NtStatus.FILE_CLOSED,
    errno.EISDIR: NtStatus.FILE_IS_A_DIRECTORY,
    errno.ENOTDIR: NtStatus.NOT_A_DIRECTORY,
    errno.EEXIST: NtStatus.OBJECT_NAME_COLLISION,
    errno.ESTALE: NtStatus.FILE_INVALID,
}

_ERRNO_OF_STATUS: Final[dict[int, int]] = {
    NtStatus.IO_DEVICE_ERROR: errno.EIO,
    NtStatus.DEVICE_DATA_ERROR: errno.EIO,
    NtStatus.INTERNAL_ERROR: errno.EIO,
    NtStatus.UNSUCCESSFUL: errno.EIO,
    NtStatus.DISK_FULL: errno.ENOSPC,
    NtStatus.MEDIA_WRITE_PROTECTED: errno.EROFS,
    NtStatus.ACCESS_DENIED: errno.EACCES,
    NtStatus.OBJECT_NAME_NOT_FOUND: errno.ENOENT,
    NtStatus.OBJECT_PATH_NOT_FOUND: errno.ENOENT,
    NtStatus.NO_SUCH_FILE: errno.ENOENT,
    NtStatus.BAD_NETWORK_NAME: errno.ENOENT,
    NtStatus.NO_SUCH_DEVICE: errno.ENODEV,
    NtStatus.DEVICE_NOT_READY: errno.ENXIO,
    NtStatus.SHARING_VIOLATION: errno.EBUSY,
    NtStatus.FILE_LOCK_CONFLICT: errno.EBUSY,
    NtStatus.LOCK_NOT_GRANTED: errno.EBUSY,
    NtStatus.INVALID_PARAMETER: errno.EINVAL,
    NtStatus.NO_RANGES_PROCESSED: errno.EINVAL,
    NtStatus.OBJECT_NAME_INVALID: errno.EINVAL,
    NtStatus.NOT_SUPPORTED: errno.EOPNOTSUPP,
    NtStatus.INVALID_DEVICE_REQUEST: errno.EOPNOTSUPP,
    NtStatus.INSUFFICIENT_RESOURCES: errno.EAGAIN,
    NtStatus.NO_MEMORY: errno.ENOMEM,
    NtStatus.IO_TIMEOUT: errno.ETIMEDOUT,
    NtStatus.CANCELLED: errno.ECANCELED,
    NtStatus.FILE_IS_A_DIRECTORY: errno.EISDIR,
    NtStatus.NOT_A_DIRECTORY: errno.ENOTDIR,
    NtStatus.OBJECT_NAME_COLLISION: errno.EEXIST,
    NtStatus.FILE_INVALID: errno.ESTALE,
    NtStatus.CANNOT_DELETE: errno.EPERM,
    NtStatus.LOGON_FAILURE: errno.EACCES,
    NtStatus.PRIVILEGE_NOT_HELD: errno.EPERM,
}


def status_from_errno(number: int) -> NtStatus:
    """Return the status that a peer gets for the errno ``number`` (positive), or INTERNAL_ERROR if it is unknown."""
    return _STATUS_OF_ERRNO.get(number, NtStatus.INTERNAL_ERROR)


def errno_from_status(status: int) -> int:
    """Return the errno (positive) that a caller gets for an error ``status``, or EIO if the status is unknown."""
    return _ERRNO_OF_STATUS.get(status, errno.EIO)


def status_text(status: int) -> str:
    """Return the ``STATUS_...`` name of a status, or its number if it is unknown.

    The names include statuses that only other implementations send.
    """
    return _TEXTS.get(status) or f"NTSTATUS 0x{status:08x}"


_TEXTS: Final[dict[int, str]] = {
    **{number: name for name, number in vars(KnownStatus).items() if name.startswith("STATUS_")},
    **{int(status): f"STATUS_{status.name}" for status in NtStatus},
}
