"""The gates that a request passes before it may compete for the disk: its flow's limits, then the disk's. Pure.

Theory. Only the oldest request of a flow is at a gate, and the others wait behind it. There are three gates in a row:

    gate 0   the flow's own limits, by the virtual scheduling algorithm (GCRA, ITU-T I.371)
    gate 1   the disk's limit_iops          (`pacer.py`)
    gate 2   the disk's limit_bytes_per_s   (`pacer.py`)

At gate 0, each limit keeps a theoretical arrival time (TAT). If the flow sent exactly at its limit, its next request
would come at that time. A request passes if it is not earlier than TAT - ``limits.LIMIT_BURST_S``. TAT then advances by
1 / limit_iops, or by bytes / limit_bytes_per_s. If TAT is in the past, it advances from the present time. So a flow
that is idle saves up no more than LIMIT_BURST_S.

Example: with limit_iops = 100, TAT advances by 10 ms per request. LIMIT_BURST_S is also 10 ms. So an idle flow may send
two requests at once, and after that one request every 10 ms.

Bound of a flow's limit. A request may pass LIMIT_BURST_S early, and may wait for the disk after it has passed. So in
any T seconds, at most ``limit * (T + LIMIT_BURST_S) + 2`` requests leave. (A limit in bytes counts bytes, and the two
additional requests may have any size.)

A request is charged when it passes a gate. If it is cancelled later, the charge is not returned.
"""

from collections.abc import Hashable, Mapping
from itertools import count
from math import inf

from sortedcontainers import SortedList

from meshfs.scheduler.decide.flow import Flow, FlowStage
from meshfs.scheduler.decide.pacer import STEP_MIN_S, Pacer
from meshfs.scheduler.decide.policy import DiskPolicy


class Gates:
    """Holds all limits of one disk. A flow passes them with one request at a time."""

    def __init__(self) -> None:
        #: True if the disk itself has a limit.
        self.paced = False
        #: The number of flows that are held at any gate.
        self.held = 0
        self._pacers: list[Pacer | None] = [None, None]
        self._by_key: dict[Hashable, Flow] = {}
        self._limited: SortedList = SortedList()
        self._numbers = count()
        self._last_s = 0.0

    def configure(self, policy: DiskPolicy, shares: Mapping[Hashable, float], now: float) -> None:
        """Set the disk's limits from now on. No flow may be held."""
        for index, rate in enumerate((policy.limit_iops, policy.limit_bytes_per_s)):
            pacer = self._pacers[index]
            if rate is None:
                self._pacers[index] = None
            elif pacer is None:
                self._pacers[index] = Pacer(rate, shares)
            else:
                pacer.configure(rate, shares, now)
        self.paced = any(pacer is not None for pacer in self._pacers)

    def enter(self, flow: Flow, now: float) -> bool:
        """Take the flow's oldest request through the limits. Return True if it passed, or False if it is held."""
        if flow.limited:
            at = max(tat.eligible(now) for tat in flow.tats)
            if at > now:
                flow.entry = (at, next(self._numbers), flow)
                self._limited.add(flow.entry)
                self._hold(flow, 0)
                return False
            for tat in flow.tats:
                tat.charge(flow.queue[0].length, now)
        return self._enter_pacers(flow, 0, now)

    def _enter_pacers(self, flow: Flow, first: int, now: float) -> bool:
        head, name = flow.queue[0], flow.server.name
        for index in range(first, 2):
            pacer = self._pacers[index]
            if pacer is not None:
                amount = head.length if index else 1
                if not pacer.enter(flow.key, name, flow.policy.weight, amount, now):
                    self._hold(flow, index + 1)
                    return False
        return True

    def _hold(self, flow: Flow, gate: int) -> None:
        flow.stage, flow.gate = FlowStage.HELD, gate
        self._by_key[flow.key] = flow
        self.held += 1

    def leave(self, flow: Flow) -> None:
        """Withdraw the flow's oldest request from the limit that holds it."""
        pacer = self._pacers[flow.gate - 1] if flow.gate else None
        if pacer is None:
            self._limited.remove(flow.entry)
        else:
            pacer.leave(flow.key, flow.server.name)
        self._let_go(flow)

    def leave_all(self) -> list[Flow]:
        flows = list(self._by_key.values())
        for flow in flows:
            self.leave(flow)
        return flows

    def _let_go(self, flow: Flow) -> None:
        del self._by_key[flow.key]
        self.held -= 1
        flow.stage = FlowStage.IDLE

    def release(self, now: float) -> list[Flow]:
        """Return the flows whose oldest request has passed all limits by now."""
        withdrawn = self._jumped_back() if now < self._last_s else []
        passed = [flow for flow in withdrawn if self.enter(flow, now)]
        self._last_s = now
        limited = self._limited
        while limited and limited[0][0] <= now:
            flow = limited.pop(0)[2]
            self._let_go(flow)
            if self.enter(flow, now):
                passed.append(flow)
        for index, pacer in enumerate(self._pacers):
            if pacer is not None:
                for key in pacer.release(now):
                    flow = self._by_key[key]
                    self._let_go(flow)
                    if self._enter_pacers(flow, index + 1, now):
                        passed.append(flow)
        return passed

    def _jumped_back(self) -> list[Flow]:
        """Withdraw and return the flows at gate 0. After the clock jumped back, they would wait for far too long."""
        flows = [entry[2] for entry in self._limited]
        for flow in flows:
            self.leave(flow)
        return flows

    def next_time(self, now: float) -> float:
        """Return when to call `release` again, after ``now``, or inf if nothing is held."""
        at = max(self._limited[0][0], now + STEP_MIN_S) if self._limited else inf
        return min([at, *(pacer.next_time(now) for pacer in self._pacers if pacer is not None)])
