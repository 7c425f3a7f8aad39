"""Inodes whose cached pages must not be read any more, and the task that has the kernel drop them."""

from collections.abc import Sequence

import trio

from meshfs.fuse.types import Pages


class GonePages:
    """Collects inodes of disks that are gone (or grew); ``run`` has their pages dropped."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._changed = trio.Event()

    def add(self, inodes: Sequence[int]) -> None:
        self._inodes.update(inodes)
        self._changed.set()

    async def run(self, pages: Pages) -> None:
        """Have the pages dropped until cancelled.

        This takes one inode after the other, because the kernel waits for requests in flight on their pages.
        """
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            inodes, self._inodes = self._inodes, set()
            for inode in inodes:
                await pages.drop_file(inode)
