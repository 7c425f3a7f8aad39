"""What stands for a disk while there is no device or image."""

import errno
from collections.abc import Sequence
from typing import Final

from meshfs.disk.base import DiskRequest


class AbsentDisk:
    """A disk.base.Disk of no size, whose I/O ends with an error at once."""

    #: What the I/O of a disk that is away ends with.
    errno: Final = errno.EIO

    size_bytes = 0
    logical_block_size_bytes = 512
    physical_block_size_bytes = 4096
    rotational = False
    read_only = False
    verifier = ""

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        for request in requests:
            request.result = -self.errno
            request.on_done(request)

    def close(self) -> None:
        """There is nothing to close."""
