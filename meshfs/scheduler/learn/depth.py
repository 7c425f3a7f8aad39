"""Learn the depth: how many requests may be at the device at once. Pure.

The depth is large enough for the throughput of the device, and no larger.

Theory. The scheduler can reorder the requests in its queue, but not those at the device. With a large depth, a new
request waits behind many others. With a small depth, the device is idle between requests. SFQ(D) (Jin, Chase, Kaur
2004) leaves the depth D to the operator. Here the program searches for the depth, as PARDA (Gulati, Ahmad, Waldspurger,
FAST 2009) searches for a window size. PARDA needs a target latency that somebody must know in advance. This search
compares throughputs instead.

Measuring. The throughput is the cost of the requests that complete per second, in seconds of the disk's time by the
cost model. So the throughput does not depend on the mix of requests. The speed of a disk drifts by half within minutes,
and by some per cent between windows. Therefore only neighbours in time are compared. Some windows at one depth make a
block, and three blocks in a row make one comparison:

    depth     base    |  other (the probe)  |  base
    gain      log(throughput of the probe) - mean of log(throughput of both base blocks)

Example: the base blocks have 0.98 and 1.02, and the probe has 1.06. The gain is 0.058, so the other depth is 6 %
faster. A steady drift raises one base block as much as it lowers the other, and so cancels out.

Deciding. The search keeps the latest gains of both directions, up and down. It uses their mean, with outliers drawn in,
and the mean's standard error from the median absolute deviation (Huber, Robust Statistics, 1981). One stall then
decides nothing:

    up      if the gain is surely more than DEPTH_LOSS_MAX (2 %)
    down    if the loss is surely no more than DEPTH_LOSS_MAX in all. Earlier steps down count as loss. The gain
            that the probes up have shown counts as loss as well
    else    probe again. When both directions are decided, or enough probes have decided nothing, pause between
            probes, longer each time

In doubt the depth stays, and a step up is larger than a fine step down. So errors cost waiting time rather than
throughput.

Fast devices. If a device answers within half of DEPTH_LATENCY_TARGET_S and its depth held requests back, the depth is
doubled without a probe. A new request waits little there at any depth, and larger batches save CPU time. The condition
is half of the target because twice the depth at a busy device means twice the latency.

States. The search rests or measures at the base depth, probes at another, and returns to the base depth. After each
change of depth one window is skipped (settling), unless the change is too small to be seen in it. A window that is not
full, or has no completions, ends the probe.

A window is full if it is saturated, or if the disk on average had FULL_PART of the depth (by Little's law). The second
case is needed, because some requests are always on the way between application and queue. Even an application of depth
32 cannot keep 16 requests at the disk all through a tenth of a second. With saturated windows alone, the search would
stay at half of the depth that the disk needs. In the second case, at the base depth, a request must also have waited in
the queue. Otherwise something other than the depth limits the throughput.
"""

import math
from collections import deque
from statistics import fmean, median

from meshfs import limits
from meshfs.scheduler.learn.observation import Observation

# A block ends with this many completions (a sampling noise of 6 % for exponential service times), or after this many
# windows. In more windows, the speed of the disk would drift too far between blocks.
BLOCK_COMPLETIONS = 256
BLOCK_WINDOWS = 4
# The number of gains that are kept for each direction. Older gains were measured before the disk drifted.
GAINS_MAX = 24
# The number of gains that a decision needs.
GAINS_MIN = 3
# The smallest deviation that is assumed. The first few gains may agree by chance, and hide the noise.
GAIN_DEVIATION_MIN = 0.02
# The standard error of n gains is enlarged by FEW / n, because Student's t distribution is wider for few values.
FEW = 1.5
# How many standard errors a gain must be beyond the threshold. A wrong step up makes new requests wait until the step
# is undone. For a step down one standard error is enough, because the loss that is allowed is small.
UP_ERRORS = 2.5
DOWN_ERRORS = 1.0
# After this many probes up without a sure gain, the search assumes that there is none.
UP_GAINS_MAX = 12
# The number of base blocks between probes while both directions are decided. With the maximum, if every other probe
# goes down and loses a third of its block, probing costs 0.3 % of the throughput.
REST_BLOCKS_MIN = 8
REST_BLOCKS_MAX = 64
# A window is full if the mean number of requests at the disk was at least this part of the depth.
FULL_PART = 0.75
# A change of depth by up to this part of a window's completions is too small to be seen in the window.
SETTLED_PART = 0.005
# After this many windows in a row with low latency, in which the depth held a request back, the depth is doubled.
FAST_WINDOWS = 2


class _Block:
    """Sums consecutive windows of one depth."""

    __slots__ = ("_completions", "_cost_s", "_elapsed_s", "_latencies_s", "gave_way")

    def __init__(self) -> None:
        self._completions = 0
        self._cost_s = 0.0
        self._elapsed_s = 0.0
        self._latencies_s: list[float] = []
        self.gave_way = False

    def add(self, window: Observation, total: int, cost_s: float) -> None:
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
    """Searches for the best depth of one device. ``depth`` is the depth now, and `learn` may change it.

    Raises ValueError if ``depth_max`` is less than 1.
    """

    __slots__ = (
        "_base",
        "_base_log",
        "_block",
        "_deficit",
        "_direction",
        "_down",
        "_fast",
        "_levels",
        "_probe_log",
        "_rest",
        "_rest_max",
        "_settling",
        "_up",
        "depth",
    )

    def __init__(self, depth_max: int = limits.DISK_DEPTH_MAX) -> None:
        if depth_max < 1:
            raise ValueError(f"depth_max {depth_max}, expected at least 1")
        self._levels = levels(depth_max)
        self.depth = self._base = max(level for level in self._levels if level <= limits.DEPTH_START)
        self._block = _Block()
        # The number of windows in a row in which the depth was reached and the latency was low.
        self._fast = 0
        # The number of requests by which the last step changed the depth, or 0 if the next window may be used.
        self._settling = 0
        # The logarithms of the throughput of the last base block, and of the probe block after it.
        self._base_log: float | None = None
        self._probe_log: float | None = None
        # The direction of the current or the last probe, which is +1 for up and -1 for down.
        self._direction = -1
        # The throughput lost by the steps down so far, as a logarithm.
        self._deficit = 0.0
        self._rest = 0
        self._rest_max = REST_BLOCKS_MIN
        self._up = _Evidence()
        self._down = _Evidence()
        self._reset(coarse=True)

    def learn(self, window: Observation, cost_s: float) -> None:
        """Learn from one window. ``cost_s`` is the cost of its completions. Windows of another depth are ignored."""
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

    def _nearly_full(self, window: Observation, total: int) -> bool:
        """Return whether the disk had, on average, at least FULL_PART of the present depth (see the header)."""
        limits_it = window.held_back or window.depth != self._base
        return limits_it and window.latency_s * total >= FULL_PART * window.depth * window.elapsed_s > 0.0

    def _interrupt(self) -> None:
        """Return to the base, and begin a new comparison. The blocks before and after a gap must not be compared."""
        self._set(self._base)
        self._settling = limits.DISK_DEPTH_MAX
        self._block = _Block()
        self._base_log = self._probe_log = None

    def _set(self, depth: int) -> None:
        self._settling = abs(depth - self.depth)
        self.depth = depth

    def _grow(self, latency_s: float) -> bool:
        """Double the depth if the device is fast. Return whether the depth was doubled."""
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
        # If a new request waits little already, a smaller depth gains nothing.
        self._down.barred = block.latency_s < limits.DEPTH_LATENCY_TARGET_S or self._base == 1
        # With a larger depth, the system would take the places that it leaves to applications.
        self._up.barred = block.gave_way or self._base == self._levels[-1]
        self._probe_next()

    def _probe_next(self) -> None:
        up, down = self._up, self._down
        if up.open or down.open:
            # A promising gain upwards is probed again at once, because the device is losing throughput now.
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
        """Add one more gain, and decide. Return whether the base depth moved."""
        evidence = self._up if self._direction > 0 else self._down
        threshold = limits.DEPTH_LOSS_MAX if self._direction > 0 else self._given_up() - limits.DEPTH_LOSS_MAX
        if not evidence.open:
            if gain < threshold:
                self._rest_max = min(2 * self._rest_max, REST_BLOCKS_MAX)
                return False
            # The gain contradicts the earlier decision. Reopen the question, without this gain, which would bias it.
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
        """Return how much throughput the base depth loses, by the steps down and the probes up, as a logarithm."""
        if len(self._up.gains) < GAINS_MIN:
            return self._deficit
        gain, error = self._up.estimate()
        return max(self._deficit, gain - error)

    def _move(self, depth: int, *, coarse: bool) -> None:
        self._base = depth
        self._set(depth)
        self._reset(coarse=coarse)

    def _reset(self, *, coarse: bool) -> None:
        """Begin a new search around the base depth. Nothing is known about its neighbours."""
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
    """Holds the evidence for or against one neighbour of the base depth: the gains of its probes, the newest last.

    open     the evidence is undecided, so the neighbour is probed again
    barred   the neighbour is not probed at all
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
        """Return the mean gain and its standard error. Outliers are drawn in to two deviations from the median."""
        middle, count = median(self.gains), len(self.gains)
        deviation = max(1.48 * median(abs(gain - middle) for gain in self.gains), GAIN_DEVIATION_MIN)
        low, high = middle - 2 * deviation, middle + 2 * deviation
        mean = fmean(min(max(gain, low), high) for gain in self.gains)
        return mean, (1 + FEW / count) * deviation / math.sqrt(count)


def levels(depth_max: int) -> list[int]:
    """Return the possible depths: powers of two up to ``depth_max``, and one depth between each pair.

    Example: 1, 2, 3, 4, 6, 8, 12, 16 for ``depth_max`` 16.
    """
    steps = {1, depth_max}
    power = 2
    while power <= depth_max:
        steps |= {power, power * 3 // 2}
        power *= 2
    return sorted(step for step in steps if step <= depth_max)
