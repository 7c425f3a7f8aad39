"""Decides when a call fails at once instead of waiting for an exporter, or for a disk that hangs. Pure.

Every call ends within the mount's ``io_timeout_s`` (T). A program that repeats a failed call, as md does
sector by sector, would still wait for T at every call. So the bound counts once for all of them:

    the exporter is                                     a call that waits for it ends
    connected                                           at the call's own deadline
    away since A                                        at A + T; a call that begins later fails at once
    connected, and the disk is drained since A          the same
    connected, and the disk is suspended                at the call's own deadline; the disk never counts as hung

    the exporter is connected, and its disk             a call that begins ends
    answered something since each call of it began      at the call's own deadline
    answered nothing since S, and a call timed out      at S + T, or PROBE_PATIENCE_S after the time-out if that
                                                        is later; a call that begins after that fails at once
    answered nothing since S, and a write that began    the same: nothing is sent to the disk before that
    earlier timed out and is fenced                     write has ended

iSCSI calls the first bound replacement_timeout, NVMe fast_io_fail_tmo. The second bound replaces what SCSI and
NVMe do when a command timed out: they reset the device, and take it offline if that does not help. A mount
cannot reset a disk of another machine. Instead it reads one block by itself, and holds all other calls of the
disk until the disk has answered anything. A disk that is only slow answers something within T, so it never
counts as hung: only its late calls fail, one by one.
"""

from dataclasses import dataclass
from math import inf

from meshfs import limits


@dataclass(eq=False, slots=True)
class BlockedCall:
    """Describes a call that waits for its exporter to come back, or for a disk that may hang."""

    disk: str
    op: str
    since_s: float
    #: The time at which the call ends, unless the exporter or the disk changes its state before.
    ends_s: float


def ends_at(deadline: float, io_timeout_s: float, away_since_s: float | None) -> float:
    """Return when a call that waits for its exporter ends.

    ``away_since_s`` is None while the exporter is connected and the disk is not drained.
    """
    return deadline if away_since_s is None else min(deadline, away_since_s + io_timeout_s)


def silence_max_s(io_timeout_s: float) -> float:
    """Return how long an exporter may be silent while a request is outstanding, before its channel is given up.

    It is not longer than the bound, so that an exporter that is silent for the bound counts as away. It is not shorter
    than a probe takes: one tick to be sent and another one to be answered.
    """
    probe_s = limits.CHANNEL_PROBE_AFTER_S + 2 * limits.CHANNEL_TICK_S
    return max(probe_s, min(limits.CHANNEL_SILENCE_MAX_S, io_timeout_s))


class Answers:
    """Keeps the time of a disk's last answer, and the time from which its calls are held after a time-out."""

    __slots__ = ("last_s", "suspected_at_s", "suspected_since_s")

    def __init__(self, now: float) -> None:
        #: The time of the disk's last answer to a call. An error is an answer as well.
        self.last_s = now
        #: The time at which a call timed out, if the disk has answered nothing since then. Otherwise it is None.
        self.suspected_at_s: float | None = None
        #: The start of the disk's silence, as far as that call shows.
        self.suspected_since_s = now

    @property
    def held(self) -> bool:
        """Return whether calls are held, because the disk may hang."""
        return self.suspected_at_s is not None

    def timed_out(self, start_s: float, connected_since_s: float, now: float, *, fenced: bool) -> bool:
        """Judge by a call that timed out while the exporter is connected. Return whether this starts to hold calls.

        The call began at ``start_s``. The exporter is connected, and the disk not suspended, since
        ``connected_since_s``. ``fenced`` says that nothing can be sent until a write that was given up ends.
        """
        if self.suspected_at_s is not None or (self.last_s > start_s and not fenced):
            return False
        self.suspected_at_s = now
        self.suspected_since_s = max(start_s, connected_since_s, self.last_s)
        return True

    def ends_at(self, deadline: float, io_timeout_s: float) -> float:
        """Return when a call that is held ends."""
        if self.suspected_at_s is None:
            return deadline
        silent_for_bound_s = self.suspected_since_s + io_timeout_s
        return min(deadline, max(silent_for_bound_s, self.suspected_at_s + limits.PROBE_PATIENCE_S))

    def hung(self, now: float, io_timeout_s: float) -> bool:
        """Return whether calls of the disk fail at once."""
        return now >= self.ends_at(inf, io_timeout_s)

    def well(self, now: float) -> None:
        """Hold calls no longer, because the disk has answered or its session has ended."""
        self.suspected_at_s = None
        self.last_s = now
