"""How many lines a peer can have logged. Pure."""


class LogLimit:
    """A bucket of log lines for what peers can cause at will; counts what it holds back."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0
        self.held_back = 0

    def allows(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            self.held_back += 1
            return False
        self._tokens -= 1
        return True
