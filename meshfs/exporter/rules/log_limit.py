"""Limits the log lines that peers can cause, because a flood of them would fill the log. Pure."""


class LogLimit:
    """Limits lines by a token bucket. Each line takes a token. ``held_back`` counts the lines without a token."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0
        self.held_back = 0

    def allows(self, now: float) -> bool:
        """Return whether a line may be logged now."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            self.held_back += 1
            return False
        self._tokens -= 1
        return True
