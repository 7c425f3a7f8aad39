"""Receive memory that is lent to callers, so that the data of a large READ is not copied.

A trio task that is woken with such data runs in trio's next turn. That may be before or after the next turn of the
reactor. So memory that was lent in one turn of the reactor returns to its pool in the turn after the next. Turns are
counted, and not batches, because one turn may receive many batches before any task runs.
"""

from collections.abc import Callable

from meshfs.buffers import Buffer


class LentMemory:
    """Keeps the lent memory of one channel. Call `recycle` in every turn of the reactor that receives something."""

    __slots__ = ("_before", "_now", "lend", "turn")

    def __init__(self) -> None:
        self._now: list[Buffer] = []
        self._before: list[Buffer] = []
        #: Takes a buffer whose memory a caller uses. The buffer returns to its pool two turns later.
        self.lend: Callable[[Buffer], None] = self._now.append
        #: The reactor's turn of the last `recycle`.
        self.turn = 0

    def recycle(self, turn: int) -> None:
        """Give back what was lent before the last turn, because the reactor's ``turn`` begins."""
        self.turn = turn
        now, before = self._now, self._before
        for buffer in before:
            buffer.release()
        before[:] = now
        now.clear()
