"""Latencies counted in buckets: percentiles out of a fixed amount of memory.

The buckets' upper bounds are the R10 series of preferred numbers (ISO 3), ten a decade, from
1 us to 100 s:

    1  1.25  1.6  2  2.5  3.15  4  5  6.3  8   times  1 us, 10 us, ..., 10 s   and 100 s

Neighbours are at most 28 % apart, so a percentile told as the geometric middle of its bucket
is within 13 % of the true one. The series has the edges of the coarse buckets that
administrators know (1, 5, 10, 100, 1000 and 10000 ms) among its own, so those counts are exact.

Bucket i holds what is above bound i - 1 and at most bound i; the last holds the rest. A
latency below zero (a clock that jumped back) counts as the lowest, an absurd one as the
highest, NaN as the lowest; nothing raises.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import ceil, sqrt
from typing import Final

_R10: Final = (100, 125, 160, 200, 250, 315, 400, 500, 630, 800)

#: Upper bounds of the fine buckets in seconds, included; divided last, so that each is the nearest float.
BOUNDS_S: Final[tuple[float, ...]] = (*(step * 10**decade / 10**8 for decade in range(8) for step in _R10), 100.0)
BUCKETS: Final = len(BOUNDS_S) + 1

#: Upper bounds of all coarse buckets but the last, included.
COARSE_BOUNDS_MS: Final = (1, 5, 10, 100, 1000, 10_000)
_COARSE_ENDS: Final = (0, *(BOUNDS_S.index(bound / 1000) + 1 for bound in COARSE_BOUNDS_MS), BUCKETS)

# What a percentile within a bucket is told as.
_MIDDLES_S: Final = (BOUNDS_S[0], *(sqrt(low * high) for low, high in pairwise(BOUNDS_S)), BOUNDS_S[-1])


class Histogram:
    """``counts[i]``: how many were in bucket i. Hot code may count there with ``bisect_left(BOUNDS_S, ...)``."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] | None = None) -> None:
        self.counts = [0] * BUCKETS if counts is None else list(counts)

    def add(self, latency_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, latency_s)] += 1

    @property
    def count(self) -> int:
        return sum(self.counts)

    def merge(self, other: "Histogram") -> None:
        """Count what ``other`` counted as well."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]

    def percentile(self, q: float) -> float | None:
        """The latency in seconds that ``q`` percent (0 to 100) don't exceed; None when empty.

        It is the nearest-rank percentile within 13 % (never under 1 us, never over 100 s).
        """
        rank = max(1, ceil(self.count * q / 100))
        for index, reached in enumerate(accumulate(self.counts)):
            if reached >= rank:
                return _MIDDLES_S[index]
        return None

    def coarse(self) -> list[int]:
        """How many took at most 1, 5, 10, 100, 1000, 10000 ms (each from the one before), and longer."""
        return [sum(self.counts[start:end]) for start, end in pairwise(_COARSE_ENDS)]
