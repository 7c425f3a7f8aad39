"""A FUSE session of libfuse mounts, serves the operations in pyfuse3's loop, and unmounts."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import pyfuse3
import trio

from meshfs.errors import MountFailed
from meshfs.fuse.mountpoint import alone, refuse_second_mount
from meshfs.fuse.operations import Operations
from meshfs.fuse.page_cache import PageCache
from meshfs.fuse.pyfuse3_front.adapter import Adapter
from meshfs.fuse.pyfuse3_front.workers import run_loop
from meshfs.fuse.tuning import tune

_DEVICE: Final = "/dev/fuse"


async def serve(
    operations: Operations, mountpoint: str, options: Iterable[str], *, on_ready: Callable[[], None]
) -> None:
    """Serve as a `meshfs.fuse.front.FrontEnd`. A process can serve only one mount, because pyfuse3 has global state."""
    adapter = Adapter(operations)
    async with alone(mountpoint):
        refuse_second_mount(mountpoint)
        fd = _mount(adapter, mountpoint, options)
    pages = PageCache(fd)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(operations.run, pages)
            nursery.start_soon(_announce, adapter, mountpoint, on_ready)
            await run_loop(fd, lambda: adapter.writes_bytes)
            nursery.cancel_scope.cancel()
    finally:
        pages.close()
        # pyfuse3 closes the fd first. If the unmount then accesses the mount, it gets an error and does not hang.
        pyfuse3.close(unmount=True)


def _mount(adapter: Adapter, mountpoint: str, options: Iterable[str]) -> int:
    """Mount, and return the session's fd. pyfuse3 does not return it, so find it among the open descriptors."""
    before = set(_fuse_fds())
    try:
        pyfuse3.init(cast(pyfuse3.Operations, adapter), mountpoint, {_Option(option) for option in options})
    except RuntimeError as error:
        raise MountFailed(f"cannot mount on {mountpoint}: {error}") from error
    (fd,) = set(_fuse_fds()) - before
    return fd


class _Option(str):
    """An option of libfuse that keeps its bytes. pyfuse3 encodes options as ASCII, but a path may contain any bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))


def _fuse_fds() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _DEVICE:
                yield int(name)
        except FileNotFoundError:
            continue  # This was the fd of the listing itself.


async def _announce(adapter: Adapter, mountpoint: str, on_ready: Callable[[], None]) -> None:
    await adapter.started.wait()
    tune(mountpoint)
    on_ready()
