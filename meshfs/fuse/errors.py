"""Errors of FUSE requests: the error by which operations refuse a request, and the errno of any other error."""

import errno
import logging
import os

from meshfs import bugs

logger = logging.getLogger(__name__)


class FuseError(OSError):
    """Refuses a request with this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))


def errno_of(operation: str, error: Exception) -> int:
    """Return the errno that answers a request which failed with ``error``.

    An OSError keeps its errno. An OSError without an errno gives ETIMEDOUT if it is a TimeoutError, else EIO. Any
    other exception is a bug of meshfs, so it is reported, and the caller gets EIO.
    """
    if isinstance(error, OSError):
        return error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
    bugs.report(logger, f"{operation} (the caller got EIO)", error)
    return errno.EIO
