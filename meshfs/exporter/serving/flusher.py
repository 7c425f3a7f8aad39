"""Sends replies outside of the turns of nodes, because a disk may answer outside of a turn.

Inside a round of the reactor, the replies are sent at the end of that round. Outside of a round, a trio task has
delivered the answer of the disk. Then `Flusher.run` is woken, and sends the replies when that task waits again.
"""

from collections.abc import Callable

import trio

from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.state.batches import Batches
from meshfs.loop import reactor


class Flusher:
    """Sends late replies for the batches of one exporter, and defers calls for its memory budget."""

    def __init__(self, batches: Batches, memory: MemoryBudget) -> None:
        self._batches = batches
        self._reactor: reactor.Reactor | None = None
        #: The task of `run` while it sleeps.
        self._sleeper: trio.lowlevel.Task | None = None
        batches.on_dirty = self._flush_soon
        memory.defer = self._later

    async def run(self, current: reactor.Reactor) -> None:
        """Send the waiting replies whenever a trio task has made a reply, until cancelled."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._reactor = current
        while True:
            self._sleeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
            self._batches.flush()

    def _flush_soon(self) -> None:
        """Send replies at the end of the reactor's round, or else in trio's next step."""
        if self._reactor is not None and self._reactor.in_round:
            self._reactor.defer(self._batches.flush)
            return
        task, self._sleeper = self._sleeper, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _later(self, call: Callable[[], None]) -> None:
        """Make the call at the end of the reactor's round, or else in trio's next step."""
        if self._reactor is not None and self._reactor.in_round:
            self._reactor.defer(call)
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(call)
