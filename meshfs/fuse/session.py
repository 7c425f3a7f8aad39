"""The FUSE front end's loop: kernel requests to an operations object, until the unmount.

Narrow on purpose: ``serve`` is all the mount knows of it, so that another front end on the
same operations can take its place.

The worker loop
---------------
pyfuse3 serves one request per worker task, and its workers queue for a lock to wait for the
session's fd, first in, first out: every request then costs one wait in epoll and wakes the
worker that idled longest. Ours replaces the one hook it waits in:

    finished worker -> is there a request already (poll, no waiting)? -> take it
                    -> nobody watches the fd?  -> watch it: the leader
                    -> otherwise               -> park, on a stack

Invariants, between any two checkpoints:
 1. At most one worker watches the fd (``_watched``), and at most one other is on its way to
    watch it (``_coming``: woken or just started, has not run yet).
 2. A worker that takes a request leaves the fd watched: it wakes the worker parked last, or
    starts one when none is parked. So while a request waits for its disk the next one is
    noticed, and the number of workers is the largest number of requests served at once
    (at most ``limits.FUSE_WORKERS_MAX``; then the next one to finish watches).
 3. A parked worker is on the stack exactly once, and costs nothing until it is popped.
 4. Between poll saying "readable" and the read of the fd there is no checkpoint; yet the
    kernel may withdraw the request (its caller was killed). The fd is therefore non-blocking,
    and a worker that finds nothing starts over.
 5. Requests that need no waiting (a flood of stat calls) are served without a checkpoint, but
    never more than ``_STREAK_MAX`` in a row: channels, timers and other workers get their turn.

The hook is private to pyfuse3, so the version is checked; any other falls back to its own loop.
"""

import errno
import logging
import os
import select
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

import pyfuse3
import trio

from meshfs import limits
from meshfs.errors import MeshfsError
from meshfs.fuse.handshake import handshake
from meshfs.fuse.operations import Operations
from meshfs.fuse.tuning import tune

log = logging.getLogger(__name__)

_VERSION_KNOWN: Final = "3.5.0"
_DEVICE: Final = "/dev/fuse"
_STREAK_MAX: Final = 32

# What its stubs do not tell of.
_private: Any = pyfuse3


class MountFailed(MeshfsError):
    """The file system could not be mounted; libfuse has written why to stderr."""


async def serve(
    operations: Operations,
    mountpoint: str,
    options: Iterable[str],
    *,
    on_ready: Callable[[], None],
) -> None:
    """Mount, serve, and return after the unmount; ``on_ready`` is called when requests are answered.

    ``mountpoint`` is absolute and without symlinks. Cancellation unmounts: what is in flight is
    answered by the kernel with ENOTCONN, as is every later use of a file still open. Raises MountFailed.
    """
    fd = _mount(operations, mountpoint, options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, operations, mountpoint, on_ready)
            await _loop(fd)
            nursery.cancel_scope.cancel()
    finally:
        # Closes the fd first: whatever the unmount touches finds a dead file system, not a hung one.
        pyfuse3.close(unmount=True)


def _mount(operations: Operations, mountpoint: str, options: Iterable[str]) -> int:
    """Mount and give the session's fd, which pyfuse3 keeps to itself."""
    before = set(_fuse_fds())
    try:
        pyfuse3.init(cast(pyfuse3.Operations, operations), mountpoint, set(options))
    except RuntimeError as error:
        raise MountFailed(f"cannot mount on {mountpoint}: {error}") from error
    (fd,) = set(_fuse_fds()) - before
    return fd


def _fuse_fds() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _DEVICE:
                yield int(name)
        except FileNotFoundError:
            continue  # the fd of the listing itself


async def _announce(operations: Operations, mountpoint: str, on_ready: Callable[[], None]) -> None:
    await operations.started.wait()
    tune(mountpoint)
    on_ready()


async def _loop(fd: int) -> None:
    known = pyfuse3.__version__ == _VERSION_KNOWN
    if not (known and hasattr(pyfuse3, "_wait_fuse_readable") and hasattr(pyfuse3, "_session_loop")):
        log.warning("pyfuse3 %s is not %s: using its own, slower loop", pyfuse3.__version__, _VERSION_KNOWN)
        await pyfuse3.main(max_tasks=limits.FUSE_WORKERS_MAX)
        return
    original = _private._wait_fuse_readable
    try:
        await handshake(fd, _answer_one)
        os.set_blocking(fd, False)
        async with trio.open_nursery() as nursery:
            workers = _Workers(fd, nursery)
            _private._wait_fuse_readable = workers.wait
            workers.start()
    finally:
        _private._wait_fuse_readable = original


async def _answer_one() -> None:
    """Let pyfuse3 serve the one request that is there."""
    turns = iter((True, False))

    async def wait() -> bool:
        return next(turns)

    _private._wait_fuse_readable = wait
    await _private._session_loop(None, 0, 0)


class _Workers:
    """The tasks that serve requests; see the module's docstring for the rules."""

    def __init__(self, fd: int, nursery: trio.Nursery) -> None:
        self._fd = fd
        self._nursery = nursery
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._parked: list[trio.lowlevel.Task] = []
        self._watched = False
        self._coming = False
        self._count = 0
        self._streak = 0

    def start(self) -> None:
        """Start one more worker, on its way to watch the fd."""
        self._coming = True
        self._count += 1
        self._nursery.start_soon(self._work, name=f"fuse worker {self._count}")

    async def wait(self) -> bool:
        """pyfuse3's hook: True when the calling worker shall read a request now."""
        self._streak += 1
        if self._streak >= _STREAK_MAX:
            self._streak = 0
            await trio.lowlevel.checkpoint()
        while not self._poll(0):
            if self._watched or self._coming:
                await self._park()
                continue
            self._watched = True
            try:
                await trio.lowlevel.wait_readable(self._fd)
            finally:
                self._watched = False
        if not (self._watched or self._coming):
            self._call_next()
        return True

    def _call_next(self) -> None:
        if self._parked:
            self._coming = True
            trio.lowlevel.reschedule(self._parked.pop())
        elif self._count < limits.FUSE_WORKERS_MAX:
            self.start()

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def abort(raise_cancel: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._coming = False

    async def _work(self) -> None:
        """Serve until the session ends, then end all: requests still in flight have no one to
        answer to any more."""
        self._coming = False
        while True:
            try:
                # The numbers keep it from starting or ending workers by itself.
                await _private._session_loop(self._nursery, 0, 0)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue
                raise
            break
        self._nursery.cancel_scope.cancel()
