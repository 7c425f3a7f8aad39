"""Which channel the next request takes, and which requests go in parts. Pure.

Every channel has a `Load`: the bytes that are outstanding on it, and its rate, measured from
what it really moves. A request takes the channel of the smallest

    (outstanding + size) / rate ** _PULL

or, where that one would take more than `_WAIT_MAX` times as long as another, by (outstanding + size) / rate, the
channel that is likely to be done with it first. So an interface of a tenth of the speed gets a part of a deep queue
and nothing of a shallow one, and does not hold up those who read in order. A large request that would leave a channel
idle all the while goes in parts, one for each channel, sized so that all end together, where that saves enough.

The exponent is a half. Where it is not the links that limit but a processor at either end, a channel moves in
proportion to what it is given, and so does its rate. With an exponent of 1 any shares would keep themselves, and two
equal links can come to carry a thirtieth and the rest. Below 1 equal shares are the stable ones. Where the links
limit, that alone would give a link of a tenth of the speed a third of the other's queue. Its answers would take
three times as long, and whoever reads in order would get less than from the fast link alone: `_WAIT_MAX` bounds that.
It is above 2, since a second request on a channel takes twice as long as the first, and has to be possible.

The rate. While a channel has something outstanding its time is busy time; what it moved in it
gives a sample, every `_SAMPLE_BYTES` or `_SAMPLE_AGE_S`, and samples a moving mean. A channel
that was never measured, or got nothing for `_STALE_S`, is tried with as little as tells
something: a small request, or a part of a large one.

A request of a few KiB costs a path time, not bytes: each counts for `_REQUEST_BYTES` more.
"""

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

_SAMPLE_BYTES: Final = 512 << 10
_SAMPLE_AGE_S: Final = 1.0
_REQUEST_BYTES: Final = 16 << 10
_MEAN: Final = 0.25
_PULL: Final = 0.5
_WAIT_MAX: Final = 2.25
_STALE_S: Final = 2.0
#: Longer than anything takes: whatever is known to work goes before what was never measured.
_UNMEASURED_S: Final = 1e6
#: Before anything was measured, and where the drivers tell nothing: 1 Gbit/s.
RATE_UNKNOWN_BYTES_S: Final = 125e6
#: Parts are of whole pages (a sector is never cut), and not so small that the requests cost more than they save.
_PART_BYTES: Final = 4096
_PART_MIN_BYTES: Final = 64 << 10
#: Smaller ones never go in parts.
SPLIT_MIN_BYTES: Final = 2 * _PART_MIN_BYTES
#: A request that one channel moves in less is not worth taking apart: that costs about 0.2 ms of CPU at the ends.
SPLIT_MIN_S: Final = 0.002
#: The time parts have to take, of the whole's: whoever waits for several waits for the slowest of them.
_SPLIT_GAIN_MAX: Final = 0.85
_THROUGHPUT_S: Final = 2.0


class Load:
    """One channel's. ``begin`` and ``end`` (or ``drop``) are told of every READ and WRITE."""

    __slots__ = (
        "_busy_s", "_mark_s", "_moved_bytes", "_samples", "measured", "outstanding_bytes", "pull", "rate_bytes_s",
        "sampled_s",
    )  # fmt: skip

    def __init__(self, now: float, rate_bytes_s: float = RATE_UNKNOWN_BYTES_S) -> None:
        self.outstanding_bytes = 0
        #: What it moves in a second; ``measured``, or promised.
        self.rate_bytes_s = rate_bytes_s
        #: By what shares of a queue go.
        self.pull: float = rate_bytes_s**_PULL
        self.measured = False
        #: When the rate was measured last.
        self.sampled_s = now
        self._moved_bytes = 0
        self._busy_s = 0.0
        self._mark_s = now
        self._samples = 0

    def begin(self, size: int, now: float) -> None:
        if not self.outstanding_bytes:
            self._mark_s = now
        self.outstanding_bytes += size + _REQUEST_BYTES

    def end(self, size: int, now: float) -> None:
        self.outstanding_bytes -= size + _REQUEST_BYTES
        self._busy_s += now - self._mark_s
        self._mark_s = now
        self._moved_bytes += size + _REQUEST_BYTES
        if self._moved_bytes >= _SAMPLE_BYTES or now - self.sampled_s >= _SAMPLE_AGE_S or not self.measured:
            self._sample(now)

    def drop(self, size: int) -> None:
        """What was begun will not be sent after all."""
        self.outstanding_bytes -= size + _REQUEST_BYTES

    def _sample(self, now: float) -> None:
        if self._busy_s > 0:
            # What was found long ago says little, and the first answers of a path are its slowest.
            self._samples = 1 if now - self.sampled_s >= _STALE_S else self._samples + 1
            rate = self._moved_bytes / self._busy_s
            self.rate_bytes_s += (rate - self.rate_bytes_s) * max(_MEAN, 1 / self._samples)
            self.pull = self.rate_bytes_s**_PULL
            self.measured = True
        self._moved_bytes, self._busy_s, self.sampled_s = 0, 0.0, now

    def seconds(self, size: int) -> float:
        """Until it would be done with ``size`` more."""
        seconds = (self.outstanding_bytes + size + _REQUEST_BYTES) / self.rate_bytes_s
        return seconds if self.measured else seconds + _UNMEASURED_S

    def queue(self, size: int) -> float:
        """How long its queue is with ``size`` more; of use beside others' only."""
        queue = (self.outstanding_bytes + size + _REQUEST_BYTES) / self.pull
        return queue if self.measured else queue + _UNMEASURED_S

    def to_try(self, now: float) -> bool:
        """Nothing was found of its rate for long, or ever, and nothing will be."""
        return not self.outstanding_bytes and (not self.measured or now - self.sampled_s >= _STALE_S)


class Throughput:
    """What a channel moves, for people: a mean of the last seconds, both ways."""

    __slots__ = ("_at_s", "_received", "_sent", "received_bytes_s", "sent_bytes_s")

    def __init__(self) -> None:
        self.sent_bytes_s = 0.0
        self.received_bytes_s = 0.0
        self._sent = 0
        self._received = 0
        self._at_s: float | None = None

    def look(self, now: float, sent_bytes: int, received_bytes: int) -> None:
        """To be told of the counters a few times a second."""
        if self._at_s is not None and now > self._at_s:
            passed_s = now - self._at_s
            weight = min(1.0, passed_s / _THROUGHPUT_S)
            self.sent_bytes_s += weight * ((sent_bytes - self._sent) / passed_s - self.sent_bytes_s)
            self.received_bytes_s += weight * ((received_bytes - self._received) / passed_s - self.received_bytes_s)
        self._at_s, self._sent, self._received = now, sent_bytes, received_bytes


class Loaded(Protocol):
    """A channel."""

    load: Load


C = TypeVar("C", bound=Loaded)


class Spread(Generic[C]):
    """The channels of a session that take requests."""

    __slots__ = ("_only", "channels")

    def __init__(self) -> None:
        self.channels: list[C] = []
        self._only: C | None = None

    def add(self, channel: C) -> None:
        self._set([*self.channels, channel])

    def remove(self, channel: C) -> None:
        """One that is not among them is no error."""
        self._set([other for other in self.channels if other is not channel])

    def _set(self, channels: list[C]) -> None:
        self.channels = channels
        self._only = channels[0] if len(channels) == 1 else None

    def pick(self, size: int, now: float) -> C | None:
        """The channel for a request of ``size`` bytes; None when there is none."""
        if self._only is not None:
            return self._only
        best, shortest, best_s = None, 0.0, 0.0
        first, first_s = None, 0.0
        for channel in self.channels:
            load = channel.load
            if 0 < size < SPLIT_MIN_BYTES and load.to_try(now):
                return channel
            queue, seconds = load.queue(size), load.seconds(size)
            if best is None or queue < shortest:
                best, shortest, best_s = channel, queue, seconds
            if first is None or seconds < first_s:
                first, first_s = channel, seconds
        return best if best_s <= _WAIT_MAX * first_s else first

    def split(self, size: int, now: float) -> list[tuple[C, int]]:
        """(channel, bytes) in the order of the data; empty when the request goes whole."""
        if self._only is not None or size < SPLIT_MIN_BYTES or len(self.channels) < 2:
            return []
        best = min(self.channels, key=lambda channel: channel.load.seconds(size))
        whole_s = best.load.seconds(size)
        if SPLIT_MIN_S <= whole_s < _UNMEASURED_S:
            idle = [
                channel
                for channel in self.channels
                if channel is not best and channel.load.outstanding_bytes / channel.load.rate_bytes_s < whole_s / 2
            ]
            parts = _level([best, *idle], size, _SPLIT_GAIN_MAX * whole_s) if idle else []
            if parts:
                return parts
        old = next((channel for channel in self.channels if channel is not best and channel.load.to_try(now)), None)
        return [] if old is None else [(best, size - _PART_MIN_BYTES), (old, _PART_MIN_BYTES)]


def _level(channels: list[C], size: int, most_s: float) -> list[tuple[C, int]]:
    """Parts that end together, within ``most_s``; channels whose part would be too small are left out."""
    chosen = channels
    while len(chosen) > 1:
        rates = [channel.load.rate_bytes_s for channel in chosen]
        ahead = [channel.load.outstanding_bytes + _REQUEST_BYTES for channel in chosen]
        end_s = (size + sum(ahead)) / sum(rates)
        if end_s > most_s:
            return []
        parts = [end_s * rate - bytes_ for rate, bytes_ in zip(rates, ahead, strict=True)]
        smallest = min(range(len(parts)), key=parts.__getitem__)
        if parts[smallest] >= _PART_MIN_BYTES:
            return list(zip(chosen, _rounded(parts, size), strict=True))
        chosen = [channel for index, channel in enumerate(chosen) if index != smallest]
    return []


def _rounded(parts: Iterable[float], size: int) -> list[int]:
    """Whole pages that add up to ``size``."""
    rounded = [int(part) // _PART_BYTES * _PART_BYTES for part in parts]
    rounded[0] += size - sum(rounded)
    return rounded
