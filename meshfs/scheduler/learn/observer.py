"""Measure a disk, as its queue sees it, in windows for the cost model and the depth control. Pure."""

from math import inf
from typing import Final

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.learn.depth import DepthControl
from meshfs.scheduler.learn.observation import Observation

# A window lasts at least _WINDOW_MIN_S, and has at least _WINDOW_REQUESTS completions. Averages of fewer requests would
# be random. After _WINDOW_MAX_S a window ends in any case.
_WINDOW_MIN_S: Final = 0.1
_WINDOW_REQUESTS: Final = 32
_WINDOW_MAX_S: Final = 1.0
_SMALL_BYTES: Final = 4096


class Observer:
    """Collects windows. The queue calls `done` for each completion, and sets `is_hungry` if no request is ready."""

    __slots__ = (
        "_busy_s",
        "_busy_since_s",
        "_cost_s",
        "_costs",
        "_counts",
        "_depth",
        "_depths",
        "_end_s",
        "_gave_way",
        "_held_back",
        "_latency_s",
        "_longest_s",
        "_sizes",
        "_start_s",
        "budget_s",
        "is_hungry",
    )

    def __init__(self, costs: CostModel, depths: DepthControl) -> None:
        self._costs = costs
        self._depths = depths
        #: The summed cost of requests at the disk, in seconds, from which on no more are sent.
        self.budget_s = inf
        #: True if, at some time in this window, the disk could take more requests and there was none to send.
        self.is_hungry = False
        self._busy_since_s = 0.0
        self._set_budget()
        self._begin(0.0)

    def _set_budget(self) -> None:
        """Convert the depth, which counts small requests, to a summed cost that limits large requests as well."""
        if self._costs.calibrated:
            small_s = self._costs.cost(Op.READ, _SMALL_BYTES)
            self.budget_s = max(self._depths.depth * small_s, limits.DISK_BUDGET_MIN_S)

    def _begin(self, now: float) -> None:
        self._start_s = now
        self._end_s = now + _WINDOW_MIN_S
        self.is_hungry = self._held_back = self._gave_way = False
        self._depth = self._depths.depth
        self._counts = [0] * len(Op)
        self._sizes = [0] * len(Op)
        self._busy_s = self._latency_s = self._longest_s = self._cost_s = 0.0

    def busy(self, now: float) -> None:
        """Note that the idle disk gets its first request."""
        self._busy_since_s = now

    def pause(self) -> None:
        """Close no window before `resume`, because the disk is given less than it could do."""
        self._end_s = inf

    def resume(self, now: float) -> None:
        """Begin a window, and drop what was counted since the last one ended."""
        self._begin(now)

    def held_back(self, *, depth: bool) -> None:
        """Note that a request waits because the depth is reached, or because the budget is if ``depth`` is False."""
        self._held_back = True
        if not depth:
            self._depth = 0

    def gave_way(self) -> None:
        """Note that the system waits, and leaves a part of the depth to applications."""
        self._gave_way = True

    def done(self, request: DiskRequest, now: float, in_flight: int, waiting: int) -> None:
        """Count a completion. ``in_flight`` requests are still at the disk, and ``waiting`` requests in the queue."""
        op = request.op
        self._counts[op] += 1
        self._sizes[op] += request.length
        self._cost_s += request.cost_s
        latency_s = now - request.sent_s
        self._latency_s += latency_s
        if latency_s > self._longest_s:
            self._longest_s = latency_s
        if not waiting:
            self.is_hungry = True
            if not in_flight:
                self._busy_s += now - max(self._busy_since_s, self._start_s)
        if now >= self._end_s:
            self._look(now, in_flight)
        elif now < self._start_s:
            # The clock jumped back.
            self._begin(now)

    def _look(self, now: float, in_flight: int) -> None:
        """Close the window, or extend it if it has too few completions."""
        elapsed_s, count = now - self._start_s, sum(self._counts)
        if count < _WINDOW_REQUESTS and elapsed_s < _WINDOW_MAX_S:
            self._end_s = min(now + _WINDOW_MIN_S, self._start_s + _WINDOW_MAX_S)
            return
        if self._counts[Op.ZERO] or self._counts[Op.DISCARD]:
            # Zeroings and discards are no part of the model. The other requests of the window would seem to cost more
            # than they do.
            self._begin(now)
            return
        if in_flight:
            self._busy_s += now - max(self._busy_since_s, self._start_s)
        window = Observation(
            elapsed_s=elapsed_s,
            busy_s=self._busy_s,
            saturated=not self.is_hungry,
            counts=self._counts,
            sizes=self._sizes,
            latency_s=self._latency_s / count,
            depth=self._depth,
            longest_s=self._longest_s,
            held_back=self._held_back,
            gave_way=self._gave_way,
        )
        self._costs.learn(window)
        self._depths.learn(window, self._cost_s)
        self._set_budget()
        self._begin(now)
