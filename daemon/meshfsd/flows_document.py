"""Make one disk's part of the "flows" document from its policy, queue and meter, as plain values.

    name, discipline, depth, in_flight, queued
    policy       system_floor, limit_iops, limit_bytes_per_s (null: no limit), source ("config", "run time")
    cost         the cost model's parameters, whether it is calibrated, and by how many windows
    jain         by class and window: Jain's index of share / weight; null if there is nothing to compare
    utilisation  by window: cost served per second
    flows        one object per flow: `_flow`
    others       totals of the flows that the meter has dropped, and the number of those flows

The windows are "1s" and "60s". Latencies are those of the last minute, in milliseconds. Histograms count in the buckets
<= 1, 5, 10, 100, 1000, 10000 and > 10000 ms. A share is from 0 to 1.

Jain's index covers only flows that were backlogged in the window, and whose share depends only on their weight. Flows
with a limit are left out because they may wait for the limit. Flows with a reservation are left out because they get
more than their weight gives.
"""

from collections.abc import Callable, Mapping

from meshfs.disk.base import Op
from meshfs.model import NO_FLOW, IoClass
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy
from meshfs.scheduler.decide.queue import FlowState, Queue
from meshfs.scheduler.learn.cost import CostModel
from meshfs.scheduler.usage import NO_USAGE, Counted, DiskMeter, DiskUsage, FlowUsage, UsageRates, jain
from meshfs.telemetry.exporter_documents import Cost, DiskFlows, FlowItem, Totals, Windows, WindowsOrNone

_PER_US = 1e6
_PER_NS = 1e9


def describe_disk(node: str, name: str, queue: Queue, policy: DiskPolicy, meter: DiskMeter, now: float) -> DiskFlows:
    """Describe a disk of the exporter of ``node``. Flows with their own policy are included even if they are idle."""
    states = {state.flow: state for state in queue.flows(now)}
    usage = meter.snapshot(now, {flow: state.waits_s for flow, state in states.items() if state.queued})
    flows = sorted({*usage.flows, *states, *policy.flows} - {NO_FLOW})
    return {
        "name": name,
        "discipline": queue.discipline,
        "depth": queue.depth,
        "in_flight": sum(state.in_flight for state in states.values()),
        "queued": len(queue),
        "policy": {
            "system_floor": policy.system_floor,
            "limit_iops": policy.limit_iops,
            "limit_bytes_per_s": policy.limit_bytes_per_s,
            "source": policy.source(),
        },
        "cost": _cost(queue.costs),
        "jain": {"app": _jain(IoClass.APP, usage, policy), "system": _jain(IoClass.SYSTEM, usage, policy)},
        "utilisation": _windows(usage.usage, lambda got: got.cost),
        "flows": [
            _flow(node, policy, states.get(each) or FlowState(each, 0, 0), usage.flows.get(each) or NO_USAGE)
            for each in flows
        ],
        "others": {"flows": usage.flows_let_go, **_totals(usage.others)},
    }


def _cost(costs: CostModel) -> Cost:
    return {
        "read_fixed_us": round(costs.read_fixed_s * _PER_US, 3),
        "read_byte_ns": round(costs.read_byte_s * _PER_NS, 6),
        "write_fixed_us": round(costs.write_fixed_s * _PER_US, 3),
        "write_byte_ns": round(costs.write_byte_s * _PER_NS, 6),
        "flush_fixed_us": round(costs.flush_fixed_s * _PER_US, 3),
        "calibrated": costs.calibrated,
        "windows": costs.windows,
    }


def _flow(node: str, policy: DiskPolicy, state: FlowState, usage: FlowUsage) -> FlowItem:
    flow = state.flow
    wanted = policy.of(flow)
    return {
        "node": flow.node,
        "class": str(flow.io_class),
        "local": flow.node == node,
        "weight": wanted.weight,
        "reservation": wanted.reservation,
        "limit_iops": wanted.limit_iops,
        "limit_bytes_per_s": wanted.limit_bytes_per_s,
        "source": policy.source(flow),
        "entitlement": round(state.entitlement, 6),
        "share": _windows(usage.usage, lambda got: got.share),
        "backlogged": {"1s": usage.usage[1].backlogged, "60s": usage.usage[60].backlogged},
        "lag_s": round(state.lag_s, 6),
        "queued": state.queued,
        "in_flight": state.in_flight,
        "waits_s": round(state.waits_s, 3),
        "held": state.held,
        "latency_ms": {"p50": _ms(usage.latency_p50_s), "p99": _ms(usage.latency_p99_s)},
        "disk_latency_ms": {"p50": _ms(usage.disk_latency_p50_s), "p99": _ms(usage.disk_latency_p99_s)},
        "iops": _windows(usage.usage, lambda got: got.iops),
        "bytes_per_s": _windows(usage.usage, lambda got: got.bytes_per_s),
        **_totals(usage.counted),
    }


def _totals(counted: Counted) -> Totals:
    return {
        "reads": counted.completions[Op.READ],
        "writes": counted.completions[Op.WRITE],
        "flushes": counted.completions[Op.FLUSH],
        "zeroes": counted.completions[Op.ZERO],
        "discards": counted.completions[Op.DISCARD],
        "errors": counted.errors,
        "read_bytes": counted.bytes[Op.READ],
        "written_bytes": counted.bytes[Op.WRITE],
        "zeroed_bytes": counted.bytes[Op.ZERO],
        "discarded_bytes": counted.bytes[Op.DISCARD],
        "cost_s": round(counted.cost_s, 6),
        "read_time_s": round(counted.times_s[Op.READ], 6),
        "write_time_s": round(counted.times_s[Op.WRITE], 6),
        "read_histogram": counted.read_histogram,
        "write_histogram": counted.write_histogram,
    }


def _jain(io_class: IoClass, usage: DiskUsage, policy: DiskPolicy) -> WindowsOrNone:
    flows = {key: policy.of(key) for key in usage.flows if key != NO_FLOW and key.io_class is io_class}
    comparable = {key: wanted.weight for key, wanted in flows.items() if _by_weight_alone(wanted)}

    def index(window: int) -> float | None:
        backlogged = {key: usage.flows[key].usage[window] for key in comparable}
        found = jain(got.share / comparable[key] for key, got in backlogged.items() if got.backlogged)
        return found if found is None else round(found, 6)

    return {"1s": index(1), "60s": index(60)}


def _by_weight_alone(wanted: FlowPolicy) -> bool:
    return not wanted.reservation and wanted.limit_iops is None and wanted.limit_bytes_per_s is None


def _windows(usage: Mapping[int, UsageRates], figure: Callable[[UsageRates], float]) -> Windows:
    return {"1s": round(figure(usage[1]), 6), "60s": round(figure(usage[60]), 6)}


def _ms(latency_s: float | None) -> float | None:
    return None if latency_s is None else round(latency_s * 1000, 4)
