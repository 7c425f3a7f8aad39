"""The worker loop: the reactor steps pyfuse3's own loop.

pyfuse3 serves one request per trio task, and its tasks queue for a lock to wait for the session's fd. Every request
then costs two waits in epoll and three turns of trio's scheduler. Here pyfuse3's loop runs in workers
(meshfs/loop/worker.py), which the reactor steps:

    fd readable -> The worker that became idle last reads the request and starts it.
    READ, WRITE -> The worker parks on the request in flight. The reply resumes the worker, which answers the
                   kernel and becomes idle again. All this happens within the channel's callback.
    others      -> The worker serves the request at once. If the request has to wait (open, fsync, an exporter
                   that is away), a trio task continues the worker.

Invariants:
 1. A worker is on the idle stack, or a request in flight holds it, or a task continues it.
 2. The fd is watched while a worker is idle or a further one may be started (``limits.FUSE_WORKERS_MAX``), unless the
    writes in progress hold more than ``limits.FUSE_WRITES_MAX_BYTES`` of data.
 3. pyfuse3 reads the fd only when the reactor resumes a worker. The kernel may withdraw the request in between, if its
    caller was killed. Therefore the fd is non-blocking. A worker that finds no request ends, and is replaced.
 4. If a worker ends without an error, the session has ended. Then all workers end, because nobody can get the answers
    to the requests in flight any more.

The hook is private to pyfuse3, so its version is checked. With any other version, pyfuse3's own loop serves.
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
#: The most requests that are taken in one round of the reactor, before channels get their turn.
_BATCH_MAX: Final = 32
#: Arguments of pyfuse3's loop: its nursery, the fewest loops and the most loops. With these values, a loop never starts
#: another loop, and never ends because there are too many. Its count of loops may fall below 0.
_ALONE: Final = (None, 0, -(1 << 30))

# This module uses names that the stubs of pyfuse3 do not declare.
_private: Any = pyfuse3


async def run_loop(fd: int, writes_bytes: Callable[[], int]) -> None:
    """Serve the mounted session until it ends. ``writes_bytes`` returns how much data the writes in progress hold."""
    known = pyfuse3.__version__ == _VERSION_KNOWN
    if not (known and hasattr(pyfuse3, "_wait_fuse_readable") and hasattr(pyfuse3, "_session_loop")):
        logger.warning(
            "pyfuse3 has version %s and not %s, so its own, slower loop serves", pyfuse3.__version__, _VERSION_KNOWN
        )
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
    """Wait until the fd is to be read. pyfuse3 calls this before each read, and the reactor resumes the worker."""
    await worker.idle()
    return True


async def _answer_one() -> None:
    """Let pyfuse3 serve the one request that is queued."""
    turns = iter((True, False))

    async def wait() -> bool:
        return next(turns)

    _private._wait_fuse_readable = wait
    await _private._session_loop(*_ALONE)


class _Workers:
    """Starts the workers that serve requests, and resumes them when there are requests (see the module's docstring)."""

    def __init__(self, fd: int, nursery: trio.Nursery, writes_bytes: Callable[[], int] = int) -> None:
        """Keep ``writes_bytes``, which returns how much data the writes in progress hold."""
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
        """Serve until the session ends. Raises the error with which a worker failed."""
        self._watch()
        try:
            await self._over.wait()
        finally:
            self._over.set()
            self._unwatch()
            # No worker may use the session again, because pyfuse3 frees it.
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
        """Serve the kernel's requests. The reactor calls this when the fd is readable.

        Look for a further request only while several are in flight. A single program that waits for each of its
        requests has no further one, so the look would cost a system call for nothing.
        """
        for _ in range(_BATCH_MAX):
            if self._writes_bytes() > limits.FUSE_WRITES_MAX_BYTES:
                # When one of these writes has ended and its worker is idle, the fd is watched again.
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

    # --- reports of the workers (meshfs.loop.worker.WorkerOwner) ----------------------------------

    def idle(self, worker: Worker) -> None:
        self._idle.append(worker)
        if not self._over.is_set():
            self._watch()

    def wants_trio(self, worker: Worker) -> None:
        self._nursery.start_soon(self._continue, worker)
        self._reactor.give_turn()

    async def _continue(self, worker: Worker) -> None:
        """Run the worker in a trio task. At the end of the session, the nursery cancels both."""
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
            # This worker had not read a request yet. The other workers serve all further requests.
            self._workers_max = len(self._all)
            logger.warning("memory is short: at most %d FUSE requests are served at once", self._workers_max)
            return
        if error is not None and not isinstance(error, OSError) and isinstance(error, Exception):
            # The worker's request may never get an answer. All other requests go on.
            bugs.report(logger, "a FUSE worker", error)
            self._watch()
            return
        if self._failure is None:
            self._failure = error
        self._unwatch()
        self._over.set()
        self._reactor.give_turn()
