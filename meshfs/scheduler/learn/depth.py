"""How many requests may be at the device at once: enough for its throughput, not more. Pure.

A deeper device is a longer wait for a newcomer, because what is at the device is out of the
scheduler's hands; a shallow one is idle between requests. SFQ(D) (Jin, Chase, Kaur 2004) leaves
D to the operator; here it is searched, as PARDA (Gulati, Ahmad, Waldspurger, FAST 2009) searches
a window, but by throughput, not by a latency that somebody would have to know in advance.

Throughput is the cost (seconds of the disk's time, by the cost model) that completes per second,
so the mix of requests does not matter. It is compared only between neighbours in time, as

    base block, probe block at another depth, base block:   gain = log(probe) - mean(log(bases))

since disks drift by half within minutes and by some per cent between windows; a steady drift
cancels. The mean of the latest gains, outliers drawn in, and its standard error from the median
absolute deviation (Huber, Robust Statistics, 1981) decide, so that one stall decides nothing:

    up     when the gain is surely positive: deeper is worth more than DEPTH_LOSS_MAX
    down   when the loss is surely no more than DEPTH_LOSS_MAX, together with what steps down
           before lost and what the probes up see
    else   probe on; after enough probes rest, longer each time, probing rarely

Doubt leaves the depth where it is, and steps up are twice as large as fine steps down: errors
fall on the side of throughput. The depth of a fast device (it answers within half of
DEPTH_LATENCY_TARGET_S) is simply doubled when it held anything back: there a newcomer waits little
whatever the depth, and batches save CPU. Half, because doubling the depth of a busy device
doubles its latency.

States: resting or searching at the base depth -> probing at another -> back at the base. Every
change of depth lets one window pass (settling) unless the requests that the change adds or takes
are too few to be seen in it. Whatever is not a saturated window with completions ends a probe. A window in which
the disk was short of requests at times is full enough here, if on average (by Little's law) it had FULL_PART of
the depth. An application of depth 32 cannot keep 16 at the disk without a gap in any tenth of a second, one of depth
16 has one or two on their way all the time, and without such windows the search would stay at half of the depth
that the disk needs. At the base depth something has to wait as well: otherwise it is not the depth that limits.
"""

import math
from collections import deque
from statistics import fmean, median

from meshfs import limits
from meshfs.scheduler.learn.observation import Window

# A block ends with this many completions (sampling noise of 6 % at exponential service times),
# or after so many windows: more of them would let the machine drift between blocks.
BLOCK_COMPLETIONS = 256
BLOCK_WINDOWS = 4
# Gains kept of a direction; more than these are older than the drift.
GAINS_MAX = 24
GAINS_MIN = 3
# Noise that the first few gains may hide: their deviation is not believed to be smaller.
GAIN_DEVIATION_MIN = 0.02
# Deviations of n gains are believed to be larger by this / n (as Student's t is wider).
FEW = 1.5
# Standard errors between gain and threshold. Up: a wrong step costs a newcomer some waiting
# until it is taken back. Down: the loss allowed is small already.
UP_ERRORS = 2.5
DOWN_ERRORS = 1.0
# After so many probes up without a sure gain there is none to speak of.
UP_GAINS_MAX = 12
# Blocks at the base between probes when all is decided. At the second, every other probe going
# down and losing a third of its block, probing costs 0.3 % of the throughput.
REST_BLOCKS_MIN = 8
REST_BLOCKS_MAX = 64
# The mean number of requests at the disk, as a part of the depth, from which on a window tells of that depth.
FULL_PART = 0.75
# A part of a window's completions that a change of depth may add or take unnoticed.
SETTLED_PART = 0.005
# Windows of low latency in a row that double the depth, if it held something back in them.
FAST_WINDOWS = 2


class _Block:
    """Neighbouring windows of one depth, summed."""

    __slots__ = ("_completions", "_cost_s", "_elapsed_s", "_latencies_s", "gave_way")

    def __init__(self) -> None:
        self._completions = 0
        self._cost_s = 0.0
        self._elapsed_s = 0.0
        self._latencies_s: list[float] = []
        self.gave_way = False

    def add(self, window: Window, total: int, cost_s: float) -> None:
        self._completions += total
        self._cost_s += cost_s
        self._elapsed_s += window.elapsed_s
        self._latencies_s.append(window.latency_s)
        self.gave_way = self.gave_way or window.gave_way

    @property
    def complete(self) -> bool:
        return self._completions >= BLOCK_COMPLETIONS or len(self._latencies_s) >= BLOCK_WINDOWS

    @property
    def throughput_log(self) -> float:
        return math.log(self._cost_s / self._elapsed_s)

    @property
    def latency_s(self) -> float:
        return fmean(self._latencies_s)


class DepthControl:
    """``depth`` is in force now; ``learn`` may change it, and the next window has the new one."""

    __slots__ = (
        "_base", "_base_log", "_block", "_deficit", "_direction", "_down", "_fast", "_levels", "_probe_log", "_rest",
        "_rest_max", "_settling", "_up", "depth",
    )  # fmt: skip

    def __init__(self, depth_max: int = limits.DISK_DEPTH_MAX) -> None:
        if depth_max < 1:
            raise ValueError(f"depth_max {depth_max}, expected at least 1")
        self._levels = levels(depth_max)
        self.depth = self._base = max(level for level in self._levels if level <= limits.DEPTH_START)
        self._block = _Block()
        # Windows in a row in which the depth was reached and the latency low.
        self._fast = 0
        # Requests that the last change added or took; 0 when settled.
        self._settling = 0
        # Logarithms of throughput (cost per second): of the last base block, and of the probe block after it.
        self._base_log: float | None = None
        self._probe_log: float | None = None
        # Which way the probe goes (or the last one went): +1, -1.
        self._direction = -1
        # Throughput given up by the steps down so far, as a logarithm.
        self._deficit = 0.0
        self._rest = 0
        self._rest_max = REST_BLOCKS_MIN
        self._up = _Evidence()
        self._down = _Evidence()
        self._reset(coarse=True)

    def learn(self, window: Window, cost_s: float) -> None:
        """Take one window in, with the cost of what completed in it. Windows of another depth are ignored."""
        total = sum(window.counts)
        full = window.saturated or self._nearly_full(window, total)
        if window.depth != self.depth and full:
            return
        if total and window.held_back and window.depth == self.depth == self._base and self._grow(window.latency_s):
            return
        if not full or not total or not 0.0 < cost_s < math.inf or not window.elapsed_s > 0.0:
            self._interrupt()
            return
        if self._settling:
            visible = self._settling > SETTLED_PART * total
            self._settling = 0
            if visible:
                return
        self._block.add(window, total, cost_s)
        if not self._block.complete:
            return
        block, self._block = self._block, _Block()
        if self.depth == self._base:
            self._base_done(block)
        else:
            self._probe_log = block.throughput_log
            self._set(self._base)

    # --- states ---

    def _nearly_full(self, window: Window, total: int) -> bool:
        """Whether the disk had nearly the depth in force on average, though not all the time."""
        limits_it = window.held_back or window.depth != self._base
        return limits_it and window.latency_s * total >= FULL_PART * window.depth * window.elapsed_s > 0.0

    def _interrupt(self) -> None:
        """Blocks on both sides of this are no neighbours: back to the base, begin anew."""
        self._set(self._base)
        self._settling = limits.DISK_DEPTH_MAX
        self._block = _Block()
        self._base_log = self._probe_log = None

    def _set(self, depth: int) -> None:
        self._settling = abs(depth - self.depth)
        self.depth = depth

    def _grow(self, latency_s: float) -> bool:
        """Double the depth of a fast device; True when that was done."""
        slow = latency_s >= limits.DEPTH_LATENCY_TARGET_S / 2
        self._fast = 0 if slow or self._base == self._levels[-1] else self._fast + 1
        if self._fast < FAST_WINDOWS:
            return False
        self._move(self._doubled(), coarse=True)
        return True

    def _base_done(self, block: _Block) -> None:
        before, self._base_log = self._base_log, block.throughput_log
        if self._probe_log is not None and before is not None:
            gain = self._probe_log - (before + self._base_log) / 2
            self._probe_log = None
            if self._probed(gain):
                return
        # Where a newcomer waits little already there is nothing to win below.
        self._down.barred = block.latency_s < limits.DEPTH_LATENCY_TARGET_S or self._base == 1
        # Deeper, the system would fill what it leaves to applications.
        self._up.barred = block.gave_way or self._base == self._levels[-1]
        self._probe_next()

    def _probe_next(self) -> None:
        up, down = self._up, self._down
        if up.open or down.open:
            # A first gain upwards is followed up at once: the device is losing throughput now.
            upwards = up.open and (not down.open or up.promising or len(up.gains) <= len(down.gains))
        elif self._rest > 0:
            self._rest -= 1
            return
        else:
            self._rest = self._rest_max
            upwards = not up.barred and (down.barred or self._direction < 0)
            if not upwards and down.barred:
                return
        self._direction = 1 if upwards else -1
        self._set(up.level if upwards else down.level)

    def _probed(self, gain: float) -> bool:
        """Weigh one more gain; True when the base moved."""
        evidence = self._up if self._direction > 0 else self._down
        threshold = limits.DEPTH_LOSS_MAX if self._direction > 0 else self._given_up() - limits.DEPTH_LOSS_MAX
        if not evidence.open:
            if gain < threshold:
                self._rest_max = min(2 * self._rest_max, REST_BLOCKS_MAX)
                return False
            # It was otherwise when this was decided: find out anew, without the gain that made us ask.
            evidence.reopen()
            return False
        evidence.gains.append(gain)
        if len(evidence.gains) < GAINS_MIN:
            return False
        return self._climb(threshold) if self._direction > 0 else self._descend(threshold)

    def _climb(self, threshold: float) -> bool:
        gain, error = self._up.estimate()
        if gain - UP_ERRORS * error > threshold:
            self._deficit = 0.0
            below = self._base
            self._move(self._up.level, coarse=False)
            self._down.open = self._down.level > below
            return True
        if gain + error < threshold or len(self._up.gains) >= UP_GAINS_MAX:
            self._up.open = False
        return False

    def _descend(self, threshold: float) -> bool:
        gain, error = self._down.estimate()
        if gain - DOWN_ERRORS * error >= threshold:
            self._deficit = max(self._deficit - gain, 0.0)
            coarse = self._down.level != self._below()
            self._move(self._down.level, coarse=coarse)
            return True
        if gain + DOWN_ERRORS * error < threshold or len(self._down.gains) >= GAINS_MAX:
            if self._down.level < self._below():
                self._down = _Evidence(self._below())
            else:
                self._down.open = False
        return False

    def _given_up(self) -> float:
        """What the base loses to deeper ones, as the steps down and the probes up tell."""
        if len(self._up.gains) < GAINS_MIN:
            return self._deficit
        gain, error = self._up.estimate()
        return max(self._deficit, gain - error)

    def _move(self, depth: int, *, coarse: bool) -> None:
        self._base = depth
        self._set(depth)
        self._reset(coarse=coarse)

    def _reset(self, *, coarse: bool) -> None:
        """Nothing is known about the neighbours of the base."""
        self._block = _Block()
        self._base_log = self._probe_log = None
        self._fast = 0
        self._up = _Evidence(self._doubled())
        self._up.barred = self._base == self._levels[-1]
        self._down = _Evidence(self._halved() if coarse else self._below())
        self._down.barred = self._base == 1
        self._rest = self._rest_max = REST_BLOCKS_MIN

    # --- levels ---

    def _doubled(self) -> int:
        return next((level for level in self._levels if level >= 2 * self._base), self._levels[-1])

    def _halved(self) -> int:
        return next(level for level in self._levels if 2 * level >= self._base)

    def _below(self) -> int:
        return max((level for level in self._levels if level < self._base), default=1)


class _Evidence:
    """What is known of one neighbour: gains of probing it against the base, newest last.

    open     not decided yet, so probed again and again
    barred   not to be probed at all
    """

    __slots__ = ("_open", "barred", "gains", "level")

    def __init__(self, level: int = 1) -> None:
        self.level = level
        self.gains: deque[float] = deque(maxlen=GAINS_MAX)
        self.barred = False
        self._open = True

    @property
    def open(self) -> bool:
        return self._open and not self.barred

    @open.setter
    def open(self, value: bool) -> None:
        self._open = value

    @property
    def promising(self) -> bool:
        return bool(self.gains) and median(self.gains) > 2 * limits.DEPTH_LOSS_MAX

    def reopen(self) -> None:
        self.gains.clear()
        self._open = True

    def estimate(self) -> tuple[float, float]:
        """Mean gain and its standard error, outliers drawn in to two deviations of the median."""
        middle, count = median(self.gains), len(self.gains)
        deviation = max(1.48 * median(abs(gain - middle) for gain in self.gains), GAIN_DEVIATION_MIN)
        low, high = middle - 2 * deviation, middle + 2 * deviation
        mean = fmean(min(max(gain, low), high) for gain in self.gains)
        return mean, (1 + FEW / count) * deviation / math.sqrt(count)


def levels(depth_max: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: powers of two and one between each, up to ``depth_max``."""
    steps = {1, depth_max}
    power = 2
    while power <= depth_max:
        steps |= {power, power * 3 // 2}
        power *= 2
    return sorted(step for step in steps if step <= depth_max)
