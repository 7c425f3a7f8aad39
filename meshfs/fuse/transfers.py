"""READ and WRITE, the hot path. A request costs one call, one look-up in a dictionary, and a call of the disk's handle.

The library of a front end calls these two methods directly. They raise the library's own error (``refusal``), so that
no further call per request has to translate errors.
"""

import errno
from collections.abc import Callable, Mapping

from meshfs.fuse.errors import FuseError, errno_of
from meshfs.fuse.handles import OpenFile


class Transfers:
    """Answers READ and WRITE of the open ``files``. ``refusal`` makes the library's error from an errno."""

    def __init__(self, files: Mapping[int, OpenFile], refusal: Callable[[int], Exception] = FuseError) -> None:
        #: The bytes of data of all writes in progress.
        self.writes_bytes = 0
        self._files = files
        self._refusal = refusal

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        try:
            return await self._files[fh].handle.read(offset, size)
        except Exception as error:
            raise self._refusal(errno_of("read", error)) from error

    async def write(self, fh: int, offset: int, data: bytes | memoryview) -> int:
        opened = self._files[fh]
        room_bytes = opened.size_bytes - offset
        if len(data) > room_bytes:
            if room_bytes <= 0:
                raise self._refusal(errno.ENOSPC)
            data = memoryview(data)[:room_bytes]
        self.writes_bytes += (size := len(data))
        try:
            if opened.truncated is not None:
                return await opened.truncated.write(offset, data)
            return await opened.handle.write(offset, data, write_through=opened.write_through)
        except Exception as error:
            raise self._refusal(errno_of("write", error)) from error
        finally:
            self.writes_bytes -= size
