"""Latencies counted in buckets, to compute percentiles in a fixed amount of memory.

The buckets' upper bounds are the R10 series of preferred numbers (ISO 3), ten per decade, from
1 us to 100 s:

    1  1.25  1.6  2  2.5  3.15  4  5  6.3  8   times  1 us, 10 us, ..., 10 s   and 100 s

Neighbouring bounds differ by at most 28 %. A percentile is reported as the geometric mean of its bucket's bounds, so it
is within 13 % of the true one. The series contains the bounds of the coarse buckets in the documents (1, 5, 10, 100,
1000 and 10000 ms), so the coarse counts are exact.

Bucket i counts the latencies above bound i - 1 and up to bound i; the last bucket counts the rest. A negative latency
(after a clock jumped back) and NaN count in the lowest bucket, and an absurdly high latency in the highest. No value
raises an error.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import ceil, sqrt
from typing import Final

_R10: Final = (100, 125, 160, 200, 250, 315, 400, 500, 630, 800)

#: Inclusive upper bounds of the fine buckets in seconds. The division comes last, so that each is the nearest float.
BOUNDS_S: Final[tuple[float, ...]] = (*(step * 10**decade / 10**8 for decade in range(8) for step in _R10), 100.0)
BUCKETS: Final = len(BOUNDS_S) + 1

#: Inclusive upper bounds of all coarse buckets except the last.
COARSE_BOUNDS_MS: Final = (1, 5, 10, 100, 1000, 10_000)
_COARSE_ENDS: Final = (0, *(BOUNDS_S.index(bound / 1000) + 1 for bound in COARSE_BOUNDS_MS), BUCKETS)

# The reported value of a percentile in each bucket.
_MIDDLES_S: Final = (BOUNDS_S[0], *(sqrt(low * high) for low, high in pairwise(BOUNDS_S)), BOUNDS_S[-1])


class Histogram:
    """``counts[i]`` is the number of latencies in bucket i. Hot code may add with ``bisect_left(BOUNDS_S, ...)``."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] | None = None) -> None:
        self.counts = [0] * BUCKETS if counts is None else list(counts)

    def add(self, latency_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, latency_s)] += 1

    @property
    def count(self) -> int:
        return sum(self.counts)

    def merge(self, other: "Histogram") -> None:
        """Add the counts of ``other``."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]

    def percentile(self, q: float) -> float | None:
        """Return the latency in seconds that ``q`` percent (0 to 100) don't exceed, or None when empty.

        It is the nearest-rank percentile within 13 %, but never below 1 us and never above 100 s.
        """
        rank = max(1, ceil(self.count * q / 100))
        for index, reached in enumerate(accumulate(self.counts)):
            if reached >= rank:
                return _MIDDLES_S[index]
        return None

    def coarse(self) -> list[int]:
        """Return the counts of the coarse buckets: up to 1, 5, 10, 100, 1000 and 10000 ms, and longer."""
        return [sum(self.counts[start:end]) for start, end in pairwise(_COARSE_ENDS)]
