"""Decide which writes to one disk may run at the same time. Pure.

Theory. There are two kinds of writes. A *plain* write changes exactly its own bytes. An *exclusive* write reads the
blocks around its bytes, merges, and writes whole blocks. It would undo any other write to these blocks that happens
between its read and its write. Therefore:

    two writes conflict  <=>  their ranges overlap and at least one is exclusive

A write starts when it conflicts with no running write and with no write that waits before it. So no write starves,
and writes that conflict start in the order of their arrival. Plain writes that overlap may run together: as on any
disk, the initiators have to order them.

Example: an exclusive write to [0, 4096) runs. A plain write to [512, 1024) waits for it, and one to [8192, 12288)
starts at once.

While no exclusive write is running or waiting, a plain write costs one insertion into a dict and one removal.
"""

from typing import Generic, TypeVar

Key = TypeVar("Key")


class WriteOrder(Generic[Key]):
    """Orders the writes of one disk. Call `begin` before a write starts, and `end` when the write is done.

    The caller chooses each write's ``Key``, which must be hashable and unique among the writes here. Ranges are
    [start, stop) in bytes.
    """

    __slots__ = ("_exclusive", "_running", "_waiting")

    def __init__(self) -> None:
        # key -> (start, stop, exclusive)
        self._running: dict[Key, tuple[int, int, bool]] = {}
        self._waiting: dict[Key, tuple[int, int, bool]] = {}
        # The number of exclusive writes that run or wait.
        self._exclusive = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def begin(self, key: Key, start: int, stop: int, *, exclusive: bool = False) -> bool:
        """Add a write. Return True if the caller must start it now. Otherwise, a later `end` returns its key."""
        write = (start, stop, exclusive)
        if exclusive:
            self._exclusive += 1
        if self._exclusive and (_conflicts(write, self._running) or _conflicts(write, self._waiting)):
            self._waiting[key] = write
            return False
        self._running[key] = write
        return True

    def end(self, key: Key) -> list[Key] | None:
        """Remove the finished write ``key``. Return the writes to start now, in their order, or None if none waited."""
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
