"""How much counters grew within the last minute. Pure: counts and their times in, differences out."""

from collections import deque
from collections.abc import Mapping

Counts = Mapping[str, int]


class Recent:
    """``note`` the counters every few seconds; ``grown`` is their growth within the window, to one such step.

    A counter that is new starts at 0; one that is gone, or went back, has not grown.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._noted: deque[tuple[float, dict[str, int]]] = deque()

    def note(self, now: float, counts: Counts) -> None:
        self._noted.append((now, dict(counts)))
        # The newest one that is older than the window is what the others are compared with.
        while len(self._noted) > 2 and self._noted[1][0] <= now - self._window_s:
            self._noted.popleft()

    def grown(self) -> dict[str, int]:
        """Only counters that grew."""
        if not self._noted:
            return {}
        before, after = self._noted[0][1], self._noted[-1][1]
        return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
