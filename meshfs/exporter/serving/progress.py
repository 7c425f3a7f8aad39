"""Closes connections that make no progress, because a connection must not hold memory for ever.

A connection is closed if its peer takes no byte of the waiting replies for CONNECTION_DEAD_AFTER_S / 2. While other
connections wait for memory, a connection is also closed if its peer takes less than MEMORY_HELD_MIN_PROGRESS_BYTES of
the replies in that time, or has begun a large message and sends less than MEMORY_HELD_MIN_PROGRESS_BYTES of it.
"""

from collections.abc import Callable

import trio

from meshfs import limits
from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.serving.outlet import Outlet
from meshfs.exporter.state.peer import Peer


class Progress:
    """Watches the progress of one connection.

    pending    returns how many bytes the transport has that were not received yet
    was_idle   returns whether nothing was received since its last call
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
        """Check the connection every CONNECTION_DEAD_AFTER_S / 2, until cancelled. If it is idle, free its memory."""
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
                peer.log_warning(
                    "the connection is closed, because it took only %d bytes of replies in %g s", taken, period_s
                )
                self._end()
            elif large is not None and memory.wanted and self._stands_still(large, least_bytes):
                peer.log_warning(
                    "the connection is closed, because a message stood still for %g s and others need memory", period_s
                )
                peer.exporter.count("stalled_messages")
                self._end()

    def _large(self) -> tuple[int, int] | None:
        """Return the number of the large message that is being received, and how many bytes of it have come.

        Bytes that only the kernel has count as well. Return None if no large message is being received.
        """
        large = self._peer.received.large_progress
        return None if large is None else (large[0], large[1] + self._pending())

    def _stands_still(self, before: tuple[int, int], least_bytes: int) -> bool:
        now = self._large()
        return now is not None and now[0] == before[0] and now[1] - before[1] < least_bytes
