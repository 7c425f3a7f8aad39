"""The few file descriptors that every I/O passes through, watched beside trio instead of by it.

A wait in trio costs a system call to arm it, one to wait, and a turn of trio's scheduler: more
than all the rest of a small read. The hot descriptors (the kernel's FUSE queue, the sockets,
the disks' completions) are few and watched all the time, so they stay armed in an epoll of
their own, and what they bring is handled by plain callbacks:

    trio waits until the inner epoll has something       (an idle process costs nothing)
      round: every ready descriptor's callback, then what was asked for `soon`, then what was deferred
             to the round's end
      and again, while there is something, or was within the last millisecond
    a turn of trio's every ``_TURN_EVERY_S``, or at once where a callback woke a task

Work that takes long does a part of itself and asks for the rest by `soon`: the next round comes without a wait,
and looks at the descriptors before the rest is done.

Invariants: callbacks run one after the other, never within each other, and must not block. A task of trio's that
can run waits for one round that is under way when ``_TURN_EVERY_S`` is over, and so long as the longest callbacks take.
A callback that woke a trio task calls ``give_turn``.

A callback that raises is a fault of ours. It is reported (bugs.py), and ends what its descriptor belongs to
(``on_failure``), never the reactor. A descriptor without an ``on_failure`` is watched on, unless its
callback fails ``limits.CALLBACK_FAILURES_MAX_PER_S`` times within a second.

One reactor per trio run, started when somebody first asks for it (``current``).
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
#: epoll_wait counts in milliseconds: the shortest wait there is.
_LINGER_S: Final = 0.001
_EVENTS_MAX: Final = 64
#: A broken descriptor takes data, too: the attempt tells what is wrong with it.
_WRITABLE: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP

Callback = Callable[[], None]
OnFailure = Callable[[Exception], None]


class Reactor:
    """Everything at any time, also from callbacks. A descriptor is forgotten before it is closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        self._writers: dict[int, Callback] = {}
        self._on_failure: dict[int, OnFailure] = {}
        # How often callbacks of a descriptor failed within the second that began then.
        self._failures: dict[int, tuple[float, int]] = {}
        self._armed: set[int] = set()
        self._deferred: list[Callback] = []
        self._soon: list[Callback] = []
        #: Ends the wait for descriptors when something is wanted soon and no round is under way.
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
        self._turn_wanted = False
        #: Counts the reactor's turns in trio: a task woken in one has run before the next but one.
        self.turn = 0
        #: Whether callbacks are being called.
        self.in_round = False
        #: Whether one descriptor only was ready in the round under way.
        self.is_only = False

    def add(self, fd: int, callback: Callback, *, edge: bool = False, on_failure: OnFailure | None = None) -> None:
        """Call ``callback`` whenever ``fd`` is readable (with ``edge``: each time it becomes so).

        ``on_failure`` gets the exception that any callback of ``fd`` raised, until `forget`.
        """
        self._readers[fd] = callback
        if on_failure is not None:
            self._on_failure[fd] = on_failure
        self._masks[fd] = select.EPOLLIN | (select.EPOLLET if edge else 0)
        self._arm(fd)

    def remove(self, fd: int) -> None:
        """Call its ``callback`` no longer. One that is not watched is no error."""
        if self._readers.pop(fd, None) is not None:
            del self._masks[fd]
            self._arm(fd)

    def when_writable(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` once, as soon as ``fd`` takes data (or is broken)."""
        self._writers[fd] = callback
        self._arm(fd)

    def forget(self, fd: int) -> None:
        """Nothing about ``fd`` any more; before it is closed."""
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
        """``add`` for the length of a block."""
        self.add(fd, callback, edge=edge)
        try:
            yield
        finally:
            self.remove(fd)

    def defer(self, callback: Callback) -> None:
        """Call it once when the round under way has called all its callbacks."""
        self._deferred.append(callback)

    def soon(self, callback: Callback) -> None:
        """Call it once at the end of a round: of the one under way, or, from such a call itself, of the next one.

        That round does not wait for a descriptor.
        """
        self._soon.append(callback)
        if not self.in_round:
            # Told at each signal, the eventfd need not be read.
            os.eventfd_write(self._wake_fd, 1)

    def give_turn(self) -> None:
        """A trio task has work: trio gets its turn after this round."""
        self._turn_wanted = True

    async def run(self) -> None:
        """Until cancelled."""
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
        """All there is to do, until it is trio's turn or nothing came for a moment."""
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
    """The reactor of this trio run."""
    try:
        return _of_this_run.get()
    except LookupError:
        reactor = Reactor()
        _of_this_run.set(reactor)
        trio.lowlevel.spawn_system_task(reactor.run)
        return reactor
