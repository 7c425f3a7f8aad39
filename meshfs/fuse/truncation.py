"""What one opener of a disk skips, as in a regular file. Pure.

A disk cannot be truncated, but programs that write files rely on what truncation means: after O_TRUNC or
ftruncate(n), whatever the program skips reads as zeros. So a truncated opener remembers which bytes are *owed*
as zeros, and they are zeroed when it writes, or moves its end, behind them:

    after O_TRUNC           [======================= owed ==========================...
    write at 4, 3 bytes     [0000]DDD[============== owed ==========================...
    ftruncate(9)            [0000]DDD[00][========== owed ==========================...
    close                   what is still owed stays as it is on the disk

    zero before it is done      a write at offset: what is owed below it;  ftruncate(n): what is owed below n
    no longer owed afterwards   a write: its own bytes as well
    owed again                  ftruncate(n): everything from n on;  what of a failed call was not done

An opener that never truncated owes nothing, and has no `Truncation`.

Calls on one opener may run at once (threads, libaio, io_uring). Zeros must never land over data that another
call wrote, hence:

 1. A call claims what it will zero or write before it starts, and no other call claims it as well.
 2. A call waits while another one zeroes anything that begins below its own end (`waits`). Calls wait only for
    claims that were made before, so none waits for ever; and a call that succeeds leaves nothing stale below it.
 3. A failed call owes its own bytes again only where no other call wrote at the same time.
"""

from typing import Final

#: Behind every disk's end.
BEYOND: Final = 1 << 63

Range = tuple[int, int]


class ClaimedRanges:
    """One call under way: the ranges [start, stop) it zeroes, in order, and those of its bytes that were owed."""

    __slots__ = ("gaps", "own")

    def __init__(self, gaps: list[Range], own: list[Range]) -> None:
        self.gaps = gaps
        self.own = own

    def zeroed(self, count: int) -> None:
        """Note that the first ``count`` bytes of the first gap are zeros now."""
        start, stop = self.gaps[0]
        if start + count < stop:
            self.gaps[0] = (start + count, stop)
        else:
            del self.gaps[0]


class Truncation:
    """The owed ranges of one opener, and the calls on it that are under way."""

    __slots__ = ("_claims", "_owed")

    def __init__(self) -> None:
        # Disjoint, in order, none of them next to another.
        self._owed: list[Range] = []
        self._claims: list[ClaimedRanges] = []

    @property
    def owed(self) -> list[Range]:
        return list(self._owed)

    def truncate(self, size: int) -> None:
        """Move the end to ``size``. What is owed below must have been zeroed by a claim up to there before."""
        self._owed = _united([*self._owed, (size, BEYOND)])

    def waits(self, stop: int) -> bool:
        """Return whether a call that reaches up to ``stop`` has to wait for the zeroing of another one."""
        return any(claim.gaps and claim.gaps[0][0] < stop for claim in self._claims)

    def claim(self, start: int, stop: int) -> ClaimedRanges:
        """Begin a call that writes [start, stop), or that moves the end to ``start`` (which is ``stop`` then)."""
        for other in self._claims:
            other.own = _without(other.own, start, stop)
        gaps = _within(self._owed, 0, start)
        own = _within(self._owed, start, stop)
        self._owed = _without(self._owed, 0, stop)
        claim = ClaimedRanges(gaps, own)
        self._claims.append(claim)
        return claim

    def end(self, claim: ClaimedRanges, written_to: int) -> None:
        """Note that the call is over, and has written its own bytes up to ``written_to``."""
        self._claims.remove(claim)
        left = [*claim.gaps, *_without(claim.own, 0, written_to)]
        if left:
            self._owed = _united([*self._owed, *left])


def _within(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """Return the parts of ``ranges`` inside [start, stop)."""
    cut = ((max(begin, start), min(end, stop)) for begin, end in ranges)
    return [(begin, end) for begin, end in cut if begin < end]


def _without(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """Return the parts of ``ranges`` outside [start, stop)."""
    return _within(ranges, 0, start) + _within(ranges, stop, BEYOND) if start < stop else ranges


def _united(ranges: list[Range]) -> list[Range]:
    """Return the same bytes in disjoint ranges, in order, with those joined that meet."""
    joined: list[Range] = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined
