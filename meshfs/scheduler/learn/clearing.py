"""The costs of zeroings and of discards to their disk, learnt from the time that each of them takes. Pure.

Zeroings. Some disks only note a zeroed range, and others write the zeros, so the cost per byte differs by orders of
magnitude. The model takes the time at the disk of the last zeroings, and at most the cost of a write of the same size.

Discards. Some devices take a long time for each command, others for each granule. So a discard has a fixed cost and a
cost per byte of its own, which begin as those of a write. Each discard moves the logarithms of both, by a part of the
difference between the logarithms of its time and its cost (normalised least mean squares). If the fixed cost is most of
a discard's cost, the discard moves mostly the fixed cost.

Both are times of single requests at the disk, and not of a saturated disk as in `cost.py`. Such a time is too long if
the disk served other requests at the same time, but it is never too short.
"""

import math

from meshfs import limits
from meshfs.disk.base import Op

# The part of the difference by which one zeroing moves the cost of a zeroed byte, and one discard its two costs.
LEARN_PART = 0.25


class ClearingCosts:
    """Estimates the costs of one disk's zeroings and discards, from those of its writes."""

    __slots__ = ("_discard_byte_s", "_discard_fixed_s", "_zero_byte_s")

    def __init__(self) -> None:
        # The cost of a zeroed byte. It is infinite until the first zeroing, so that the cost of a write applies.
        self._zero_byte_s = math.inf
        # The costs of a discard and of a discarded byte. Until the first discard they are 0, and the cost of a write
        # applies.
        self._discard_fixed_s = 0.0
        self._discard_byte_s = 0.0

    def cost(self, op: int, length: int, write_fixed_s: float, write_byte_s: float) -> float:
        """Return the cost of a zeroing or a discard in seconds of the disk's time."""
        if op == Op.ZERO:
            return write_fixed_s + min(self._zero_byte_s, write_byte_s) * length
        return (self._discard_fixed_s or write_fixed_s) + (self._discard_byte_s or write_byte_s) * length

    def learn(self, op: int, length: int, time_s: float, write_fixed_s: float, write_byte_s: float) -> None:
        """Learn from a zeroing or a discard of ``length`` bytes that spent ``time_s`` at the disk."""
        if not length or not 0.0 < time_s < math.inf:
            return
        if op == Op.ZERO:
            byte_s = max(time_s - write_fixed_s, 0.0) / length
            known_s = min(self._zero_byte_s, write_byte_s)
            self._zero_byte_s = known_s + LEARN_PART * (byte_s - known_s)
            return
        fixed_s, byte_s = self._discard_fixed_s or write_fixed_s, self._discard_byte_s or write_byte_s
        cost_s = fixed_s + byte_s * length
        share = fixed_s / cost_s
        step = LEARN_PART * math.log(time_s / cost_s) / (share * share + (1.0 - share) * (1.0 - share))
        fixed_s *= math.exp(share * step)
        byte_s *= math.exp((1.0 - share) * step)
        self._discard_fixed_s = min(max(fixed_s, limits.COST_FIXED_MIN_S), limits.COST_FIXED_MAX_S)
        self._discard_byte_s = min(max(byte_s, limits.COST_BYTE_MIN_S), limits.COST_BYTE_MAX_S)
