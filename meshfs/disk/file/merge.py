"""Write parts of blocks by direct I/O: read the blocks at both ends, merge, and write whole blocks.

    offset    first            request.offset             end              stop
              |-- kept bytes --|======== new bytes =======|-- kept bytes --|
    read      [first block]                               [last block]
    written   [first ........................................... stop)

The caller must make sure, by WriteOrder, that no other write to [first, stop) is in progress at the same time. The
merged blocks would undo that write.
"""

from typing import Protocol

from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.disk.base import DiskRequest, Done, Engine
from meshfs.disk.file.transfer import Transfer


class _Target(Protocol):
    """Lists the parts of a disk that a merge uses."""

    engine: Engine
    fd: int
    pool: BufferPool


class BlockMerge:
    """Performs one merged write. `start` begins it, and ``done(request.length or -errno)`` is called once at its end.

    The range [first, stop) must be inside the disk. The constructor raises MemoryError if the pool has no buffer.
    """

    __slots__ = ("_block_bytes", "_bounce", "_disk", "_done", "_error", "_first", "_reads", "_request", "_stop")

    def __init__(self, disk: _Target, request: DiskRequest, block_bytes: int) -> None:
        mask = block_bytes - 1
        self._disk = disk
        self._request = request
        self._block_bytes = block_bytes
        self._first = request.offset & ~mask
        self._stop = (request.offset + request.length + mask) & ~mask
        # The range is wider than the request by less than two blocks. Every buffer has tailroom for them.
        self._bounce = disk.pool.acquire(request.length)
        self._reads = 0
        self._error = 0
        self._done: Done

    def start(self, done: Done) -> None:
        self._done = done
        blocks = []
        if self._request.offset != self._first:
            blocks.append(self._first)
        last = self._stop - self._block_bytes
        if self._request.offset + self._request.length != self._stop and last not in blocks:
            blocks.append(last)
        self._reads = len(blocks)
        for block in blocks:
            self._transfer(block, self._block_bytes).start(self._block_read)

    def _transfer(self, offset: int, length: int, *, write: bool = False) -> Transfer:
        disk = self._disk
        address = self._bounce.address + HEADROOM_BYTES + offset - self._first
        dsync = write and self._request.write_through
        mask = self._block_bytes - 1
        return Transfer(disk.engine, disk.fd, address, length, offset, mask, write=write, dsync=dsync)

    def _block_read(self, result: int) -> None:
        if result < 0:
            self._error = result
        self._reads -= 1
        if self._reads:
            return
        if self._error:
            self._end(self._error)
            return
        request = self._request
        assert request.buffer is not None
        begin = HEADROOM_BYTES + request.offset - self._first
        source = request.buffer.view[request.start : request.start + request.length]
        self._bounce.view[begin : begin + request.length] = source
        self._transfer(self._first, self._stop - self._first, write=True).start(self._end)

    def _end(self, result: int) -> None:
        self._bounce.release()
        self._done(self._request.length if result >= 0 else result)
