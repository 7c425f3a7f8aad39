"""Measure how busy a channel is, and how fast. Pure; time is an argument.

A session that has several channels chooses between them by their loads (session/balance.py). A load has two parts:

    outstanding   the bytes of the READs and WRITEs that were started and have no answer yet
    rate          the bytes per second that the channel moved while something was outstanding

The time during which something is outstanding is busy time. The bytes that the channel moved in its busy time give one
sample of the rate, as soon as they are `_SAMPLE_BYTES` or the last sample is `_SAMPLE_AGE_S` old. The rate is a moving
mean of the samples. Before the first sample, the rate is the one that the interfaces promise.

A request of a few KiB costs the path more time than its bytes say. So each request counts for `REQUEST_BYTES` more.
"""

from typing import Final

_SAMPLE_BYTES: Final = 512 << 10
_SAMPLE_AGE_S: Final = 1.0
REQUEST_BYTES: Final = 16 << 10
#: The weight of one sample in the mean.
_MEAN: Final = 0.25
#: session/balance.py says why the exponent is a half.
_PULL: Final = 0.5
#: A rate that was measured longer ago than this is old, and is measured again when the channel is idle.
_STALE_S: Final = 2.0
#: Longer than any request takes, so that a channel whose rate is known is preferred to one that was never measured.
UNMEASURED_S: Final = 1e6
#: The rate before the first measurement, if the drivers promise none: 1 Gbit/s.
RATE_UNKNOWN_BYTES_S: Final = 125e6
#: The time over which the throughput in the status documents is averaged.
_THROUGHPUT_S: Final = 2.0


class Load:
    """Keeps the load of one channel, which calls ``begin`` and ``end`` (or ``drop``) for every READ and WRITE."""

    __slots__ = (
        "_busy_s",
        "_mark_s",
        "_moved_bytes",
        "_samples",
        "measured",
        "outstanding_bytes",
        "pull",
        "rate_bytes_s",
        "sampled_s",
    )

    def __init__(self, now: float, rate_bytes_s: float = RATE_UNKNOWN_BYTES_S) -> None:
        self.restart(now, rate_bytes_s)

    def restart(self, now: float, rate_bytes_s: float) -> None:
        """Forget everything. Nothing is outstanding then, and the rate is the one that the interfaces promise."""
        self.outstanding_bytes = 0
        #: The mean of the samples in bytes per second if ``measured`` is set, else the rate promised by the interfaces.
        self.rate_bytes_s = rate_bytes_s
        #: The channel's part of a deep queue, relative to the ``pull`` of the other channels.
        self.pull: float = rate_bytes_s**_PULL
        self.measured = False
        #: The time of the last sample.
        self.sampled_s = now
        self._moved_bytes = 0
        self._busy_s = 0.0
        self._mark_s = now
        self._samples = 0

    def begin(self, size: int, now: float) -> None:
        """Count a request of ``size`` bytes that was started."""
        if not self.outstanding_bytes:
            self._mark_s = now
        self.outstanding_bytes += size + REQUEST_BYTES

    def end(self, size: int, now: float) -> None:
        """Count the answer to a request of ``size`` bytes."""
        self.outstanding_bytes -= size + REQUEST_BYTES
        self._busy_s += now - self._mark_s
        self._mark_s = now
        self._moved_bytes += size + REQUEST_BYTES
        if self._moved_bytes >= _SAMPLE_BYTES or now - self.sampled_s >= _SAMPLE_AGE_S or not self.measured:
            self._sample(now)

    def drop(self, size: int) -> None:
        """Take back a request of ``size`` bytes that will not be sent after all."""
        self.outstanding_bytes -= size + REQUEST_BYTES

    def _sample(self, now: float) -> None:
        if self._busy_s > 0:
            # After a pause, the mean starts with this sample. Old samples say little, and the first answers of a path
            # are its slowest, so the early samples have a larger weight.
            self._samples = 1 if now - self.sampled_s >= _STALE_S else self._samples + 1
            rate = self._moved_bytes / self._busy_s
            self.rate_bytes_s += (rate - self.rate_bytes_s) * max(_MEAN, 1 / self._samples)
            self.pull = self.rate_bytes_s**_PULL
            self.measured = True
        self._moved_bytes, self._busy_s, self.sampled_s = 0, 0.0, now

    def seconds(self, size: int) -> float:
        """Return how long the channel would need for all that is outstanding and ``size`` bytes more."""
        seconds = (self.outstanding_bytes + size + REQUEST_BYTES) / self.rate_bytes_s
        return seconds if self.measured else seconds + UNMEASURED_S

    def queue(self, size: int) -> float:
        """Return the length of the channel's queue with ``size`` bytes more, in a unit that only compares channels."""
        queue = (self.outstanding_bytes + size + REQUEST_BYTES) / self.pull
        return queue if self.measured else queue + UNMEASURED_S

    def to_try(self, now: float) -> bool:
        """Return whether the rate is unknown or old, and nothing is outstanding that would measure it."""
        return not self.outstanding_bytes and (not self.measured or now - self.sampled_s >= _STALE_S)


class Throughput:
    """Measures the bytes per second that a channel moves each way, as a mean of seconds, for the status documents."""

    __slots__ = ("_at_s", "_received", "_sent", "received_bytes_s", "sent_bytes_s")

    def __init__(self) -> None:
        self.sent_bytes_s = 0.0
        self.received_bytes_s = 0.0
        self._sent = 0
        self._received = 0
        self._at_s: float | None = None

    def look(self, now: float, sent_bytes: int, received_bytes: int) -> None:
        """Take the channel's counters, a few times a second."""
        if self._at_s is not None and now > self._at_s:
            passed_s = now - self._at_s
            weight = min(1.0, passed_s / _THROUGHPUT_S)
            self.sent_bytes_s += weight * ((sent_bytes - self._sent) / passed_s - self.sent_bytes_s)
            self.received_bytes_s += weight * ((received_bytes - self._received) / passed_s - self.received_bytes_s)
        self._at_s, self._sent, self._received = now, sent_bytes, received_bytes
