"""The fair queue of one disk shares by weight, prefers applications to the system, and starves no flow. Pure.

Theory. Each request has a cost in seconds of the disk's time: its cost by the cost model (`cost.py`), or the time that
the disk's limits allot to it, if that is more. The queue keeps two levels of virtual time: in each class for its flows,
and at the disk for the two classes. A request gets a start tag S and a finish tag F. The smallest S leaves next:

    disk -+- app      share 1 - system_floor    -+- node n1, weight
          '- system   share system_floor         '- node n2, weight ...

    next request of a flow    S = max(v, F of the flow's previous request),  F = S + cost / weight
                              v is the virtual time of the class: S of its request that left last
    next request of a class   the same with the share instead of the weight, and v of the disk
    next request to leave     from the class with the smaller S (app if equal), the flow with the smallest S

Example: n1 has weight 2, n2 has weight 1, and all requests cost 10 ms. F advances by 5 ms per request of n1, and by
10 ms per request of n2. So two requests of n1 leave for each request of n2.

An application that uses less than its share has S = v, so its requests leave before a flood of the system's. The system
gets the rest. If applications want everything, the system still gets its floor. But no request can overtake the
requests at the disk. So while applications are active, the system has at most ``limits.SYSTEM_DEPTH_SHARE`` of the
depth there (at least one request). If the system is below its floor, this bound does not apply. So an application's
next request mostly finds room at the disk.

This is hierarchical start-time fair queueing with D requests at the disk, SFQ(D) (Goyal, Vin, Cheng: Start-time Fair
Queueing, SIGCOMM 1996, section 3; Jin, Chase, Kaur: Interposed Proportional Sharing for a Storage Service Utility,
SIGMETRICS 2004). Bounds, with c_f the largest cost and w_f the weight of flow f, and D the depth:

    fairness     if flows f and g of a class both have waiting requests all through an interval, their work W obeys
                 |W_f / w_f - W_g / w_g| <= (D + 1) (c_f / w_f + c_g / w_g)  for requests done (Jin et al., theorem 1)
                 |W_f / w_f - W_g / w_g| <= c_f / w_f + c_g / w_g            for those sent (Goyal et al., theorem 1)
    starvation   a flow's oldest request leaves before its class has got more work than
                 c_f + sum over its other flows g of (c_g + c_f w_g / w_f); the class gets at least its share of the
                 disk's work, less one largest cost

Reservations are those of mClock (Gulati, Merchant, Varman, OSDI 2010), as shares of the disk. A flow that got less than
its reserved part of the disk's work goes first. Such a request is not charged against the flow's weight (mClock,
section 3.2).

A request must pass the limits before it competes (`gates.py`). A limit in bytes also counts the bytes that a
zeroing or a discard clears.
The requests of a flow leave in order of arrival, except flushes. A flush is put aside until all earlier writes,
zeroings and discards of its flow are done. Later requests of the flow need not wait for the flush.
"""

from bisect import insort
from collections.abc import Hashable
from itertools import count
from typing import Final

from meshfs import limits
from meshfs.disk.base import NEVER_S, DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.flow import ClassServer, Flow, FlowStage, cancel_behind_head, drop_cancelled, is_queued
from meshfs.scheduler.decide.gates import Gates
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.decide.queue import FlowState
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.learn.depth import DepthControl
from meshfs.scheduler.learn.observer import Observer

_FLUSH: Final = Op.FLUSH
_WRITE: Final = Op.WRITE
_IDLE: Final = FlowStage.IDLE
_READY: Final = FlowStage.READY
# Unused flows are dropped when the number of flows has doubled since the last time, and grown by this many more.
_FORGET_MIN: Final = 64
# A flow whose last request came within this time counts as wanting service, because a flow of depth 1 often has gaps.
_WANTS_S: Final = 1.0


class FairQueue:
    """Shares a disk fairly. `configure` may change the policy at any time."""

    discipline = "fair"

    def __init__(self, policy: DiskPolicy, costs: CostModel | None = None, depths: DepthControl | None = None) -> None:
        self.costs = costs or CostModel()
        self.depths = depths or DepthControl()
        self.policy = policy
        self._cost = self.costs.cost
        self._observer = Observer(self.costs, self.depths)
        self._app = ClassServer(IoClass.APP)
        self._system = ClassServer(IoClass.SYSTEM)
        self._flows: dict[FlowKey, Flow] = {}
        self._forget_at = _FORGET_MIN
        self._gates = Gates()
        #: True if the disk itself has a limit. This is a copy of `Gates.paced`, for speed.
        self._paced = False
        #: All flows with a reservation.
        self._reserved: list[Flow] = []
        #: The disk's virtual time, and the summed cost of all requests that left so far.
        self._v = 0.0
        self._work_s = 0.0
        #: The seconds that the disk's limits allot to one request, and to one byte.
        self._limit_request_s = self._limit_byte_s = 0.0
        self._waiting = 0
        self._in_flight = 0
        #: The summed cost of the requests at the disk. Requests that are sent while the disk has a limit do not count.
        self._sent_s = 0.0
        self._numbers = count()
        self._now_s = 0.0
        self.configure(policy, 0.0)

    @property
    def depth(self) -> int:
        return self.depths.depth

    def __len__(self) -> int:
        return self._waiting

    # --- the hot path ------------------------------------------------------------------

    def add(self, request: DiskRequest, now: float) -> None:
        flow = self._flows.get(request.flow)
        if flow is None:
            flow = self._new_flow(request.flow, now)
        request.added_s = flow.last_s = flow.server.last_s = now
        cost_s = self._cost(request.op, request.length)
        if self._paced:
            cost_s = max(cost_s, self._limit_request_s, request.length * self._limit_byte_s)
        request.cost_s = cost_s
        flow.queue.append(request)
        self._waiting += 1
        if flow.stage is _IDLE:
            if flow.reserves and flow.reserve < self._work_s:
                # A flow gets no reserved work for the time in which it asked for nothing.
                flow.reserve = self._work_s
            self._next_head(flow, now)

    def pop(self, now: float) -> DiskRequest | float | None:
        gates = self._gates
        if gates.held:
            for passed in gates.release(now):
                self._make_ready(passed)
        full = self._in_flight >= self.depths.depth
        if full or self._sent_s >= self._observer.budget_s:
            if self._waiting:
                self._observer.held_back(depth=full)
            return None
        server, system = self._app, self._system
        if system.ready:
            if not server.ready:
                if self._gives_way(now):
                    self._observer.gave_way()
                    return gates.next_time(now) if gates.held else None
                server = system
            elif system.start < server.start:
                server = system
        elif not server.ready:
            self._observer.is_hungry = True
            return gates.next_time(now) if gates.held else None
        if self._reserved and (reserved := self._behind_reservation()) is not None:
            return self._send_reserved(reserved, now)
        start, _, flow = server.ready.pop(0)
        server.v = start
        self._v = class_start = server.start
        cost_s = flow.queue[0].cost_s
        flow.finish = start + cost_s * flow.per_weight
        server.start = server.finish = class_start + cost_s * server.per_share
        return self._send(flow, now)

    def _gives_way(self, now: float) -> bool:
        """Return whether the system has got its floor, and must leave the free places at the disk to applications."""
        app, system = self._app, self._system
        return (
            abs(now - app.last_s) < limits.APP_ACTIVE_S
            and system.in_flight >= max(1, int(limits.SYSTEM_DEPTH_SHARE * self.depths.depth))
            and system.start >= app.finish
        )

    def _send(self, flow: Flow, now: float) -> DiskRequest:
        """Let the flow's oldest request leave, whose tags are set already. The next request takes its place."""
        queue = flow.queue
        request = queue.popleft()
        if flow.cancelled:
            drop_cancelled(queue, flow.cancelled)
        request.sent_s = now
        cost_s = request.cost_s
        self._waiting -= 1
        if not self._in_flight:
            self._observer.busy(now)
        self._in_flight += 1
        flow.in_flight += 1
        flow.server.in_flight += 1
        self._work_s += cost_s
        if not self._paced:
            self._sent_s += cost_s
        if flow.reserves:
            flow.move_reservation(self._work_s, cost_s)
        op = request.op
        if op:
            if op == _FLUSH:
                flow.lifted.discard(request)
            else:
                flow.last_write += 1
                flow.writes[request] = flow.last_write
        if not queue:
            flow.stage = _IDLE
        elif self._paced or flow.limited or queue[0].op == _FLUSH:
            self._next_head(flow, now)
        else:
            self._make_ready(flow)
        return request

    def done(self, request: DiskRequest, now: float) -> None:
        flow = self._flows[request.flow]
        flow.in_flight -= 1
        flow.server.in_flight -= 1
        self._in_flight = in_flight = self._in_flight - 1
        # The sum must not become negative: a request that was sent under a limit was never added to it.
        sent_s = self._sent_s - request.cost_s
        self._sent_s = sent_s if in_flight and sent_s > 0.0 else 0.0
        self._now_s = now
        self._observer.done(request, now, in_flight, self._waiting)
        op = request.op
        if op and op != _FLUSH:
            if op != _WRITE:
                self.costs.cleared(op, request.length, now - request.sent_s)
            flow.writes.pop(request, None)
            if flow.barriers:
                self._lift_barriers(flow, now)

    def _next_head(self, flow: Flow, now: float) -> None:
        """Handle the flow's new oldest request: put flushes aside, pass the gates, and make the flow ready."""
        queue = flow.queue
        if queue[0].op == _FLUSH and flow.writes:
            _set_barriers(flow)
            if not queue:
                flow.stage = _IDLE
                return
        if (self._paced or flow.limited) and not self._gates.enter(flow, now):
            return
        self._make_ready(flow)

    def _make_ready(self, flow: Flow) -> None:
        server = flow.server
        start = flow.finish
        if start < server.v:
            start = server.v
        flow.stage = _READY
        flow.entry = entry = (start, next(self._numbers), flow)
        ready = server.ready
        if ready:
            insort(ready, entry)
        else:
            server.start = server.finish if server.finish > self._v else self._v
            ready.append(entry)

    # --- reservations ------------------------------------------------------------------

    def _behind_reservation(self) -> Flow | None:
        """Return the flow that is the furthest behind its reservation, or None if no flow is behind."""
        ready = [flow for flow in self._reserved if flow.stage is _READY and flow.reserve <= self._work_s]
        return min(ready, key=lambda flow: flow.reserve) if ready else None

    def _send_reserved(self, flow: Flow, now: float) -> DiskRequest:
        """Send a flow's oldest request out of turn. The class's virtual time stands still, but the class is charged."""
        server = flow.server
        server.ready.remove(flow.entry)
        cost_s = flow.queue[0].cost_s
        flow.finish = server.v + cost_s * flow.per_weight
        # The disk's virtual time must not pass the other class, which would lose its claim if it is behind.
        self._v = min(each.start for each in (self._app, self._system) if each.ready or each is server)
        server.start = server.finish = server.start + cost_s * server.per_share
        return self._send(flow, now)

    # --- flushes -----------------------------------------------------------------------

    def _lift_barriers(self, flow: Flow, now: float) -> None:
        """Put the flushes that wait for no other write back into the queue, after a write of the flow is done."""
        oldest = next(iter(flow.writes.values()), flow.last_write + 1)
        flushes = []
        for flush, last_write in flow.barriers.items():
            if last_write >= oldest:
                break
            flushes.append(flush)
        if not flushes:
            return
        for flush in flushes:
            del flow.barriers[flush]
        # The flushes came before the request that is the oldest now. Put them in front of it.
        flow.lifted.update(flushes)
        flow.queue.extendleft(reversed(flushes))
        if flow.stage is FlowStage.HELD:
            # The flushes must pass the gates on their own account, and not on that of the write that waits there.
            self._take_back(flow)
        if flow.stage is _IDLE:
            self._next_head(flow, now)

    # --- cancelling --------------------------------------------------------------------

    def cancel(self, request: DiskRequest) -> bool:
        flow = self._flows.get(request.flow)
        if flow is None or not is_queued(request):
            return False
        request.added_s = NEVER_S
        self._waiting -= 1
        if flow.barriers.pop(request, None) is not None:
            return True
        queue = flow.queue
        flow.lifted.discard(request)
        if queue[0] is not request:
            cancel_behind_head(queue, flow.cancelled, request)
            return True
        self._take_back(flow)
        queue.popleft()
        drop_cancelled(queue, flow.cancelled)
        if queue:
            self._next_head(flow, max(self._now_s, flow.last_s))
        return True

    def _take_back(self, flow: Flow) -> None:
        """Withdraw the flow's oldest request from the ready list or from the gate that holds it."""
        if flow.stage is _READY:
            flow.server.ready.remove(flow.entry)
        else:
            self._gates.leave(flow)
        flow.stage = _IDLE

    # --- flows and policy --------------------------------------------------------------

    def _new_flow(self, key: FlowKey, now: float) -> Flow:
        if len(self._flows) >= self._forget_at:
            self._forget(now)
        server = self._system if key.io_class is IoClass.SYSTEM else self._app
        flow = self._flows[key] = Flow(key, server, self.policy.of(key))
        if flow.policy.reservation:
            self._reserved.append(flow)
        return flow

    def _forget(self, now: float) -> None:
        """Drop the idle flows whose state equals that of a new flow.

        A finish tag is dropped with its flow. The tag is ahead of the class's virtual time by at most one request,
        which no longer matters after _WANTS_S.
        """
        for key, flow in list(self._flows.items()):
            if flow.idle and now - flow.last_s > _WANTS_S and all(tat.settled_s <= now for tat in flow.tats):
                del self._flows[key]
                if flow in self._reserved:
                    self._reserved.remove(flow)
        self._forget_at = 2 * len(self._flows) + _FORGET_MIN

    def configure(self, policy: DiskPolicy, now: float) -> None:
        """Use another policy from now on. Waiting requests keep their turn. Requests at a gate get the new limits."""
        self.policy = policy
        held = self._gates.leave_all()
        shares: dict[Hashable, float] = {io_class: policy.share(io_class) for io_class in IoClass}
        self._gates.configure(policy, shares, now)
        self._paced = self._gates.paced
        self._limit_request_s = 1.0 / policy.limit_iops if policy.limit_iops else 0.0
        self._limit_byte_s = 1.0 / policy.limit_bytes_per_s if policy.limit_bytes_per_s else 0.0
        for server in (self._app, self._system):
            server.per_share = 1.0 / shares[server.name]
        for flow in self._flows.values():
            new = policy.of(flow.key)
            if new != flow.policy:
                flow.set_policy(new)
        self._reserved = [flow for flow in self._flows.values() if flow.policy.reservation]
        for flow in held:
            self._next_head(flow, now)

    def paused(self) -> None:
        self._observer.pause()

    def resumed(self, now: float) -> None:
        self._observer.resume(now)

    # --- status ------------------------------------------------------------------------

    def flows(self, now: float) -> list[FlowState]:
        flows = list(self._flows.values())
        entitled = self._entitlements([flow for flow in flows if not flow.idle or now - flow.last_s < _WANTS_S])
        lags = {**self._lags(self._app), **self._lags(self._system)}
        return [
            FlowState(
                flow.key,
                flow.queued,
                flow.in_flight,
                lags.get(flow, 0.0),
                ("disk limit" if flow.gate else "flow limit") if flow.stage is FlowStage.HELD else "",
                entitled.get(flow, 0.0),
                now - flow.oldest_s if flow.queued else 0.0,
            )
            for flow in flows
        ]

    def _entitlements(self, wanting: list[Flow]) -> dict[Flow, float]:
        """Return the share of the disk that each flow of ``wanting`` is entitled to: at least its reservation."""
        shares = {server: 1.0 / server.per_share for server in {flow.server for flow in wanting}}
        total = sum(shares.values())
        weights = {server: sum(flow.policy.weight for flow in wanting if flow.server is server) for server in shares}
        return {
            flow: max(flow.policy.reservation, shares[flow.server] / total * flow.policy.weight / weights[flow.server])
            for flow in wanting
        }

    def _lags(self, server: ClassServer) -> dict[Flow, float]:
        """Return by how many seconds of the disk's time each ready flow is behind the weighted mean of its class."""
        starts = {flow: start for start, _, flow in server.ready}
        weight = sum(flow.policy.weight for flow in starts)
        mean = sum(start * flow.policy.weight for flow, start in starts.items()) / weight if starts else 0.0
        return {flow: (mean - start) * flow.policy.weight for flow, start in starts.items()}


def _set_barriers(flow: Flow) -> None:
    """Put the flushes at the head of the queue aside. Each waits for the flow's writes that are at the disk now."""
    queue = flow.queue
    while queue and queue[0].op == _FLUSH and queue[0] not in flow.lifted:
        flow.barriers[queue.popleft()] = flow.last_write
        drop_cancelled(queue, flow.cancelled)
