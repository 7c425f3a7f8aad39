"""When replies leave that no turn of a node sends: those of disks that answer outside of a turn.

Inside of a round of the reactor they leave at the end of that round. Outside of one, a trio task delivered the answer
of a disk, and they leave when that task has done what it does: `Flusher.run` is woken for it.
"""

from collections.abc import Callable

import trio

from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.state.batches import Batches
from meshfs.loop import reactor


class Flusher:
    """Of one exporter: is told by its batches that something waits to be sent, and by its memory that some is free."""

    def __init__(self, batches: Batches, memory: MemoryBudget) -> None:
        self._batches = batches
        self._reactor: reactor.Reactor | None = None
        #: The task of `run` while it sleeps.
        self._sleeper: trio.lowlevel.Task | None = None
        batches.on_dirty = self._flush_soon
        memory.defer = self._later

    async def run(self, current: reactor.Reactor) -> None:
        """Send what waits whenever a trio task leaves replies behind, until cancelled."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._reactor = current
        while True:
            self._sleeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
            self._batches.flush()

    def _flush_soon(self) -> None:
        """Send replies at the end of the reactor's round, or of trio's turn."""
        if self._reactor is not None and self._reactor.in_round:
            self._reactor.defer(self._batches.flush)
            return
        task, self._sleeper = self._sleeper, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _later(self, call: Callable[[], None]) -> None:
        """Call it when whatever is being done is done."""
        if self._reactor is not None and self._reactor.in_round:
            self._reactor.defer(call)
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(call)
