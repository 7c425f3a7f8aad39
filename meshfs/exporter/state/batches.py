"""Batches: what is done in one go starts its I/O and sends its replies at its end.

    Batches.touch        notes a disk's runner, and ``pump`` has it look at its queue
    Batches.mark_dirty   notes a connection that has something to send, and ``flush`` sends it

A batch is one turn of one node (`processor.py`), or what else is done in one go. Inside ``begin`` .. ``end`` a
connection sends its replies a few at a time by itself, and the rest leaves at the batch's end. Outside of a batch
``on_dirty`` is told once, and whoever is told calls ``flush``.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from meshfs import bugs
from meshfs.scheduler.runner import Runner

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """A connection that has something to send; `meshfs.exporter.state.peer.Peer` is one."""

    dirty: bool

    @property
    def flush(self) -> Callable[[], None]:
        """Sends what there is, as far as the socket takes it."""


class Batches:
    """Of one exporter. Batches may lie within each other: the outermost one sends."""

    def __init__(self) -> None:
        #: Told when something waits to be sent, or for its disk, and no batch is under way.
        self.on_dirty: Callable[[], None] = _nobody
        self._dirty: list[Sender] = []
        self._touched: list[Runner] = []
        self._under_way = 0

    def begin(self) -> None:
        """What follows, up to ``end``, is done in one go.

        ``end`` has to be called whatever happens: a batch that never ends would keep back the replies of everybody.
        """
        self._under_way += 1

    @contextmanager
    def one(self) -> Iterator[None]:
        """Make one batch of this context. The hot path calls `begin` and `end` itself, which costs less."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Start the I/O of the batch and send the replies that are there."""
        try:
            self.pump()
        finally:
            self._under_way -= 1
        if not self._under_way:
            self.flush()

    def touch(self, runner: Runner) -> None:
        """Have the runner's queue looked at when the batch ends; without a batch, when the replies are flushed.

        There is no batch where a compound goes on after the answer of a disk, perhaps at another disk.
        """
        if runner not in self._touched:
            self._touched.append(runner)
            if not self._under_way:
                self.on_dirty()

    def pump(self) -> None:
        """Have the runners that were touched look at their queues."""
        while self._touched:
            runner = self._touched.pop()
            try:
                runner.pump()
            except Exception as error:
                # The batch has requests for other disks, too.
                bugs.report(logger, f"sending requests to {runner.disk!r}", error)

    def flush(self) -> None:
        """Start the I/O that was queued outside of batches, and send what every connection has to send."""
        self.pump()
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for sender in dirty:
                sender.dirty = False
                sender.flush()

    def mark_dirty(self, sender: Sender) -> None:
        """The connection has something to send, and was not marked since it last sent."""
        self._dirty.append(sender)
        if not self._under_way:
            self.on_dirty()


def _nobody() -> None:
    """Nobody flushes what is done outside of batches."""
