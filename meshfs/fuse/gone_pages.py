"""Collect the inodes whose cached pages must not be read any more, and make the kernel drop these pages."""

from collections.abc import Sequence

import trio

from meshfs.fuse.types import Pages


class GonePages:
    """Collects the inodes of disks that are gone or grew. ``run`` drops their pages."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._changed = trio.Event()

    def add(self, inodes: Sequence[int]) -> None:
        self._inodes.update(inodes)
        self._changed.set()

    async def run(self, pages: Pages) -> None:
        """Drop the pages until cancelled.

        Only one inode is handled at a time. The kernel waits for requests in flight on the pages, and each wait keeps
        a thread busy.
        """
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            inodes, self._inodes = self._inodes, set()
            for inode in inodes:
                await pages.drop_file(inode)
