"""The cost of a request to its disk, learnt from the disk's own throughput. Pure.

The model. A disk has five parameters: a fixed cost and a cost per byte for reads, both again for writes, and a fixed
cost for flushes. All are in seconds of the disk's time:

    cost = fixed + bytes * per byte

Example: the fixed cost is 100 us, and the cost per byte is 1.5 ns. A read of 4 KiB then costs 106 us, and a read of
1 MiB costs 1.67 ms.

The cost is the time per request of a SATURATED disk, which has as many requests as it may have. It is not the latency.
A device that serves 64 requests at once answers each after 64 times its cost. A latency also contains the wait behind
other requests in the device, so a flow would be charged for its neighbours.

Method. The queue measures windows of 0.1 s to 1 s (`observation.py`). An extended Kalman filter corrects the parameters
after each window. The filter keeps the logarithms of the parameters, and a covariance matrix. The matrix says how
uncertain each parameter is, and which parameters are wrong together. (Kalman 1960; as recursive least squares with
forgetting: Ljung, System Identification, 1999, chapter 11.) A saturated window is compared with its prediction:

    measured     log(elapsed)
    predicted    log(sum of count * fixed + bytes * per byte over reads, writes and flushes)
    derivative   by each logarithm of a parameter: that parameter's part of the predicted time

Logarithms have three advantages. Every parameter stays positive. Noise and changes are relative, as on a disk, where a
window is wrong by some per cent, and a disk becomes slower by a factor. If all costs change by one factor, all
logarithms change by the same number, so one step of the filter can follow.

A single window gives one number for five parameters. The covariance decides how the difference is divided among them.
At the beginning, the general level of the costs is uncertain by a large factor, and their ratios by a small one.
Example: if a disk only gets reads of 4 KiB, the filter learns the level from them, and the ratios stay nearly as they
were.

Forgetting. A disk changes slowly, so old windows must count less. A filter that simply lets the covariance grow would
lose every parameter that the present load does not use. So in every window the covariance moves a little towards a
fixed bound instead (resetting: Salgado, Goodwin, Middleton 1988).

Outliers and changes. A window may differ from its prediction by more than ``GATE`` standard deviations. Then it moves
the parameters only as far as a window at that gate would. A window with a stall, one request that took very long, does
not move them at all. If several such windows in a row differ in the same direction, the disk has changed. The
uncertainty is then raised, and the next windows decide (Gustafsson, Adaptive Filtering and Change Detection, 2000). If
windows still do not fit after that, the model starts again from the values of an unknown disk.

A window that was not saturated only gives an upper bound. Its requests cannot have cost more than the time in which
the disk was busy. Such a window lowers the costs, or changes nothing.

Zeroings and discards are not part of the filter (`clearing.py`). Windows that contain one of them are not used.
"""

import math
from collections.abc import Mapping, Sequence

from meshfs import limits
from meshfs.scheduler.learn.clearing import ClearingCosts
from meshfs.scheduler.learn.observation import Observation

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

# The costs of an unknown disk: 100 us fixed, and as much again for 64 KiB (650 MB/s). Only the ratios matter. They are
# between those of an SSD and of an HDD. A flush costs as much as five requests.
PRIOR_S = (100e-6, 1.5e-9, 100e-6, 1.5e-9, 500e-6)

# The relative standard deviation of one window's throughput, even if the window has very many requests.
NOISE = 0.05
# The part of the way to the bound that the covariance moves in each window. Together with NOISE it makes one window
# count for about a tenth, so that the last ten to twenty windows decide.
FORGET = 5e-5
# A difference between a window and its prediction is believed at once up to this many standard deviations.
GATE = 3.0
# This many contradicting windows in a row, all in one direction, mean that the disk has changed. Windows with stalls
# must be more.
CHANGE_WINDOWS = 3
CHANGE_WINDOWS_STALLED = 10
# A window that fits multiplies the count of contradicting windows by this. If the load alternates between two mixes and
# the costs are wrong for one mix, every second window fits. The count still reaches CHANGE_WINDOWS. With one outlier in
# five windows the count does not reach it.
STREAK_KEPT = 0.75
# The misfit is the mean square of the differences, in standard deviations, over about the last ten windows. For a model
# that fits, the misfit is 1. Above this maximum even the ratios of the costs are wrong, for example because the stored
# state belongs to another disk. One window counts for at most GATE squared (9). With a lower maximum, a disk would lose
# its ratios if its speed halves in 10 s, which is faster than the filter follows.
MISFIT_MAX = 5.0
MISFIT_PART = 0.1
# A window holds a stall if one request took this many times the mean latency, and this part of the window.
STALL_LATENCIES = 8.0
STALL_PART = 0.25

Matrix = list[list[float]]


def _covariance(level: float, both_bytes: float, each: float, flush: float) -> Matrix:
    """Return the covariance of the logarithms, from independent standard deviations.

    level         all costs together
    both_bytes    both per-byte costs together
    each          each parameter by itself, except that of the flush
    flush         the parameter of the flush by itself
    """
    matrix = [[level * level] * _SIZE for _ in range(_SIZE)]
    for i in _BYTE:
        for j in _BYTE:
            matrix[i][j] += both_bytes * both_bytes
    for i in range(_SIZE - 1):
        matrix[i][i] += each * each
    matrix[-1][-1] += flush * flush
    return matrix


# The uncertainty for an unknown disk. All costs together are uncertain by a factor of e**3 = 20 either way. The size at
# which bytes and fixed part cost the same is uncertain by a factor of 4, and the ratio of reads to writes by 2.
_UNSEEN = _covariance(3.0, 1.5, 0.7, 1.5)
# The bound of forgetting. The level of a disk's costs changes with its load and its neighbours, but the ratios hardly
# change. If the ratios were as free as the level, hours of requests of one size would move them at random on a disk of
# changing speed. (In simulations of 20,000 windows, they moved by a factor of 5. With these values they moved by 1.3.)
_KEPT = _covariance(1.4, 0.2, 0.1, 0.3)
# The uncertainty for a disk that has changed, or was last seen before a restart.
_CHANGED = _covariance(1.5, 0.4, 0.3, 0.5)


class CostModel:
    """Estimates the costs of one disk's requests. ``state`` is a stored result of `state`, or None for an unknown disk.

    windows      the number of windows learnt from, including windows before a restart
    calibrated   True if enough windows were saturated, so that the costs are reliable

    Raises ValueError, with the reason, if ``state`` is not valid.
    """

    __slots__ = (
        "_clearing",
        "_covariance",
        "_logs",
        "_misfit",
        "_saturated",
        "_streak",
        "flush_fixed_s",
        "read_byte_s",
        "read_fixed_s",
        "windows",
        "write_byte_s",
        "write_fixed_s",
    )

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
        # The recent count of contradicting windows (STREAK_KEPT). It is negative if they were faster than predicted.
        self._streak = 0.0
        self._misfit = 1.0
        self._clearing = ClearingCosts()
        self._publish()

    @property
    def calibrated(self) -> bool:
        return self._saturated >= limits.COST_CALIBRATED_WINDOWS

    def cost(self, op: int, length: int) -> float:
        """Return the cost of a request in seconds of the disk's time, which is positive and bounded."""
        if op == 0:
            return self.read_fixed_s + self.read_byte_s * length
        if op == 1:
            return self.write_fixed_s + self.write_byte_s * length
        if op == 2:
            return self.flush_fixed_s
        return self._clearing.cost(op, length, self.write_fixed_s, self.write_byte_s)

    def state(self) -> dict[str, object]:
        """Return the state to store over a restart, as values that JSON can represent."""
        values: dict[str, object] = {name: getattr(self, name) for name in NAMES}
        return {"version": STATE_VERSION, **values, "windows": self.windows, "saturated_windows": self._saturated}

    # --- learning ---

    def cleared(self, op: int, length: int, time_s: float) -> None:
        """Learn from a zeroing or a discard of ``length`` bytes that spent ``time_s`` at the disk."""
        self._clearing.learn(op, length, time_s, self.write_fixed_s, self.write_byte_s)

    def learn(self, window: Observation) -> None:
        """Learn from one window. A window without completions or without a length is ignored."""
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

    def _learn_equal(self, window: Observation, work: Sequence[int], measured: float, variance: float) -> None:
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
        """Learn from an upper bound. Return whether it lowered the costs.

        ``longest`` is the logarithm of the most time that the window's requests can have cost.
        """
        # The bound has a margin of the window's noise. Without it, noise alone would lower the costs step by step.
        bound = longest + GATE * math.sqrt(variance)
        if self._predict(work)[0] <= bound:
            return False
        self._update(work, bound, variance)
        return True

    def _measured_variance(self, window: Observation) -> float:
        """Return the variance of the logarithm of a window's time, which is the sum of noise, sampling and edges.

        sampling   If service times are as random as exponential ones, the sum over n requests of one kind has a
                   relative error of 1/sqrt(n)
        edges      If a request is at the disk when the window begins or ends, a uniformly distributed part of it
                   is outside the window (a variance of 1/12 of a request each). The number of these requests
                   follows from their latency, by Little's law
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
        """Return the logarithm of the time that ``work`` should take, and the part of each parameter in that time."""
        parts = [amount * math.exp(log) for amount, log in zip(work, self._logs, strict=True)]
        whole = math.fsum(parts)
        return math.log(whole), [part / whole for part in parts]

    def _uncertainty(self, shares: Sequence[float]) -> float:
        return sum(
            share * sum(c * other for c, other in zip(row, shares, strict=True))
            for share, row in zip(shares, self._covariance, strict=True)
        )

    def _update(self, work: Sequence[int], measured: float, variance: float) -> None:
        """Do one step of the filter, iterated because a large step changes the derivatives (Bell, Cathey 1993)."""
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
        """Raise the uncertainty, because the disk has changed."""
        for line, bound in zip(self._covariance, _CHANGED, strict=True):
            for j in range(_SIZE):
                line[j] += bound[j]

    def _does_not_fit(self, deviations: float) -> bool:
        square = min(deviations * deviations, GATE * GATE)
        self._misfit += MISFIT_PART * (square - self._misfit)
        return self._misfit > MISFIT_MAX

    def _start_over(self) -> None:
        """Start again from the values of an unknown disk."""
        self._logs = [math.log(value) for value in PRIOR_S]
        self._covariance = [row[:] for row in _UNSEEN]
        self._misfit, self._streak = 1.0, 0.0

    # --- bounds ---

    def _bound_logs(self) -> None:
        """Keep the logarithms within their bounds, so that no step of the iteration overflows."""
        self._logs = [min(max(log, low), high) for log, (low, high) in zip(self._logs, _LOG_BOUNDS, strict=True)]

    def _clamp(self) -> None:
        """Keep the ratios within bounds: of writes and flushes to reads, and of per-byte to fixed costs.

        A cost that is negligible beside the others has no part in any window, and could not be learnt again.
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


def _holds_stall(window: Observation) -> bool:
    return window.longest_s > STALL_PART * window.elapsed_s and window.longest_s > STALL_LATENCIES * window.latency_s


def _parse(state: Mapping[str, object]) -> tuple[tuple[float, ...], int, int]:
    """Return the parameters, and the numbers of windows and of saturated windows, of a ``CostModel.state()``."""
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
