"""Decides when a silent exporter is probed, and when its channel is given up. Pure.

Silence counts from the last sign of life, or from when a request became outstanding if that was later. An exporter
that was asked nothing is not silent. It is probed every CHANNEL_IDLE_PROBE_S, so that a lost connection is found
before a request needs it.

    state                                               verdict
    idle for CHANNEL_IDLE_PROBE_S                       PROBE
    silent for CHANNEL_PROBE_AFTER_S, not yet asked     PROBE    with siblings CHANNEL_PROBE_BESIDE_OTHERS_S
    silent for ``max_s``, and asked                     GIVE_UP
    the same, not asked, a deadline passed              GIVE_UP  the exporter left no credit to ask with
    silent for ``dead_after_s``, and asked, while a
      sibling was heard after that                      GIVE_UP  the exporter lives, this channel does not
    anything else                                       FINE

Siblings are the other channels of the session. One exporter process answers on all of them, so a slow exporter is slow
on all of them. If another channel was answered after the probe, the silence of this one comes from its network.
"""

import enum

from meshfs import limits


class Verdict(enum.Enum):
    """Says whether to do nothing about a silent channel, to send a probe, or to end the channel."""

    FINE = enum.auto()
    PROBE = enum.auto()
    GIVE_UP = enum.auto()


class Silence:
    """Judges the silence of one channel.

    Call `look` regularly. Set ``probed_s`` when a probe is sent, and ``overdue`` when a deadline was missed.
    """

    __slots__ = ("_busy_since", "_last_heard", "dead_after_s", "max_s", "overdue", "probed_s")

    def __init__(
        self,
        now: float,
        dead_after_s: float = limits.CHANNEL_DEAD_AFTER_S,
        max_s: float = limits.CHANNEL_SILENCE_MAX_S,
    ) -> None:
        #: The time of the probe, or None if the exporter was not probed since the last sign of life.
        self.probed_s: float | None = None
        self.overdue = False
        self.dead_after_s = dead_after_s
        self.max_s = max_s
        self._last_heard = now
        self._busy_since: float | None = None

    def look(self, now: float, *, heard: bool, busy: bool, siblings_heard_s: float | None = None) -> Verdict:
        """Return what to do now.

        ``heard`` says that a sign of life came since the last look, and ``busy`` that a request is outstanding.
        ``siblings_heard_s`` is the time of the last sign of life on the session's other channels, None without any.
        """
        if heard:
            self.probed_s, self.overdue = None, False
            self._last_heard = now
        if not busy:
            self._busy_since = None
            return Verdict.PROBE if now - self._last_heard >= limits.CHANNEL_IDLE_PROBE_S else Verdict.FINE
        if self._busy_since is None:
            self._busy_since = now
        silent_s, probed_s = self.seconds(now), self.probed_s
        if silent_s >= self.max_s and (probed_s is not None or self.overdue):
            return Verdict.GIVE_UP
        if siblings_heard_s is not None and probed_s is not None:
            return Verdict.GIVE_UP if silent_s >= self.dead_after_s and siblings_heard_s > probed_s else Verdict.FINE
        alone = siblings_heard_s is None
        probe_after_s = limits.CHANNEL_PROBE_AFTER_S if alone else limits.CHANNEL_PROBE_BESIDE_OTHERS_S
        if silent_s >= probe_after_s and probed_s is None:
            return Verdict.PROBE
        return Verdict.FINE

    def seconds(self, now: float) -> float:
        """Return how long the exporter has been silent while a request was outstanding."""
        return 0.0 if self._busy_since is None else now - max(self._last_heard, self._busy_since)
