"""What a request costs its disk, learnt from what the disk really does. Pure.

cost = fixed + bytes * per byte, in seconds of the disk's time, for reads and for writes; a flush
has a fixed cost alone. The unit is throughput: what a SATURATED disk needs per request. Latency
would be the wrong measure: on a device that serves 64 requests at once a request takes 64 times
its share of the device, and a queue inside the device adds what other flows sent, so that a flow
would be charged for its neighbours.

Method: an extended Kalman filter (Kalman 1960; as recursive least squares with forgetting:
Ljung, System Identification, 1999, chapter 11) over the logarithms of the five parameters.

    measured    log(elapsed)  of a saturated window
    predicted   log(sum(count * fixed + bytes * per byte))
    derivative  by each log parameter: the share of the predicted time that it makes up

Logarithms keep every parameter positive, make noise and change relative (a window is off by some
per cent, a disk becomes so many times slower), and make "all got slower by one factor" a straight
line. What one window cannot tell apart follows the covariance: the prior says that the disk as a
whole is unknown by orders of magnitude, the ratios of its costs by a small factor. So with only
4 KiB reads the whole level is learnt and the ratios stay where they were.

Forgetting is by resetting (Salgado, Goodwin, Middleton 1988): the covariance moves towards a
bound in every window instead of growing; directions that no load excites cannot run away.

A window that contradicts (beyond ``GATE`` standard deviations) moves the parameters no further
than the gate, and one with a stall not at all, until several in a row say the same: then the
disk has changed, the covariance is opened, and the next windows decide (change detection:
Gustafsson, Adaptive Filtering and Change Detection, 2000). When even that does not make windows
fit, everything is learnt anew.

A window that was not saturated is an upper bound: what completed cannot have cost more than the
time the disk was busy. It lowers costs or does nothing.

A zeroing is not part of the filter, because its cost per byte differs by orders of magnitude between a
disk that only notes the range and one that writes zeros. It costs at most what a write of its bytes
costs; per byte it costs what the last zeroings took at the disk, which is too much where others were served
at the same time, and never too little. Windows with a zeroing in them are not learnt from.
"""

import math
from collections.abc import Mapping, Sequence

from meshfs import limits
from meshfs.scheduler.learn.observation import Window

STATE_VERSION = 1
NAMES = ("read_fixed_s", "read_byte_s", "write_fixed_s", "write_byte_s", "flush_fixed_s")
_SIZE = len(NAMES)
_BYTE = (1, 3)
_BOUNDS = {
    name: (limits.COST_BYTE_MIN_S, limits.COST_BYTE_MAX_S)
    if name.endswith("byte_s")
    else (limits.COST_FIXED_MIN_S, limits.COST_FIXED_MAX_S)
    for name in NAMES
}
_LOG_BOUNDS = [(math.log(low), math.log(high)) for low, high in _BOUNDS.values()]

# A disk nobody has seen: 100 us and 64 KiB break-even (650 MB/s), between an SSD and an HDD in
# what matters, the ratios; a flush like five requests.
PRIOR_S = (100e-6, 1.5e-9, 100e-6, 1.5e-9, 500e-6)

# Standard deviation of one window's throughput that averaging does not take away.
NOISE = 0.05
# How much of the way to the bound the covariance goes in a window: with NOISE it makes a
# window count for about a tenth, so the last ten to twenty windows decide.
FORGET = 5e-5
# Standard deviations of the difference between window and prediction that are believed at once.
GATE = 3.0
# Contradicting windows of one direction in a row that make a change; more when they hold stalls.
CHANGE_WINDOWS = 3
CHANGE_WINDOWS_STALLED = 10
# What a fitting window leaves of the count: where costs are wrong for one mix of two, every
# second window fits and the count still gets there; with one outlier in five it does not.
STREAK_KEPT = 0.75
# Mean square of the differences in standard deviations (1 for a model that fits), over the last ten
# windows or so, from which on even the ratios between the costs are not believed any more: a
# kept state of another disk, say. One difference counts for no more than the gate lets it (9). Lower,
# and a disk whose speed changes by half in 10 s, faster than the filter follows, loses its ratios.
MISFIT_MAX = 5.0
MISFIT_PART = 0.1
# How much one zeroing moves the cost of a zeroed byte.
ZERO_PART = 0.25
# A window holds a stall when one request took this many times the mean, and this part of it.
STALL_LATENCIES = 8.0
STALL_PART = 0.25

Matrix = list[list[float]]


def _covariance(level: float, both_bytes: float, each: float, flush: float) -> Matrix:
    """Of the logarithms, from the standard deviations of: the whole disk, both per-byte costs
    together, each parameter by itself, the flush by itself."""
    matrix = [[level * level] * _SIZE for _ in range(_SIZE)]
    for i in _BYTE:
        for j in _BYTE:
            matrix[i][j] += both_bytes * both_bytes
    for i in range(_SIZE - 1):
        matrix[i][i] += each * each
    matrix[-1][-1] += flush * flush
    return matrix


# Of an unseen disk: a factor of e**3 = 20 either way as a whole, of 4 for the break-even size,
# of 2 between reads and writes.
_UNSEEN = _covariance(3.0, 1.5, 0.7, 1.5)
# The bound of forgetting. A disk's level changes with its load and its neighbours, its ratios
# hardly: were they as free as the level, hours of one size on a disk of changing speed would
# move them at random (simulated: by a factor of 5 in 20,000 windows; by 1.3 with these).
_KEPT = _covariance(1.4, 0.2, 0.1, 0.3)
# Of a disk that has changed, or was last seen before a restart.
_CHANGED = _covariance(1.5, 0.4, 0.3, 0.5)


class CostModel:
    """The costs of one disk's requests; ``state`` is what ``state()`` gave before, or None.

    windows      how many were learnt from, restarts included
    calibrated   enough saturated ones among them to rely on

    Raises ValueError (with what is wrong) for a state that is not ours.
    """

    __slots__ = (
        "_covariance", "_logs", "_misfit", "_saturated", "_streak", "flush_fixed_s", "read_byte_s", "read_fixed_s",
        "windows", "write_byte_s", "write_fixed_s", "zero_byte_s",
    )  # fmt: skip

    read_fixed_s: float
    read_byte_s: float
    write_fixed_s: float
    write_byte_s: float
    flush_fixed_s: float

    def __init__(self, state: Mapping[str, object] | None = None) -> None:
        values, self.windows, self._saturated = (PRIOR_S, 0, 0) if state is None else _parse(state)
        self._logs = [math.log(value) for value in values]
        start = _UNSEEN if state is None else _CHANGED
        self._covariance = [row[:] for row in start]
        # Contradicting windows lately, less STREAK_KEPT with each that fits; negative: faster than predicted.
        self._streak = 0.0
        self._misfit = 1.0
        #: What a zeroed byte takes; infinite as long as nothing was zeroed, so that a write's cost bounds it.
        self.zero_byte_s = math.inf
        self._publish()

    @property
    def calibrated(self) -> bool:
        return self._saturated >= limits.COST_CALIBRATED_WINDOWS

    def cost(self, op: int, length: int) -> float:
        """Seconds of the disk's time: > 0, and bounded by the limits' largest parameters."""
        if op == 0:
            return self.read_fixed_s + self.read_byte_s * length
        if op == 1:
            return self.write_fixed_s + self.write_byte_s * length
        if op == 2:
            return self.flush_fixed_s
        return self.write_fixed_s + min(self.zero_byte_s, self.write_byte_s) * length

    def state(self) -> dict[str, object]:
        """To keep over a restart; JSON-able."""
        values: dict[str, object] = {name: getattr(self, name) for name in NAMES}
        return {"version": STATE_VERSION, **values, "windows": self.windows, "saturated_windows": self._saturated}

    # --- learning ---

    def zeroed(self, length: int, time_s: float) -> None:
        """A zeroing of ``length`` bytes spent ``time_s`` at the disk."""
        if not length or not 0.0 < time_s < math.inf:
            return
        byte_s = max(time_s - self.write_fixed_s, 0.0) / length
        known_s = min(self.zero_byte_s, self.write_byte_s)
        self.zero_byte_s = known_s + ZERO_PART * (byte_s - known_s)

    def learn(self, window: Window) -> None:
        """Take one window in; those that say nothing (empty, no time passed) are ignored."""
        work = (window.counts[0], window.sizes[0], window.counts[1], window.sizes[1], window.counts[2])
        time_s = window.elapsed_s if window.saturated else window.busy_s
        if not 0.0 < time_s < math.inf or not window.elapsed_s > 0.0 or not any(window.counts):
            return
        variance = self._measured_variance(window)
        if window.saturated:
            self._forget()
            self._learn_equal(window, work, math.log(time_s), variance)
            self._saturated += 1
        elif not self._learn_bound(work, math.log(time_s), variance):
            return
        self.windows += 1
        self._clamp()
        self._publish()

    def _learn_equal(self, window: Window, work: Sequence[int], measured: float, variance: float) -> None:
        predicted, shares = self._predict(work)
        difference = measured - predicted
        deviation = math.sqrt(variance + self._uncertainty(shares))
        gate = GATE * deviation
        stalled = difference > 0.0 and _holds_stall(window)
        if not stalled and self._does_not_fit(difference / deviation):
            self._start_over()
            self._update(work, measured, variance)
            return
        if abs(difference) <= gate:
            self._streak *= STREAK_KEPT
            self._update(work, measured, variance)
            return
        sign = 1.0 if difference > 0.0 else -1.0
        self._streak = self._streak + sign if self._streak * sign > 0 else sign
        if abs(self._streak) >= (CHANGE_WINDOWS_STALLED if stalled else CHANGE_WINDOWS):
            self._streak = 0.0
            self._open()
            self._update(work, measured, variance)
        elif not stalled:
            self._update(work, predicted + sign * gate, variance)

    def _learn_bound(self, work: Sequence[int], longest: float, variance: float) -> bool:
        """``longest`` is the logarithm of the time it may have cost; True when that lowered costs."""
        # Within the noise of the window nothing is contradicted: without this margin the noise
        # alone would lower the costs step by step.
        bound = longest + GATE * math.sqrt(variance)
        if self._predict(work)[0] <= bound:
            return False
        self._update(work, bound, variance)
        return True

    def _measured_variance(self, window: Window) -> float:
        """Of the logarithm of a window's time: noise, the number of requests, and the edges.

        Sampling: with service times as random as exponential ones, n requests of one kind are off
        by 1/sqrt(n). Edges: of each of the requests at the disk when the window begins and
        ends, a uniformly distributed part lies outside of it (variance 1/12 of a request each);
        how many are there follows from their latency (Little's law).
        """
        total = sum(window.counts)
        terms = (
            (self.read_fixed_s * window.counts[0] + self.read_byte_s * window.sizes[0], window.counts[0]),
            (self.write_fixed_s * window.counts[1] + self.write_byte_s * window.sizes[1], window.counts[1]),
            (self.flush_fixed_s * window.counts[2], window.counts[2]),
        )
        whole = sum(cost for cost, _ in terms)
        sampling = sum((cost / whole) ** 2 / count for cost, count in terms if count)
        at_disk = max(window.latency_s * total / window.elapsed_s, 1.0)
        return NOISE * NOISE + sampling + at_disk / (6.0 * total * total)

    def _predict(self, work: Sequence[int]) -> tuple[float, list[float]]:
        """Logarithm of the time ``work`` should take, and each parameter's share of it."""
        parts = [amount * math.exp(log) for amount, log in zip(work, self._logs, strict=True)]
        whole = math.fsum(parts)
        return math.log(whole), [part / whole for part in parts]

    def _uncertainty(self, shares: Sequence[float]) -> float:
        return sum(
            share * sum(c * other for c, other in zip(row, shares, strict=True))
            for share, row in zip(shares, self._covariance, strict=True)
        )

    def _update(self, work: Sequence[int], measured: float, variance: float) -> None:
        """The filter's step, iterated because shares change when a step is large (Bell, Cathey 1993)."""
        before = self._logs
        for _ in range(3):
            predicted, shares = self._predict(work)
            row = [sum(c * share for c, share in zip(line, shares, strict=True)) for line in self._covariance]
            spread = variance + sum(r * share for r, share in zip(row, shares, strict=True))
            moved = sum(s * (b - now) for s, b, now in zip(shares, before, self._logs, strict=True))
            step = (measured - predicted - moved) / spread
            after = [b + r * step for b, r in zip(before, row, strict=True)]
            settled = max(abs(a - now) for a, now in zip(after, self._logs, strict=True)) < 0.02
            self._logs = after
            self._bound_logs()
            if settled:
                break
        for i in range(_SIZE):
            for j in range(i, _SIZE):
                self._covariance[i][j] -= row[i] * row[j] / spread
                self._covariance[j][i] = self._covariance[i][j]

    def _forget(self) -> None:
        for line, bound in zip(self._covariance, _KEPT, strict=True):
            for j in range(_SIZE):
                line[j] += FORGET * (bound[j] - line[j])

    def _open(self) -> None:
        """The disk has changed: whatever was believed may be off as after a long absence."""
        for line, bound in zip(self._covariance, _CHANGED, strict=True):
            for j in range(_SIZE):
                line[j] += bound[j]

    def _does_not_fit(self, deviations: float) -> bool:
        square = min(deviations * deviations, GATE * GATE)
        self._misfit += MISFIT_PART * (square - self._misfit)
        return self._misfit > MISFIT_MAX

    def _start_over(self) -> None:
        """As for a disk nobody has seen."""
        self._logs = [math.log(value) for value in PRIOR_S]
        self._covariance = [row[:] for row in _UNSEEN]
        self._misfit, self._streak = 1.0, 0.0

    # --- bounds ---

    def _bound_logs(self) -> None:
        """Nothing overflows within the iteration."""
        self._logs = [min(max(log, low), high) for log, (low, high) in zip(self._logs, _LOG_BOUNDS, strict=True)]

    def _clamp(self) -> None:
        """Keep the ratios sane: writes and flushes to reads, per-byte to fixed costs.

        A cost that is nothing beside the others has no share in any window, and could not be learnt again.
        """
        for log, most in ((2, limits.COST_WRITE_RATIO_MAX), (4, limits.COST_FLUSH_RATIO_MAX)):
            middle, width = self._logs[0], math.log(most)
            self._logs[log] = min(max(self._logs[log], middle - width), middle + width)
        for byte in _BYTE:
            fixed = math.exp(self._logs[byte - 1])
            low = max(fixed / limits.COST_BREAK_EVEN_MAX_BYTES, limits.COST_BYTE_MIN_S)
            high = min(fixed / limits.COST_BREAK_EVEN_MIN_BYTES, limits.COST_BYTE_MAX_S)
            self._logs[byte] = min(max(self._logs[byte], math.log(low)), math.log(max(low, high)))

    def _publish(self) -> None:
        for name, log in zip(NAMES, self._logs, strict=True):
            low, high = _BOUNDS[name]
            setattr(self, name, min(max(math.exp(log), low), high))


def _holds_stall(window: Window) -> bool:
    return window.longest_s > STALL_PART * window.elapsed_s and window.longest_s > STALL_LATENCIES * window.latency_s


def _parse(state: Mapping[str, object]) -> tuple[tuple[float, ...], int, int]:
    """The parameters, windows and saturated windows of a ``CostModel.state()``."""
    if not isinstance(state, Mapping):
        raise ValueError(f"cost state: expected an object, found {type(state).__name__}")
    version = state.get("version")
    if isinstance(version, bool) or version != STATE_VERSION:
        raise ValueError(f"cost state: version {version!r:.40}, expected {STATE_VERSION}")
    expected = {"version", *NAMES, "windows", "saturated_windows"}
    if missing := sorted(expected - state.keys()):
        raise ValueError(f"cost state: {', '.join(missing)} missing")
    if unknown := state.keys() - expected:
        raise ValueError(f"cost state: unknown key {sorted(map(repr, unknown))[0]:.40}")
    values = tuple(_number(state, name) for name in NAMES)
    windows, saturated = _count(state, "windows"), _count(state, "saturated_windows")
    if saturated > windows:
        raise ValueError(f"cost state: saturated_windows {saturated}, more than windows {windows}")
    return values, windows, saturated


def _number(state: Mapping[str, object], name: str) -> float:
    value, (low, high) = state[name], _BOUNDS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"cost state: {name} is {value!r:.40}, expected a number from {low:g} to {high:g}")
    return float(value)


def _count(state: Mapping[str, object], name: str) -> int:
    value = state[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 62:
        raise ValueError(f"cost state: {name} is {value!r:.40}, expected a count")
    return value
