"""Decide which channel the next request takes, and which requests are split into parts. Pure.

Every channel has a `Load` (channel/load.py): the bytes that are outstanding on it, and its measured rate. A request
takes the channel with the smallest

    (outstanding + size) / rate ** _PULL                 rate ** _PULL is computed once per sample (channel/load.py)

If that channel would take more than `_WAIT_MAX` times as long as another one, the request takes instead the channel
that is likely to be done first, by (outstanding + size) / rate. So an interface of a tenth of the speed gets a part of
a deep queue and nothing of a shallow one, and does not delay programs that read in order.

The exponent `_PULL` is a half. If a processor at either end is the bottleneck, and not the links, the measured rate of
a channel is proportional to what the channel is given. With an exponent of 1, every distribution would then be stable:
of two equal links, one could carry a thirtieth for ever. With an exponent below 1, only equal shares are stable. If the
links are the bottleneck, the exponent alone would give a link of a tenth of the speed a third of the other's queue. Its
answers would take three times as long, and a program that reads in order would get less than from the fast link alone.
`_WAIT_MAX` bounds that. It is above 2, because a second request on a channel takes twice as long as the first, and
has to be possible.

A channel that was never measured, or was given nothing for seconds, gets just enough for a sample: a small request, or
one part of a large one.

If a channel would be idle before a large request on another channel ends, the request is split into parts, one for each
channel. The parts are sized so that all end at the same time. A request is only split if that saves enough time.
"""

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from meshfs.initiator.channel.load import REQUEST_BYTES, UNMEASURED_S, Load

_WAIT_MAX: Final = 2.25
#: Parts are whole pages, so that no sector is cut.
_PART_BYTES: Final = 4096
#: A smaller part would cost more for its own request than it saves.
_PART_MIN_BYTES: Final = 64 << 10
#: A smaller request is never split.
SPLIT_MIN_BYTES: Final = 2 * _PART_MIN_BYTES
#: A request that one channel moves in less time is not split, because splitting costs about 0.2 ms of CPU at the ends.
SPLIT_MIN_S: Final = 0.002
#: The most time that the slowest part may take, as a fraction of the time of the whole request on one channel.
_SPLIT_GAIN_MAX: Final = 0.85


class LoadedChannel(Protocol):
    """Gives the load of a channel."""

    load: Load


C = TypeVar("C", bound=LoadedChannel)


class Spread(Generic[C]):
    """Chooses between the channels of a session that take requests."""

    __slots__ = ("_only", "channels")

    def __init__(self) -> None:
        self.channels: list[C] = []
        self._only: C | None = None

    def add(self, channel: C) -> None:
        self._set([*self.channels, channel])

    def remove(self, channel: C) -> None:
        """Give the channel no more requests. Do nothing if the channel takes no requests already."""
        self._set([other for other in self.channels if other is not channel])

    def _set(self, channels: list[C]) -> None:
        self.channels = channels
        self._only = channels[0] if len(channels) == 1 else None

    def pick(self, size: int, now: float) -> C | None:
        """Return the channel for a request of ``size`` bytes, or None if the session has no channel."""
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
        """Return the parts as (channel, bytes) in the order of the data, or an empty list if one channel takes all."""
        if self._only is not None or size < SPLIT_MIN_BYTES or len(self.channels) < 2:
            return []
        best = min(self.channels, key=lambda channel: channel.load.seconds(size))
        whole_s = best.load.seconds(size)
        if SPLIT_MIN_S <= whole_s < UNMEASURED_S:
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
    """Return parts that end at the same time. A channel whose part would be too small gets none.

    Return an empty list if the parts would take longer than ``most_s``, or if only one channel is left.
    """
    chosen = channels
    while len(chosen) > 1:
        rates = [channel.load.rate_bytes_s for channel in chosen]
        ahead = [channel.load.outstanding_bytes + REQUEST_BYTES for channel in chosen]
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
    """Return the parts as whole pages that add up to ``size``. The first part takes the rest."""
    rounded = [int(part) // _PART_BYTES * _PART_BYTES for part in parts]
    rounded[0] += size - sum(rounded)
    return rounded
