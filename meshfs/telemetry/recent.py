"""Compute how much counters grew within the last minute. Pure: it takes counts and times, and returns differences."""

from collections import deque
from collections.abc import Mapping

Counts = Mapping[str, int]


class Recent:
    """Computes the growth of counters within a window. Call ``note`` every few seconds: the step limits the accuracy.

    A new counter starts at 0. A counter that is gone, or has decreased, has not grown.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._noted: deque[tuple[float, dict[str, int]]] = deque()

    def note(self, now: float, counts: Counts) -> None:
        self._noted.append((now, dict(counts)))
        # Keep, as the first, the newest counts that are older than the window: they are the base of the difference.
        while len(self._noted) > 2 and self._noted[1][0] <= now - self._window_s:
            self._noted.popleft()

    def grown(self) -> dict[str, int]:
        """Return the growth of each counter that grew."""
        if not self._noted:
            return {}
        before, after = self._noted[0][1], self._noted[-1][1]
        return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
