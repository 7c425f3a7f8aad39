"""Which writes to one disk may be under way together. Pure.

Two kinds of writes: a *plain* one changes exactly its bytes; an *exclusive* one reads the
blocks around its bytes, merges, and writes whole blocks, so that any other write to these
blocks between its read and its write would be undone. Hence:

    two writes conflict  <=>  their ranges overlap and at least one is exclusive

A write starts when it conflicts with none that is under way and none that waits before it;
so nothing starves, and writes that conflict start in the order they came. Plain writes
that overlap are the initiators' own business, as on any disk.

While no exclusive write is under way or waiting, starting and ending a plain write is one
insertion into a dict and one removal.
"""

from typing import Generic, TypeVar

Key = TypeVar("Key")


class WriteOrder(Generic[Key]):
    """``begin`` a write before it starts, ``end`` it when it is done.

    ``Key`` is the caller's (hashable, unique among the writes here). Ranges are
    [start, stop) in bytes.
    """

    __slots__ = ("_exclusive", "_running", "_waiting")

    def __init__(self) -> None:
        # key -> (start, stop, exclusive)
        self._running: dict[Key, tuple[int, int, bool]] = {}
        self._waiting: dict[Key, tuple[int, int, bool]] = {}
        # Exclusive writes running or waiting.
        self._exclusive = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def begin(self, key: Key, start: int, stop: int, *, exclusive: bool = False) -> bool:
        """True: start it now. False: a later ``end`` will name it."""
        write = (start, stop, exclusive)
        if exclusive:
            self._exclusive += 1
        if self._exclusive and (_conflicts(write, self._running) or _conflicts(write, self._waiting)):
            self._waiting[key] = write
            return False
        self._running[key] = write
        return True

    def end(self, key: Key) -> list[Key] | None:
        """``key`` is done: the writes to start now, in their order; None when there are none."""
        _, _, exclusive = self._running.pop(key)
        if exclusive:
            self._exclusive -= 1
        if not self._waiting:
            return None
        ready = []
        still: dict[Key, tuple[int, int, bool]] = {}
        for waiter, write in self._waiting.items():
            if _conflicts(write, self._running) or _conflicts(write, still):
                still[waiter] = write
            else:
                self._running[waiter] = write
                ready.append(waiter)
        self._waiting = still
        return ready


def _conflicts(write: tuple[int, int, bool], others: dict[Key, tuple[int, int, bool]]) -> bool:
    start, stop, exclusive = write
    return any(
        start < other_stop and other_start < stop and (exclusive or other_exclusive)
        for other_start, other_stop, other_exclusive in others.values()
    )
