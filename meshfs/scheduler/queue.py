"""The scheduler's decision: which request goes to the disk next. Pure; time is an argument.

A queue never sleeps and never does I/O. ``pop`` answers with a request to send now, with
the time at which to ask again, or with None when only ``add`` or ``done`` can change that.
"""

from collections import deque
from typing import Protocol

from meshfs.disk.base import DiskRequest


class Queue(Protocol):
    """What the runner needs of a scheduling discipline."""

    def add(self, request: DiskRequest, now: float) -> None: ...

    def pop(self, now: float) -> DiskRequest | float | None: ...

    def done(self, request: DiskRequest, now: float) -> None:
        """``request``, popped before, has its result."""

    def cancel(self, request: DiskRequest) -> bool:
        """Take a request out that was not popped yet; False when it is too late."""

    def __len__(self) -> int:
        """Requests that wait."""


class FifoQueue:
    """First in, first out, at most ``depth`` at the disk at once."""

    def __init__(self, depth: int) -> None:
        self._waiting: deque[DiskRequest] = deque()
        self._free = depth

    def add(self, request: DiskRequest, now: float) -> None:
        self._waiting.append(request)

    def pop(self, now: float) -> DiskRequest | float | None:
        if not self._free or not self._waiting:
            return None
        self._free -= 1
        return self._waiting.popleft()

    def done(self, request: DiskRequest, now: float) -> None:
        self._free += 1

    def cancel(self, request: DiskRequest) -> bool:
        try:
            self._waiting.remove(request)
        except ValueError:
            return False
        return True

    def __len__(self) -> int:
        return len(self._waiting)
