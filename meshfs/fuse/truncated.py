"""Writes and truncations of an opener that truncated its disk: what it skips is zeroed at the disk's owner.

    write      claim -> zero what is owed below -> write
    truncate   claim -> zero what is owed below -> move the end

Which bytes those are decides `truncation.py`; here they are zeroed, and the kernel's cached pages are dropped:

    before the zeroing    so that a dirty page of another program does not come over the zeros later
    after the write       so that no page keeps old bytes that was read in between. That includes the pages of the
                          write itself, because the kernel's copy of them may have been dropped, and read again,
                          before the write reached the owner

A write(2) may hold its own pages locked until it is answered. Such a page was not read, so it has no old bytes to
show. Therefore it is waited for only for a moment; the kernel drops it later, when it is unlocked.

A long gap takes several calls of the handle's ``zero``, each of which ends within the mount's I/O timeout; the
whole may take longer as long as they succeed.
"""

from typing import Protocol

import trio

from meshfs import limits
from meshfs.fuse.page_cache import whole_pages
from meshfs.fuse.truncation import ClaimedRanges, Truncation
from meshfs.fuse.types import Pages
from meshfs.loop.worker import enter_trio


class ZeroableDisk(Protocol):
    """What a truncated opener needs of an open disk."""

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int: ...

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int: ...


class TruncatedOpener:
    """``pages`` is None where the kernel keeps no pages of the disk, or cannot be asked to drop them."""

    __slots__ = ("_changed", "_handle", "_inode", "_pages", "_state", "_write_through")

    def __init__(self, handle: ZeroableDisk, inode: int, pages: Pages | None, *, write_through: bool) -> None:
        self._handle = handle
        self._inode = inode
        self._pages = pages
        self._write_through = write_through
        self._state = Truncation()
        self._changed: trio.Event | None = None

    async def truncate(self, size: int) -> None:
        """Do an ftruncate(2) to ``size``, which lies inside the disk. Raises OSError."""
        claim = await self._claim(size, size)
        skipped = claim.gaps[0][0] if claim.gaps else size
        try:
            await self._zero(claim, size)
        finally:
            self._end(claim, size)
            await self._drop(skipped, size)
        self._state.truncate(size)

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write, and return the count written, as the handle's own write does. Raises OSError."""
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
        """Zero the gaps of a claim; behind ``unlocked`` there are pages that the call itself may hold locked."""
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
