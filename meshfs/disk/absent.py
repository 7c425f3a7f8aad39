"""AbsentDisk takes the place of a disk while its device or image is missing."""

import errno
from collections.abc import Sequence
from typing import Final

from meshfs.disk.base import DiskRequest
from meshfs.granules import NO_GRANULES


class AbsentDisk:
    """Serves as a `meshfs.disk.base.Disk` of size 0. Its I/O ends with an error at once."""

    #: The errno of every I/O while the device or image is missing.
    errno: Final = errno.EIO

    size_bytes = 0
    logical_block_size_bytes = 512
    physical_block_size_bytes = 4096
    rotational = False
    read_only = False
    granules = NO_GRANULES
    verifier = ""

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        for request in requests:
            request.result = -self.errno
            request.on_done(request)

    def close(self) -> None:
        """Do nothing: an absent disk holds no descriptor."""
