"""The one table errno <-> NTSTATUS, in both directions.

The exporter turns the errno of its disk into a status, the initiator turns the status into
the errno its caller sees; what matters travels through both and comes out the same.
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
    NtStatus.CANNOT_DELETE: errno.EPERM,
    NtStatus.LOGON_FAILURE: errno.EACCES,
    NtStatus.PRIVILEGE_NOT_HELD: errno.EPERM,
}


def status_from_errno(number: int) -> NtStatus:
    """The status a peer is told for ``number`` (positive); INTERNAL_ERROR when there is none."""
    return _STATUS_OF_ERRNO.get(number, NtStatus.INTERNAL_ERROR)


def errno_from_status(status: int) -> int:
    """The errno (positive) a caller sees for an error ``status``; EIO when there is none."""
    return _ERRNO_OF_STATUS.get(status, errno.EIO)


def status_text(status: int) -> str:
    """``STATUS_NAME``, also of those only other exporters send; the number when nobody knows it."""
    return _TEXTS.get(status) or f"NTSTATUS 0x{status:08x}"


_TEXTS: Final[dict[int, str]] = {
    **{number: name for name, number in vars(KnownStatus).items() if name.startswith("STATUS_")},
    **{int(status): f"STATUS_{status.name}" for status in NtStatus},
}
