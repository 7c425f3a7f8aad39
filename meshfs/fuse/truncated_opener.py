"""Writes and truncations of an opener that truncated its disk. The bytes that it skips are zeroed at the disk's owner.

    write      claim -> zero the stale bytes below -> write
    truncate   claim -> zero the stale bytes below -> move the end

`truncation.py` decides which bytes are stale. This module zeroes them, and drops the kernel's cached pages:

    before the zeroing    Otherwise a dirty page of another program could be written over the zeros later.
    after the write       Otherwise a page that was read in between would keep old bytes. The pages of the write
                          itself are dropped as well: the kernel may have dropped its copy of them, and read them
                          again, before the write reached the owner.

A write(2) may hold its own pages locked until it is answered. Such a page was not read meanwhile, so it has no old
bytes. Therefore the drop waits for it only for a moment. The kernel drops the page later, when it is unlocked.

A long gap takes several calls of the handle's ``zero``. Each of them ends within the mount's I/O timeout, but together
they may take longer.
"""

from typing import Protocol

import trio

from meshfs import limits
from meshfs.fuse.page_cache import whole_pages
from meshfs.fuse.truncation import ClaimedRanges, Truncation
from meshfs.fuse.types import Pages
from meshfs.loop.worker import enter_trio


class ZeroableDisk(Protocol):
    """Declares the methods of an open disk that a truncated opener uses."""

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int: ...

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int: ...


class TruncatedOpener:
    """Writes and truncates for one opener. ``pages`` is None if no pages of the disk can be dropped."""

    __slots__ = ("_changed", "_handle", "_inode", "_pages", "_state", "_write_through")

    def __init__(self, handle: ZeroableDisk, inode: int, pages: Pages | None, *, write_through: bool) -> None:
        self._handle = handle
        self._inode = inode
        self._pages = pages
        self._write_through = write_through
        self._state = Truncation()
        self._changed: trio.Event | None = None

    async def truncate(self, size: int) -> None:
        """Truncate to ``size``, which must not be past the disk's end, as ftruncate(2) does. Raises OSError."""
        claim = await self._claim(size, size)
        skipped = claim.gaps[0][0] if claim.gaps else size
        try:
            await self._zero(claim, size)
        finally:
            self._end(claim, size)
            await self._drop(skipped, size)
        self._state.truncate(size)

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write, and return the number of bytes written, as the handle's own write does. Raises OSError."""
        stop = offset + len(data)
        claim = await self._claim(offset, stop)
        if not claim.gaps:
            return await self._write(claim, offset, data)
        skipped, own_page = claim.gaps[0][0], whole_pages(offset, offset)[0]
        try:
            await self._zero(claim, own_page)
            return await self._write(claim, offset, data)
        finally:
            if claim.gaps:
                self._end(claim, offset)
            await self._drop(skipped, own_page)
            await self._drop(own_page, stop, limits.FUSE_DROP_OWN_PAGES_TIMEOUT_S)

    async def _write(self, claim: ClaimedRanges, offset: int, data: bytes | memoryview) -> int:
        count = 0
        try:
            count = await self._handle.write(offset, data, write_through=self._write_through)
        finally:
            self._end(claim, offset + count)
        return count

    async def _claim(self, start: int, stop: int) -> ClaimedRanges:
        while self._state.waits(stop):
            await enter_trio()
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()
        return self._state.claim(start, stop)

    def _end(self, claim: ClaimedRanges, written_to: int) -> None:
        self._state.end(claim, written_to)
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _zero(self, claim: ClaimedRanges, unlocked: int) -> None:
        """Zero the gaps of a claim.

        The call itself may hold pages behind ``unlocked`` locked. Only the pages before are dropped here.
        """
        while claim.gaps:
            await enter_trio()
            first, last = claim.gaps[0]
            await self._drop(first, min(last, unlocked))
            while claim.gaps and claim.gaps[0][1] == last:
                start, stop = claim.gaps[0]
                claim.zeroed(await self._handle.zero(start, stop - start, write_through=self._write_through))

    async def _drop(self, start: int, stop: int, timeout_s: float = limits.FUSE_DROP_PAGES_TIMEOUT_S) -> None:
        if self._pages is not None and start < stop:
            await enter_trio()
            await self._pages.drop(self._inode, *whole_pages(start, stop), timeout_s)
