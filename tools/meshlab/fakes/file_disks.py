"""Open disks on files and devices for tests, with a chosen engine that runs while the disk is open."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from meshfs.disk.base import Engine
from meshfs.disk.engines.aio import AioEngine
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.disk.engines.uring import UringEngine
from meshfs.disk.file.claim import open_disk
from meshfs.disk.file.disk import FileDisk
from meshfs.model import Cache
from meshlab.suites.disk import DiskCase

#: Engines with few slots, so that a test overflows them.
SMALL_ENGINES: Final[dict[str, Callable[[], Engine]]] = {
    "io_uring": lambda: UringEngine(entries=8, in_flight_max=16),
    "aio": lambda: AioEngine(in_flight_max=16),
    "threads": lambda: ThreadEngine(threads=4),
}
CACHES: Final = tuple(Cache)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Run the engine, which delivers completions until the block ends, and then close it."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


@asynccontextmanager
async def opened(path: Path, engine_name: str, cache: Cache, *, read_only: bool = False) -> AsyncIterator[FileDisk]:
    """Open the disk at ``path`` on a small engine, and close both at the end of the block."""
    async with running(SMALL_ENGINES[engine_name]()) as engine:
        disk = await open_disk(path, engine=engine, cache=cache, read_only=read_only)
        try:
            yield disk
        finally:
            disk.close()


def case_of(disk: FileDisk, path: Path) -> DiskCase:
    return DiskCase(disk, lambda: contents_of(path))


def contents_of(path: Path) -> bytes:
    """Return all bytes of a file or a block device."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    finally:
        os.close(fd)
