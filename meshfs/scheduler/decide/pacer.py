"""Share a limit on a whole disk fairly: a request leaves when an ideal fluid server would begin it. Pure.

Theory. A disk serves one request after the other, so every request waits behind a large one. A limit is only a number,
and its requests need not wait for each other. The pacer therefore simulates an ideal server that works on all flows at
the same time, like a fluid that flows through several pipes. (The model is generalised processor sharing: Parekh,
Gallager 1993.) The model has two levels. The classes in use divide ``rate`` by their shares. The flows in use of a
class divide its part by their weights. A flow is in use while it has a request waiting here, and while the fluid works
on its last request that left.

    class c     has a virtual time v_c, which runs at the speed of the fluid for weight 1:
                dv_c/dt = rate * share_c / sum(shares in use) / sum(weights in use of c)
    request     the fluid begins it at S = max(v_c, finish of the flow's previous request)
                the fluid ends it at   F = S + amount / weight
                it leaves when S <= v_c (the eligibility of WF2Q: Bennett, Zhang 1996)

Example: a limit of 90 requests a second, one class, two flows in use with weights 2 and 1. v advances by 30 per second.
A request of amount 1 adds 1/2 to F of the first flow, and 1 to F of the second. So the flows send 60 and 30 requests a
second. When the second flow goes out of use, v advances by 45 per second, and the first flow sends 90.

From this follows: a flow below its share never waits. The requests of a flow above its share leave evenly spaced. A
flow that sends its next request before F keeps its share, whatever its depth. No flow waits for the size of another
flow's request.

Bound. A request may leave ``limits.LIMIT_BURST_S`` early at the present speed, which compensates for late wake-ups. One
more request of each flow, already charged, may wait for the disk behind that request. So with n flows in use, at most
``rate * (T + n * LIMIT_BURST_S)`` and two requests of each flow leave in any T seconds.

If the clock jumps back, the jump is ignored. If it jumps forward, the fluid runs empty, and no flow gets credit.
"""

from collections.abc import Hashable, Mapping
from itertools import count
from math import inf
from typing import Final

from sortedcontainers import SortedList

from meshfs import limits

# The shortest wait until the next wake-up. Without it, rounding errors could cause busy waiting in steps of almost 0.
STEP_MIN_S: Final = 1e-5
_BURST_S: Final = limits.LIMIT_BURST_S


class _Flow:
    """Holds a flow in use. ``entry`` is in ``waiting`` (sorted by S) or in ``leaving`` (sorted by F) of its class."""

    __slots__ = ("amount", "entry", "finish", "key", "waits", "weight")

    def __init__(self, key: Hashable, weight: float, finish: float) -> None:
        self.key = key
        self.weight = weight
        self.finish = finish
        self.amount = 0.0
        self.waits = False
        self.entry: tuple[float, int, _Flow] = (finish, 0, self)


class _Class:
    """Holds the virtual time and the flows in use of one class of I/O."""

    __slots__ = ("flows", "leaving", "share", "speed", "v", "waiting", "weight")

    def __init__(self, share: float) -> None:
        self.share = share
        self.v = 0.0
        #: The speed dv/dt, which is 0 while the class is not in use.
        self.speed = 0.0
        self.weight = 0.0
        self.flows: dict[Hashable, _Flow] = {}
        self.waiting: SortedList = SortedList()
        self.leaving: SortedList = SortedList()


class Pacer:
    """Keeps one limit: ``rate_per_s`` of the unit that ``amount`` counts. ``shares`` has an entry for every class."""

    def __init__(self, rate_per_s: float, shares: Mapping[Hashable, float]) -> None:
        self._rate = rate_per_s
        self._classes = {name: _Class(share) for name, share in shares.items()}
        self._last_s = 0.0
        self._numbers = count()

    def configure(self, rate_per_s: float, shares: Mapping[Hashable, float], now: float) -> None:
        """Set another limit from now on. Requests that have passed before still count."""
        self._advance(now)
        self._rate = rate_per_s
        for name, share in shares.items():
            self._classes[name].share = share
        self._set_speeds()

    def enter(self, key: Hashable, name: Hashable, weight: float, amount: float, now: float) -> bool:
        """Enter a flow's next request. Return True if it may go at once. Otherwise `release` will return the flow."""
        self._advance(now)
        klass = self._classes[name]
        flow = klass.flows.get(key)
        if flow is None:
            flow = klass.flows[key] = _Flow(key, weight, klass.v)
            klass.weight += weight
            self._set_speeds()
        else:
            klass.leaving.remove(flow.entry)
            if flow.weight != weight:
                klass.weight += weight - flow.weight
                flow.weight = weight
                self._set_speeds()
        flow.amount = amount
        if flow.finish <= klass.v + _BURST_S * klass.speed:
            self._let_go(klass, flow)
            return True
        flow.waits = True
        flow.entry = (flow.finish, next(self._numbers), flow)
        klass.waiting.add(flow.entry)
        return False

    def leave(self, key: Hashable, name: Hashable) -> None:
        """Withdraw the flow's request that waits here."""
        klass = self._classes[name]
        flow = klass.flows[key]
        klass.waiting.remove(flow.entry)
        flow.waits = False
        klass.leaving.add(flow.entry)

    def release(self, now: float) -> list[Hashable]:
        """Return the flows whose requests may go now."""
        self._advance(now)
        released = []
        for klass in self._classes.values():
            waiting = klass.waiting
            while waiting and waiting[0][0] <= klass.v + _BURST_S * klass.speed:
                flow = waiting.pop(0)[2]
                flow.waits = False
                self._let_go(klass, flow)
                released.append(flow.key)
        return released

    def next_time(self, now: float) -> float:
        """Return when to call `release` again, after ``now``, or inf if nothing waits. Call it after `release`."""
        wait_s = inf
        for klass in self._classes.values():
            if klass.waiting:
                until = (klass.waiting[0][0] - klass.v) / klass.speed - _BURST_S
                wait_s = min(wait_s, until)
        if wait_s == inf:
            return inf
        # When a flow goes out of use, the speed of the others rises. So the next look must be no later than that.
        return now + max(min(wait_s, self._next_leave_s()), STEP_MIN_S)

    def __len__(self) -> int:
        """Return how many flows are in use."""
        return sum(len(klass.flows) for klass in self._classes.values())

    def _let_go(self, klass: _Class, flow: _Flow) -> None:
        flow.finish = max(klass.v, flow.finish) + flow.amount / flow.weight
        flow.entry = (flow.finish, next(self._numbers), flow)
        klass.leaving.add(flow.entry)

    # --- the fluid ---------------------------------------------------------------------

    def _set_speeds(self) -> None:
        total = sum(klass.share for klass in self._classes.values() if klass.flows)
        for klass in self._classes.values():
            klass.speed = self._rate * klass.share / total / klass.weight if klass.flows else 0.0

    def _next_leave_s(self) -> float:
        """Return how long it takes until the first flow goes out of use, at the present speeds."""
        classes = [klass for klass in self._classes.values() if klass.leaving]
        return max(min(((klass.leaving[0][0] - klass.v) / klass.speed for klass in classes), default=inf), 0.0)

    def _advance(self, now: float) -> None:
        left_s, self._last_s = now - self._last_s, now
        while left_s > 0:
            leave_s = self._next_leave_s()
            step_s = min(left_s, leave_s)
            for klass in self._classes.values():
                klass.v += klass.speed * step_s
            if leave_s > left_s:
                return
            self._end_uses()
            left_s -= step_s

    def _end_uses(self) -> None:
        """Forget the flows that the fluid has served: the first flow to go out of use, and all that do so with it."""
        first_s = self._next_leave_s()
        for klass in self._classes.values():
            leaving = klass.leaving
            while leaving and (leaving[0][0] - klass.v) / klass.speed <= first_s:
                flow = leaving.pop(0)[2]
                del klass.flows[flow.key]
                klass.weight -= flow.weight
            if not klass.flows:
                # No flow holds a tag of this class now. Start from 0 again, as floats are most exact near 0.
                klass.v = klass.weight = 0.0
        self._set_speeds()
