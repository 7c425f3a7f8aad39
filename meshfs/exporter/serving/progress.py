"""Gives up connections that do not go on.

A connection must not hold memory for ever. So it is closed when its other end takes nothing of its replies for
CONNECTION_DEAD_AFTER_S / 2, or, while other nodes want memory, less than MEMORY_HELD_MIN_PROGRESS_BYTES. The same
is true of a large message that it began to send and does not end.
"""

from collections.abc import Callable

import trio

from meshfs import limits
from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.serving.outlet import Outlet
from meshfs.exporter.state.peer import Peer


class Progress:
    """Of one connection.

    pending    how many bytes the transport has received that nobody has taken
    was_idle   whether nothing came since it was last asked
    end        closes the connection
    """

    def __init__(
        self,
        peer: Peer,
        outlet: Outlet,
        memory: MemoryBudget,
        pending: Callable[[], int],
        was_idle: Callable[[], bool],
        end: Callable[[], None],
    ) -> None:
        self._peer = peer
        self._outlet = outlet
        self._memory = memory
        self._pending = pending
        self._was_idle = was_idle
        self._end = end

    async def watch(self) -> None:
        """Look every CONNECTION_DEAD_AFTER_S / 2, until cancelled. An idle connection gives back its receive memory."""
        peer, outlet, memory = self._peer, self._outlet, self._memory
        period_s = limits.CONNECTION_DEAD_AFTER_S / 2
        while True:
            if self._was_idle():
                peer.received.rest()
            waiting, taken, large = outlet.waiting, outlet.taken_bytes, self._large()
            await trio.sleep(period_s)
            least_bytes = limits.MEMORY_HELD_MIN_PROGRESS_BYTES if memory.wanted else 1
            taken = outlet.taken_bytes - taken
            if waiting is not None and waiting is outlet.waiting and taken < least_bytes:
                peer.log_warning("closed: it took only %d bytes of its replies in %g s", taken, period_s)
                self._end()
            elif large is not None and memory.wanted and self._stands_still(large, least_bytes):
                peer.log_warning("closed: a message did not go on for %g s, and others want its memory", period_s)
                peer.exporter.count("stalled_messages")
                self._end()

    def _large(self) -> tuple[int, int] | None:
        """The number of the large message that is being received, and how much of it came, to the kernel at least."""
        large = self._peer.received.large_progress
        return None if large is None else (large[0], large[1] + self._pending())

    def _stands_still(self, before: tuple[int, int], least_bytes: int) -> bool:
        now = self._large()
        return now is not None and now[0] == before[0] and now[1] - before[1] < least_bytes
