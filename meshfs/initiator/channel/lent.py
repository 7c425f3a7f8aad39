"""Receive memory that is lent to callers: a large READ's data stays where it came in, without a copy.

A trio task that is woken with such data runs in trio's next turn, before or after the reactor's next turn, in any
order. So memory that was lent in one turn of the reactor's is given back in the turn after the next. Turns count and
not batches, as one turn may receive many batches before any task runs.
"""

from collections.abc import Callable

from meshfs.buffers import Buffer


class LentMemory:
    """``recycle`` it once in every turn of the reactor's that receives something."""

    __slots__ = ("_before", "_now", "lend", "turn")

    def __init__(self) -> None:
        self._now: list[Buffer] = []
        self._before: list[Buffer] = []
        #: Takes a buffer whose memory a caller is given; it goes back to its pool two turns later.
        self.lend: Callable[[Buffer], None] = self._now.append
        #: The reactor's turn of the last `recycle`.
        self.turn = 0

    def recycle(self, turn: int) -> None:
        """The reactor's ``turn`` begins: give back what was lent before the last one."""
        self.turn = turn
        now, before = self._now, self._before
        for buffer in before:
            buffer.release()
        before[:] = now
        now.clear()
