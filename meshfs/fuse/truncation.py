"""Find the bytes that one opener of a disk skips, and that must read as zeros as in a regular file. Pure.

A disk cannot be truncated, but programs rely on a rule of regular files: after O_TRUNC or ftruncate(n), the bytes that
the program skips read as zeros. So a truncated opener remembers which bytes are *stale*: they still have old data.
Stale bytes are zeroed when the opener writes behind them, or moves its end behind them:

    after O_TRUNC           [====================== stale ==========================...
    write at 4, 3 bytes     [0000]DDD[============= stale ==========================...
    ftruncate(9)            [0000]DDD[00][========= stale ==========================...
    close                   bytes that are still stale keep their old data on the disk

                          write(offset)                         ftruncate(n)
    zeroed before         the stale bytes below ``offset``      the stale bytes below n
    not stale after it    those, and the bytes of the write     those
    stale after it                                              all bytes from n on

If a call fails, the bytes that it has not zeroed or written are stale again. An opener that never truncated has no
stale bytes, and no `Truncation`.

Several calls on one opener may run at once (threads, libaio, io_uring). Zeros must never overwrite data that another
call has written. Three rules ensure that:

 1. Before a call starts, it claims the bytes that it will zero or write. No other call claims the same stale bytes.
 2. A call waits while another one zeroes a range that begins below the end of the waiting call (`waits`). A call waits
    only for earlier claims, so none waits for ever. After a successful call, no byte below its end is stale.
 3. After a failed call, its own bytes are stale again only where no other call wrote at the same time.
"""

from typing import Final

#: An offset past the end of every disk.
BEYOND: Final = 1 << 63

Range = tuple[int, int]


class ClaimedRanges:
    """Holds the claim of one call in progress.

    ``gaps`` are the ranges [start, stop) that the call zeroes, in order. ``own`` are the stale ranges that it writes.
    """

    __slots__ = ("gaps", "own")

    def __init__(self, gaps: list[Range], own: list[Range]) -> None:
        self.gaps = gaps
        self.own = own

    def zeroed(self, count: int) -> None:
        """Note that the first ``count`` bytes of the first gap have been zeroed."""
        start, stop = self.gaps[0]
        if start + count < stop:
            self.gaps[0] = (start + count, stop)
        else:
            del self.gaps[0]


class Truncation:
    """Holds the stale ranges of one opener, and the claims of the calls in progress."""

    __slots__ = ("_claims", "_stale")

    def __init__(self) -> None:
        # The ranges are in order, and there is a gap between any two.
        self._stale: list[Range] = []
        self._claims: list[ClaimedRanges] = []

    @property
    def stale(self) -> list[Range]:
        return list(self._stale)

    def truncate(self, size: int) -> None:
        """Move the end to ``size``. Before that, a claim up to ``size`` must have zeroed the stale bytes below."""
        self._stale = _united([*self._stale, (size, BEYOND)])

    def waits(self, stop: int) -> bool:
        """Return whether a call that ends at ``stop`` has to wait for another call that zeroes."""
        return any(claim.gaps and claim.gaps[0][0] < stop for claim in self._claims)

    def claim(self, start: int, stop: int) -> ClaimedRanges:
        """Begin a call that writes [start, stop). A call that moves the end gives its new end as both arguments."""
        for other in self._claims:
            other.own = _without(other.own, start, stop)
        gaps = _within(self._stale, 0, start)
        own = _within(self._stale, start, stop)
        self._stale = _without(self._stale, 0, stop)
        claim = ClaimedRanges(gaps, own)
        self._claims.append(claim)
        return claim

    def end(self, claim: ClaimedRanges, written_to: int) -> None:
        """End the call, which has written its own bytes up to ``written_to``."""
        self._claims.remove(claim)
        left = [*claim.gaps, *_without(claim.own, 0, written_to)]
        if left:
            self._stale = _united([*self._stale, *left])


def _within(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """Return the parts of ``ranges`` inside [start, stop)."""
    cut = ((max(begin, start), min(end, stop)) for begin, end in ranges)
    return [(begin, end) for begin, end in cut if begin < end]


def _without(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """Return the parts of ``ranges`` outside [start, stop)."""
    return _within(ranges, 0, start) + _within(ranges, stop, BEYOND) if start < stop else ranges


def _united(ranges: list[Range]) -> list[Range]:
    """Return the same bytes as sorted ranges. Ranges that overlap or meet are joined."""
    joined: list[Range] = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined
