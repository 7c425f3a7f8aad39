"""Batches start the I/O and send the replies of several requests together, at the end of the batch.

    Batches.touch        notes the runner of a disk, and ``pump`` has the runner look at its queue
    Batches.mark_dirty   notes a connection that has something to send, and ``flush`` has the connection send

A batch is one turn of one node (`processor.py`), or other work that belongs together. Between ``begin`` and ``end`` a
connection sends its replies a few at a time by itself, and the rest of them at the end of the batch. Outside of a
batch, ``on_dirty`` is called once, and its owner calls ``flush`` soon after.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from meshfs import bugs
from meshfs.scheduler.runner import Runner

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """Stands for a connection that has something to send, for example `meshfs.exporter.state.peer.Peer`."""

    dirty: bool

    @property
    def flush(self) -> Callable[[], None]:
        """Return the function that sends what waits, as far as the socket takes it."""


class Batches:
    """Keeps the batches of one exporter. A batch may be inside another one. The outermost batch sends."""

    def __init__(self) -> None:
        #: Is called when something waits to be sent, or to go to a disk, and no batch is under way.
        self.on_dirty: Callable[[], None] = _nobody
        self._dirty: list[Sender] = []
        self._touched: list[Runner] = []
        self._under_way = 0

    def begin(self) -> None:
        """Begin a batch. The caller must call ``end`` even after an exception.

        A batch that never ends would hold back the replies of all connections.
        """
        self._under_way += 1

    @contextmanager
    def one(self) -> Iterator[None]:
        """Make one batch of this context. The hot path calls `begin` and `end` instead, which costs less."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """End a batch. Start its I/O, and send the replies that exist already."""
        try:
            self.pump()
        finally:
            self._under_way -= 1
        if not self._under_way:
            self.flush()

    def touch(self, runner: Runner) -> None:
        """Have the runner look at its queue when the batch ends, or without a batch, when the replies are flushed.

        If a compound goes on after the answer of a disk, perhaps at another disk, there is no batch.
        """
        if runner not in self._touched:
            self._touched.append(runner)
            if not self._under_way:
                self.on_dirty()

    def pump(self) -> None:
        """Have all runners that were touched look at their queues."""
        while self._touched:
            runner = self._touched.pop()
            try:
                runner.pump()
            except Exception as error:
                # The batch has requests for other disks as well.
                bugs.report(logger, f"sending requests to {runner.disk!r}", error)

    def flush(self) -> None:
        """Start the I/O that was queued outside of batches, and have every marked connection send."""
        self.pump()
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for sender in dirty:
                sender.dirty = False
                sender.flush()

    def mark_dirty(self, sender: Sender) -> None:
        """Note a connection that has something to send, and was not noted since it last sent."""
        self._dirty.append(sender)
        if not self._under_way:
            self.on_dirty()


def _nobody() -> None:
    """Do nothing, in place of ``on_dirty``, until a flusher has set ``on_dirty``."""
