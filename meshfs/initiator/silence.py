"""When a peer that says nothing is asked, and when it is given up. Pure.

Silence counts from the last sign of life, or from when something became outstanding if that
was later. An idle peer owes nothing, but is asked now and then, which makes it busy.

    state                                            verdict
    idle for CHANNEL_IDLE_PROBE_S                    PROBE
    silent for CHANNEL_PROBE_AFTER_S, not yet asked  PROBE
    silent for CHANNEL_SILENCE_MAX_S, and asked      GIVE_UP
    the same, not asked, a deadline passed           GIVE_UP   it left us no credit to ask with
    anything else                                    FINE
"""

import enum

from meshfs import limits


class Verdict(enum.Enum):
    FINE = enum.auto()
    PROBE = enum.auto()
    GIVE_UP = enum.auto()


class Silence:
    """``look`` regularly; set ``probed`` when a probe was sent, ``overdue`` when a deadline passed."""

    __slots__ = ("_busy_since", "_last_heard", "overdue", "probed")

    def __init__(self, now: float) -> None:
        self.probed = False
        self.overdue = False
        self._last_heard = now
        self._busy_since: float | None = None

    def look(self, now: float, *, heard: bool, busy: bool) -> Verdict:
        """``heard`` since the last look; ``busy``: something is outstanding now."""
        if heard:
            self.probed = self.overdue = False
            self._last_heard = now
        if not busy:
            self._busy_since = None
            return Verdict.PROBE if now - self._last_heard >= limits.CHANNEL_IDLE_PROBE_S else Verdict.FINE
        if self._busy_since is None:
            self._busy_since = now
        silent_s = self.seconds(now)
        if silent_s >= limits.CHANNEL_SILENCE_MAX_S and (self.probed or self.overdue):
            return Verdict.GIVE_UP
        if silent_s >= limits.CHANNEL_PROBE_AFTER_S and not self.probed:
            return Verdict.PROBE
        return Verdict.FINE

    def seconds(self, now: float) -> float:
        """How long the peer has been silent while it owed something."""
        return 0.0 if self._busy_since is None else now - max(self._last_heard, self._busy_since)
