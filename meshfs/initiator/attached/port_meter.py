"""Measure the I/O of one disk's openers: counts and latencies since the start, and latencies of the last 30 to 60 s.

A latency is measured from the call to its end. It includes all waiting: for credits, for an exporter that is away, for
the disk. A call that ends with an error counts as a call, with its latency, and as an error. A call whose caller was
killed is not counted.

Percentiles come from the last 30 to 60 seconds. There are two histograms beside the total: the current one and the one
before. Every ``PERIOD_S`` the current one becomes the one before, and the old one is added to the total. So the hot
path increments one counter a call.
"""

from bisect import bisect_left
from typing import Final

from meshfs.telemetry.documents import DiskIoDocument, Percentiles
from meshfs.telemetry.histogram import BOUNDS_S, COARSE_BOUNDS_MS, Histogram

PERIOD_S: Final = 30.0
_COARSE_BUCKETS: Final = len(COARSE_BOUNDS_MS) + 1


class _Latencies:
    """Counts the latencies of one kind of call. Times are of trio's clock."""

    __slots__ = ("_before", "_counts", "_current", "_ends_s", "_older", "time_s")

    def __init__(self, now: float) -> None:
        #: The sum of all latencies.
        self.time_s = 0.0
        self._older = Histogram()
        self._before = Histogram()
        self._start(now + PERIOD_S)

    def _start(self, ends_s: float) -> None:
        self._current = Histogram()
        self._counts = self._current.counts
        self._ends_s = ends_s

    def add(self, start_s: float, now: float) -> None:
        if now >= self._ends_s:
            self._move_on(now)
        latency_s = now - start_s
        self.time_s += latency_s
        self._counts[bisect_left(BOUNDS_S, latency_s)] += 1

    def _move_on(self, now: float) -> None:
        self._older.merge(self._before)
        if now < self._ends_s + PERIOD_S:
            self._before = self._current
            self._start(self._ends_s + PERIOD_S)
        else:
            # No call has ended for a whole period.
            self._older.merge(self._current)
            self._before = Histogram()
            self._start(now + PERIOD_S)

    def status(self, now: float) -> tuple[int, list[int], Percentiles]:
        """Return the count and the coarse buckets of all calls, and percentiles in ms of the last 30 to 60 seconds."""
        if now >= self._ends_s:
            self._move_on(now)
        lately = self._current
        if self._before.count:
            lately = Histogram(lately.counts)
            lately.merge(self._before)
        total = lately
        if self._older.count:
            total = Histogram(total.counts)
            total.merge(self._older)
        count = total.count
        if not count:
            return 0, [0] * _COARSE_BUCKETS, {"p50": None, "p99": None}
        return count, total.coarse(), {"p50": _ms(lately.percentile(50)), "p99": _ms(lately.percentile(99))}


class PortMeter:
    """Counts the calls of one disk. The hot path calls ``read``, ``wrote`` or ``flushed`` when a call has ended."""

    __slots__ = ("_flushes", "_reads", "_writes", "errors", "read_bytes", "written_bytes")

    def __init__(self, now: float) -> None:
        self.errors = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self._reads = _Latencies(now)
        self._writes = _Latencies(now)
        self._flushes = _Latencies(now)

    def read(self, size: int, start_s: float, now: float) -> None:
        """Count a read that returned ``size`` bytes."""
        self.read_bytes += size
        self._reads.add(start_s, now)

    def wrote(self, size: int, start_s: float, now: float) -> None:
        self.written_bytes += size
        self._writes.add(start_s, now)

    def flushed(self, start_s: float, now: float) -> None:
        self._flushes.add(start_s, now)

    def failed_read(self, start_s: float, now: float) -> None:
        self.errors += 1
        self._reads.add(start_s, now)

    def failed_write(self, start_s: float, now: float) -> None:
        self.errors += 1
        self._writes.add(start_s, now)

    def failed_flush(self, start_s: float, now: float) -> None:
        self.errors += 1
        self._flushes.add(start_s, now)

    def status(self, now: float) -> DiskIoDocument:
        """Return the part "io" of the disk in the mount's status."""
        reads, read_histogram, read_latency_ms = self._reads.status(now)
        writes, write_histogram, write_latency_ms = self._writes.status(now)
        flushes, flush_histogram, flush_latency_ms = self._flushes.status(now)
        return {
            "errors": self.errors,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "read_time_s": round(self._reads.time_s, 6),
            "reads": reads,
            "read_histogram": read_histogram,
            "read_latency_ms": read_latency_ms,
            "write_time_s": round(self._writes.time_s, 6),
            "writes": writes,
            "write_histogram": write_histogram,
            "write_latency_ms": write_latency_ms,
            "flush_time_s": round(self._flushes.time_s, 6),
            "flushes": flushes,
            "flush_histogram": flush_histogram,
            "flush_latency_ms": flush_latency_ms,
        }


def _ms(latency_s: float | None) -> float | None:
    return None if latency_s is None else round(latency_s * 1000, 3)
