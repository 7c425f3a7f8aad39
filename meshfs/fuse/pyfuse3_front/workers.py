"""The worker loop: pyfuse3's own loop, stepped by the reactor.

pyfuse3 serves one request per trio task, and its tasks queue for a lock to wait for the
session's fd: every request then costs two waits in epoll and three turns of trio's scheduler.
Here its loop runs in workers (meshfs/loop/worker.py), which the reactor steps:

    fd readable -> the worker that idled last reads the request and starts it
    READ, WRITE -> the worker parks on the request in flight; its reply resumes it, and it
                   answers the kernel and idles again, all within the channel's callback
    others      -> served at once, or continued in a trio task where they need one (open, fsync,
                   an exporter that is away)

Invariants:
 1. A worker is on the idle stack, or kept by what it waits for, or continued by a task.
 2. The fd is watched while a worker is idle or may be started (``limits.FUSE_WORKERS_MAX``), unless the
    writes that wait hold ``limits.FUSE_WRITES_MAX_BYTES`` of data.
 3. pyfuse3 reads the fd only when told so by the reactor; yet the kernel may withdraw the
    request in between (its caller was killed). The fd is therefore non-blocking, and a worker
    that finds nothing is replaced.
 4. A worker that ends without an error saw the end of the session, and all end with it:
    requests still in flight have no one to answer to any more.

The hook is private to pyfuse3, so the version is checked; any other falls back to its own loop.
"""

import errno
import logging
import os
import select
from collections.abc import Callable
from typing import Any, Final

import pyfuse3
import trio

from meshfs import bugs, limits
from meshfs.fuse.pyfuse3_front.handshake import handshake
from meshfs.loop import reactor, worker
from meshfs.loop.worker import Worker

logger = logging.getLogger(__name__)

_VERSION_KNOWN: Final = "3.5.0"
#: Requests taken in one round of the reactor, before channels get their turn.
_BATCH_MAX: Final = 32
#: Arguments of pyfuse3's loop by which it never starts another or ends for one too many: a
#: nursery, the fewest and the most loops (it counts those that ended below 0).
_ALONE: Final = (None, 0, -(1 << 30))

# What its stubs do not tell of.
_private: Any = pyfuse3


async def run_loop(fd: int, writes_bytes: Callable[[], int]) -> None:
    """Serve the mounted session until it ends; ``writes_bytes`` returns how much data the writes hold that are in
    progress."""
    known = pyfuse3.__version__ == _VERSION_KNOWN
    if not (known and hasattr(pyfuse3, "_wait_fuse_readable") and hasattr(pyfuse3, "_session_loop")):
        logger.warning("pyfuse3 %s is not %s: using its own, slower loop", pyfuse3.__version__, _VERSION_KNOWN)
        await pyfuse3.main(max_tasks=limits.FUSE_WORKERS_MAX)
        return
    original = _private._wait_fuse_readable
    try:
        await handshake(fd, _answer_one)
        os.set_blocking(fd, False)
        _private._wait_fuse_readable = _next_request
        async with trio.open_nursery() as nursery:
            await _Workers(fd, nursery, writes_bytes).run()
            nursery.cancel_scope.cancel()
    finally:
        _private._wait_fuse_readable = original


async def _next_request() -> bool:
    """pyfuse3 waits here before each read of the fd; the worker is resumed when the fd is to be read."""
    await worker.idle()
    return True


async def _answer_one() -> None:
    """Let pyfuse3 serve the one request that is there."""
    turns = iter((True, False))

    async def wait() -> bool:
        return next(turns)

    _private._wait_fuse_readable = wait
    await _private._session_loop(*_ALONE)


class _Workers:
    """Starts the workers that serve requests, and resumes them when there are requests (see the module's docstring)."""

    def __init__(self, fd: int, nursery: trio.Nursery, writes_bytes: Callable[[], int] = int) -> None:
        """``writes_bytes`` returns how much data the writes hold that are in progress."""
        self._fd = fd
        self._writes_bytes = writes_bytes
        self._workers_max = limits.FUSE_WORKERS_MAX
        self._nursery = nursery
        self._reactor = reactor.current()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._watched = False
        self._all: set[Worker] = set()
        self._in_trio: set[Worker] = set()
        self._idle: list[Worker] = []
        self._over = trio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Serve until the session ends. Raises what a worker failed with."""
        self._watch()
        try:
            await self._over.wait()
        finally:
            self._over.set()
            self._unwatch()
            # None of them may touch the session again: pyfuse3 frees it.
            for each in self._all - self._in_trio:
                each.close()
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._reactor.add(self._fd, self._readable)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._reactor.remove(self._fd)

    def _readable(self) -> None:
        """The reactor calls this when the kernel has requests.

        The fd is polled for another one only while several are in flight, because a program that waits for each of
        its requests has no other.
        """
        for _ in range(_BATCH_MAX):
            if self._writes_bytes() > limits.FUSE_WRITES_MAX_BYTES:
                # One of these writes ends, and its worker idles, before the fd is watched again.
                self._unwatch()
                return
            self._serve_one()
            if len(self._all) - len(self._idle) <= 1 or not self._watched or not self._poll(0):
                return

    def _serve_one(self) -> None:
        if self._idle:
            self._idle.pop().resume()
        elif len(self._all) < self._workers_max:
            started = Worker(_private._session_loop(*_ALONE), self)
            self._all.add(started)
            started.resume()
        else:
            self._unwatch()

    # --- what workers tell their owner (meshfs.loop.worker.WorkerOwner) ---------------------------

    def idle(self, worker: Worker) -> None:
        self._idle.append(worker)
        if not self._over.is_set():
            self._watch()

    def wants_trio(self, worker: Worker) -> None:
        self._nursery.start_soon(self._continue, worker)
        self._reactor.give_turn()

    async def _continue(self, worker: Worker) -> None:
        """Run the worker as a trio task. At the end of the session the nursery's cancellation ends both."""
        self._in_trio.add(worker)
        try:
            await worker.run_in_trio()
        finally:
            self._in_trio.discard(worker)

    def ended(self, worker: Worker, error: BaseException | None) -> None:
        self._all.discard(worker)
        number = error.errno if isinstance(error, OSError) else 0
        if self._over.is_set() or number == errno.EAGAIN:
            return
        if number == errno.ENOMEM and self._all:
            # This worker had no request yet. The workers that there are serve all further requests.
            self._workers_max = len(self._all)
            logger.warning("no memory for more than %d FUSE requests at once", self._workers_max)
            return
        if error is not None and not isinstance(error, OSError) and isinstance(error, Exception):
            # Its request may never be answered, which its caller notices; all others go on.
            bugs.report(logger, "a FUSE worker", error)
            self._watch()
            return
        if self._failure is None:
            self._failure = error
        self._unwatch()
        self._over.set()
        self._reactor.give_turn()
