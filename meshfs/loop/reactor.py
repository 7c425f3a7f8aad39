"""The reactor watches the few file descriptors that every I/O passes through, so that trio does not have to.

Theory. A wait in trio costs a system call to arm the descriptor, a system call to wait, and a pass of trio's
scheduler. That is more than all other work of a small read. The hot descriptors are few and watched all the time:
the kernel's FUSE queue, the sockets, and the eventfds of the disks' completions. They therefore stay armed in an
epoll of their own (the inner epoll), and plain callbacks handle their events. trio itself watches only the
descriptor of the inner epoll:

    trio waits until the inner epoll has an event        (an idle process costs nothing)
      one round:  1. the callbacks of all ready descriptors
                  2. the callbacks that were passed to `soon`
                  3. the callbacks that were passed to `defer`
      the next round follows at once while events arrive, and until none has arrived for a millisecond
    trio gets a turn every ``_TURN_EVERY_S``, and at once after a round in which a callback woke a trio task

A callback with much work does a part of it and passes the rest to `soon`. The next round then starts without a wait,
and it calls the ready descriptors before the rest of that work.

Invariants:

  - Callbacks run one after the other, never inside each other. They must not block.
  - A trio task that can run waits at most ``_TURN_EVERY_S`` and the remainder of the round that is then in progress.
    So no callback may take long.
  - A callback that woke a trio task calls ``give_turn``. Otherwise the task waits up to ``_TURN_EVERY_S``.

A callback that raises is a bug of meshfs. The reactor reports it (bugs.py) and calls the ``on_failure`` of the
descriptor, which ends what the descriptor belongs to, such as a connection. The reactor itself goes on. A descriptor
without an ``on_failure`` stays watched, unless its callback fails ``limits.CALLBACK_FAILURES_MAX_PER_S`` times
within a second.

There is one reactor per trio run. The first call of ``current`` starts it.
"""

import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from meshfs import bugs, limits

logger = logging.getLogger(__name__)

_TURN_EVERY_S: Final = 0.002
#: The shortest wait that epoll_wait has, as it counts in milliseconds.
_LINGER_S: Final = 0.001
_EVENTS_MAX: Final = 64
#: A broken descriptor also counts as writable: the attempt to write returns the error.
_WRITABLE: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP

Callback = Callable[[], None]
OnFailure = Callable[[Exception], None]


class Reactor:
    """Watches descriptors and calls callbacks. Every method may be called at any time, also from a callback.

    The owner of a descriptor calls `forget` before it closes the descriptor, as the kernel may reuse its number.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        self._writers: dict[int, Callback] = {}
        self._on_failure: dict[int, OnFailure] = {}
        # Per descriptor: the time of the first failure of a second, and the number of failures within that second.
        self._failures: dict[int, tuple[float, int]] = {}
        self._armed: set[int] = set()
        self._deferred: list[Callback] = []
        self._soon: list[Callback] = []
        #: Ends the wait for descriptors when `soon` is called outside a round.
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
        self._turn_wanted = False
        #: The number of turns that trio has given to the reactor. A task woken in turn n has run before turn n + 2.
        self.turn = 0
        #: True while a round is in progress.
        self.in_round = False
        #: True if only one descriptor was ready in the current round.
        self.is_only = False

    def add(self, fd: int, callback: Callback, *, edge: bool = False, on_failure: OnFailure | None = None) -> None:
        """Call ``callback`` in each round in which ``fd`` is readable, or with ``edge`` once each time data arrives.

        Until `forget`, ``on_failure`` gets each exception that a callback of ``fd`` raises.
        """
        self._readers[fd] = callback
        if on_failure is not None:
            self._on_failure[fd] = on_failure
        self._masks[fd] = select.EPOLLIN | (select.EPOLLET if edge else 0)
        self._arm(fd)

    def remove(self, fd: int) -> None:
        """Stop calling the ``callback`` of ``fd`` that `add` set. It is no error if ``fd`` is not watched."""
        if self._readers.pop(fd, None) is not None:
            del self._masks[fd]
            self._arm(fd)

    def when_writable(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` once, as soon as ``fd`` accepts data or is broken."""
        self._writers[fd] = callback
        self._arm(fd)

    def forget(self, fd: int) -> None:
        """Drop all callbacks of ``fd``. Call this before ``fd`` is closed."""
        self._readers.pop(fd, None)
        self._masks.pop(fd, None)
        self._writers.pop(fd, None)
        self._on_failure.pop(fd, None)
        self._failures.pop(fd, None)
        self._arm(fd)

    def _arm(self, fd: int) -> None:
        mask = self._masks.get(fd, 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not mask:
            if fd in self._armed:
                self._armed.discard(fd)
                self._epoll.unregister(fd)
        elif fd in self._armed:
            self._epoll.modify(fd, mask)
        else:
            self._armed.add(fd)
            self._epoll.register(fd, mask)

    @contextmanager
    def watching(self, fd: int, callback: Callback, *, edge: bool = False) -> Iterator[None]:
        """Watch ``fd``, as `add` does, until the block ends."""
        self.add(fd, callback, edge=edge)
        try:
            yield
        finally:
            self.remove(fd)

    def defer(self, callback: Callback) -> None:
        """Call ``callback`` once at the end of the current round, after all other callbacks of the round."""
        self._deferred.append(callback)

    def soon(self, callback: Callback) -> None:
        """Call ``callback`` once at the end of the current round.

        If no round is in progress, or the caller was itself passed to `soon` or `defer`, the call happens at the end
        of the next round. That round does not wait for a descriptor.
        """
        self._soon.append(callback)
        if not self.in_round:
            # The eventfd is edge-triggered: each write is a new event, so nobody has to read the eventfd.
            os.eventfd_write(self._wake_fd, 1)

    def give_turn(self) -> None:
        """Give trio a turn after this round, because a callback woke a trio task."""
        self._turn_wanted = True

    async def run(self) -> None:
        """Watch the descriptors until cancelled."""
        fd = self._epoll.fileno()
        try:
            while True:
                if self._soon:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(fd)
                self._rounds()
        finally:
            self._epoll.close()
            os.close(self._wake_fd)

    def _rounds(self) -> None:
        """Run rounds until trio must get a turn, or until no event came for ``_LINGER_S``."""
        poll, readers, monotonic = self._epoll.poll, self._readers, time.monotonic
        self._turn_wanted = False
        self.turn += 1
        turn_at = monotonic() + _TURN_EVERY_S
        while (events := poll(0 if self._soon else _LINGER_S, _EVENTS_MAX)) or self._soon:
            self.in_round = True
            self.is_only = len(events) == 1
            for fd, event in events:
                if event & _WRITABLE and fd in self._writers:
                    self._writable(fd)
                if event != select.EPOLLOUT:
                    callback = readers.get(fd)
                    if callback is not None:
                        try:
                            callback()
                        except Exception as error:
                            self._failed(fd, callback, error)
            if self._soon:
                soon, self._soon = self._soon, []
                for callback in soon:
                    self._call(callback, "soon")
            while self._deferred:
                self._call(self._deferred.pop(0), "deferred")
            self.in_round = False
            if self._turn_wanted or monotonic() >= turn_at:
                return

    def _call(self, callback: Callback, when: str) -> None:
        try:
            callback()
        except Exception as error:
            bugs.report(logger, f"{_name(callback)}, {when}", error)

    def _writable(self, fd: int) -> None:
        callback = self._writers.pop(fd)
        self._arm(fd)
        try:
            callback()
        except Exception as error:
            self._failed(fd, callback, error)

    def _failed(self, fd: int, callback: Callback, error: Exception) -> None:
        bugs.report(logger, f"{_name(callback)}, called by the event loop", error)
        on_failure = self._on_failure.get(fd)
        if on_failure is None:
            self._count_failure(fd, callback)
            return
        try:
            on_failure(error)
        except Exception as again:
            bugs.report(logger, f"{_name(on_failure)}, called after a failure", again)
            self.forget(fd)

    def _count_failure(self, fd: int, callback: Callback) -> None:
        now = time.monotonic()
        since, failures = self._failures.get(fd, (now, 0))
        if now - since > 1:
            since, failures = now, 0
        self._failures[fd] = since, failures + 1
        if failures + 1 >= limits.CALLBACK_FAILURES_MAX_PER_S:
            logger.critical("%s fails again and again: its descriptor is not watched any more", _name(callback))
            self.forget(fd)


def _name(callback: Callable[..., object]) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)


_of_this_run: trio.lowlevel.RunVar[Reactor] = trio.lowlevel.RunVar("reactor")


def current() -> Reactor:
    """Return the reactor of this trio run. The first call creates and starts it."""
    try:
        return _of_this_run.get()
    except LookupError:
        reactor = Reactor()
        _of_this_run.set(reactor)
        trio.lowlevel.spawn_system_task(reactor.run)
        return reactor
