"""When a call fails at once instead of waiting for an exporter, or for a disk that hangs. Pure.

Every call ends within the mount's ``io_timeout_s`` (T). A program that repeats a failed call, as md does
sector by sector, would still stand for T at every call. So the bound counts once for all of them:

    the exporter is                                     a call that waits for it ends
    connected                                           at the call's own deadline
    away since A                                        at A + T; a call that begins later fails at once

    the exporter is connected, and its disk             a call that begins ends
    answered something since each call of it began      at the call's own deadline
    answered nothing since S, and a call timed out      at S + T, or PROBE_PATIENCE_S after the time-out if that
                                                        is later; a call that begins after that fails at once
    answered nothing since S, and a write that began    the same: nothing is sent to the disk before that
    earlier timed out and is fenced                     write has ended

iSCSI calls the first bound replacement_timeout, NVMe fast_io_fail_tmo. The second one stands where SCSI and
NVMe reset a device when a command timed out, and take it offline when that does not help: a mount cannot reset
a disk of another machine. Instead it reads one block by itself, and holds all other calls of the disk until the
disk has answered anything. A disk that is merely slow answers something within T, so it is never taken for
hung: only its late calls fail, one by one.
"""

from dataclasses import dataclass
from math import inf

from meshfs import limits


@dataclass(eq=False, slots=True)
class BlockedCall:
    """A call that waits for its exporter to come back, or for a disk that may hang."""

    disk: str
    op: str
    since_s: float
    #: When the call ends, as things are now.
    ends_s: float


def ends_at(deadline: float, io_timeout_s: float, away_since_s: float | None) -> float:
    """When a call that waits for its exporter ends; ``away_since_s`` is None while the exporter is connected."""
    return deadline if away_since_s is None else min(deadline, away_since_s + io_timeout_s)


def silence_max_s(io_timeout_s: float) -> float:
    """Return how long an exporter that owes an answer may be silent before its channel is given up.

    Not longer than the bound, so that an exporter that is silent for the bound counts as away. Not shorter than a
    probe takes: one tick to be sent and another one to be answered.
    """
    probe_s = limits.CHANNEL_PROBE_AFTER_S + 2 * limits.CHANNEL_TICK_S
    return max(probe_s, min(limits.CHANNEL_SILENCE_MAX_S, io_timeout_s))


class Answers:
    """When a disk answered last, and since when its calls are held because one of them timed out."""

    __slots__ = ("last_s", "suspected_at_s", "suspected_since_s")

    def __init__(self, now: float) -> None:
        #: When the disk answered a call last, be it with an error.
        self.last_s = now
        #: When a call timed out, after which the disk has answered nothing yet. None: the disk is well.
        self.suspected_at_s: float | None = None
        #: Since when it has been silent, as far as that call tells.
        self.suspected_since_s = now

    @property
    def held(self) -> bool:
        """Return whether calls wait until it is known whether the disk hangs."""
        return self.suspected_at_s is not None

    def timed_out(self, start_s: float, connected_since_s: float, now: float, *, fenced: bool) -> bool:
        """A call that began at ``start_s`` timed out while the exporter is connected. True: calls are held from now on.

        ``fenced``: nothing can be sent until a write that was given up has ended.
        """
        if self.suspected_at_s is not None or (self.last_s > start_s and not fenced):
            return False
        self.suspected_at_s = now
        self.suspected_since_s = max(start_s, connected_since_s, self.last_s)
        return True

    def ends_at(self, deadline: float, io_timeout_s: float) -> float:
        """When a call that is held ends."""
        if self.suspected_at_s is None:
            return deadline
        silent_for_bound_s = self.suspected_since_s + io_timeout_s
        return min(deadline, max(silent_for_bound_s, self.suspected_at_s + limits.PROBE_PATIENCE_S))

    def hung(self, now: float, io_timeout_s: float) -> bool:
        """Return whether its calls fail at once."""
        return now >= self.ends_at(inf, io_timeout_s)

    def well(self, now: float) -> None:
        """The disk has answered, or its session is gone and the next one begins afresh."""
        self.suspected_at_s = None
        self.last_s = now
