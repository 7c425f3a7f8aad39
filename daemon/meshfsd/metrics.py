"""An exporter's metrics, made from its status and flows documents.

The label `disk` is a disk of the exporter, and `node` is the node that requested the I/O. A flow is a node and a class.
A value that is missing from a document has no metric.
"""

from collections.abc import Iterable
from typing import Final

from meshfs.telemetry.exporter_records import (
    ExporterDiskRecord,
    ExporterRecord,
    FlowRecord,
    FlowsDiskRecord,
    FlowsRecord,
    SessionRecord,
)
from meshfs.telemetry.metrics_place import Snapshot
from meshfs.telemetry.problems import EXPORTER_RULES, published
from meshfs.telemetry.prometheus import Document, Families, MetricsServer, open_metrics, problem_counts

_LIMIT_IOPS: Final = "The limit of operations per second. The metric is absent without a limit."
_LIMIT_BYTES: Final = "The limit of bytes per second. The metric is absent without a limit."
_CONNECTIONS: Final = "Connections on which the node is logged in."
_HELD: Final = "Memory that the exporter holds for the node."
_HELD_BY_ALL: Final = "Memory that the exporter holds for all its peers."
_PROCESSOR: Final = (
    "Time of the exporter's thread, by node. The node 'logins from ADDRESS' stands for connections from an address of "
    "the config before their login. An empty name stands for connections of strangers."
)
_TURNS: Final = "Turns of the exporter's thread, by the node that had them."
_FLOOR: Final = "The share of the disk that the system class gets at least."
_UTILISATION: Final = "The cost served per second, over the last minute."
_JAIN: Final = "Jain's index of fairness between the flows of a class, over the last minute."
_COST_FIXED: Final = "The fixed time of a request, by the cost model."
_COST_BYTE: Final = "The time per byte of a request, by the cost model."
_RESERVATION: Final = "The share of the disk that is reserved for the flow."
_ENTITLEMENT: Final = "The share that the flow is entitled to among the active flows."
_SHARE: Final = "The flow's share of the cost served, over the last minute."
_COST: Final = "The disk's time that the flow used, by the cost model."
_LATENCY: Final = "The time of requests in the queue and at the disk."


def open_exporter_metrics(place: tuple[str, int], make: Snapshot) -> MetricsServer:
    """Listen at a place. ``make`` returns {"status": ..., "flows": ...}. Raises ConfigError if that is not possible."""
    return open_metrics(place, make, fill)


def fill(families: Families, documents: Document) -> None:
    status, flows = ExporterRecord(documents.get("status")), FlowsRecord(documents.get("flows"))
    _exporter(families, status)
    for disk in status.disks:
        _disk(families, disk)
    for shared in flows.disks:
        _scheduling(families, shared)
        for flow in shared.flows:
            _flow(families, shared.name, flow)


def _exporter(families: Families, status: ExporterRecord) -> None:
    gauge, counter = families.gauge, families.counter
    gauge("meshfsd_exporter_info", "Always 1; the label is the exporter's node.", {"node": status.node}, 1)
    gauge("meshfsd_uptime_seconds", "The time since the exporter started.", {}, status.uptime_s)
    problem_counts(families, "meshfsd_problems", EXPORTER_RULES, published(status.raw))
    gauge("meshfsd_connections", "Connections, logged in or not.", {}, status.connections)
    for node, sessions in _by_node(status.sessions).items():
        labels = {"node": node}
        gauge("meshfsd_sessions", "Sessions of a node.", labels, len(sessions))
        gauge("meshfsd_opens", "Open files of a node.", labels, sum(session.opens or 0 for session in sessions))
    for usage in status.nodes:
        labels = {"node": usage.node}
        gauge("meshfsd_node_connections", _CONNECTIONS, labels, usage.connections)
        gauge("meshfsd_node_memory_bytes", _HELD, labels, usage.memory_bytes)
    gauge("meshfsd_memory_bytes", _HELD_BY_ALL, {}, status.memory.used_bytes)
    for share in status.processor:
        labels = {"node": share.node, "class": share.io_class}
        counter("meshfsd_processor_seconds_total", _PROCESSOR, labels, share.used_s)
        counter("meshfsd_processor_turns_total", _TURNS, labels, share.turns)
    for event, count in status.counters.items():
        counter("meshfsd_events_total", "Other events, by name.", {"event": event}, count)


def _by_node(sessions: Iterable[SessionRecord]) -> dict[str, list[SessionRecord]]:
    found: dict[str, list[SessionRecord]] = {}
    for session in sessions:
        found.setdefault(session.node, []).append(session)
    return found


def _disk(families: Families, disk: ExporterDiskRecord) -> None:
    labels = {"disk": disk.name}
    gauge = families.gauge
    gauge("meshfsd_disk_ok", "1 if the disk's state is ok, else 0.", labels, disk.state == "ok")
    gauge("meshfsd_disk_size_bytes", "The disk's size.", labels, disk.size_bytes)
    gauge("meshfsd_disk_queued_requests", "Requests that wait in the queue.", labels, disk.queued)
    gauge("meshfsd_disk_in_flight_requests", "Requests that are at the disk.", labels, disk.in_flight)
    _totals(families, "meshfsd_disk", labels, disk)


def _totals(families: Families, prefix: str, labels: dict[str, str], totals: ExporterDiskRecord | FlowRecord) -> None:
    for op, operations, size_bytes in (
        ("read", totals.reads, totals.read_bytes),
        ("write", totals.writes, totals.written_bytes),
        ("flush", totals.flushes, None),
        ("zero", totals.zeroes, totals.zeroed_bytes),
        ("discard", totals.discards, totals.discarded_bytes),
    ):
        more = {**labels, "op": op}
        families.counter(f"{prefix}_operations_total", "Operations done.", more, operations)
        families.counter(f"{prefix}_bytes_total", "Bytes read, written, zeroed and discarded.", more, size_bytes)
    families.counter(f"{prefix}_errors_total", "Operations that failed.", labels, totals.errors)


def _scheduling(families: Families, disk: FlowsDiskRecord) -> None:
    labels, gauge = {"disk": disk.name}, families.gauge
    policy, cost, jain = disk.policy, disk.cost, disk.jain
    gauge("meshfsd_disk_depth_requests", "The most requests at the disk at once, at present.", labels, disk.depth)
    gauge("meshfsd_disk_limit_operations_per_second", _LIMIT_IOPS, labels, policy.limit_iops)
    gauge("meshfsd_disk_limit_bytes_per_second", _LIMIT_BYTES, labels, policy.limit_bytes_per_s)
    gauge("meshfsd_disk_system_floor_ratio", _FLOOR, labels, policy.system_floor)
    gauge("meshfsd_disk_utilisation_ratio", _UTILISATION, labels, disk.utilisation.minute)
    for io_class, index in (("app", jain.app), ("system", jain.system)):
        gauge("meshfsd_disk_jain_index", _JAIN, {**labels, "class": io_class}, index.minute)
    for op, fixed_us, byte_ns in (
        ("read", cost.read_fixed_us, cost.read_byte_ns),
        ("write", cost.write_fixed_us, cost.write_byte_ns),
        ("flush", cost.flush_fixed_us, None),
    ):
        more = {**labels, "op": op}
        gauge("meshfsd_disk_cost_fixed_seconds", _COST_FIXED, more, _scaled(fixed_us, 1e-6))
        gauge("meshfsd_disk_cost_byte_seconds", _COST_BYTE, more, _scaled(byte_ns, 1e-9))


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _flow(families: Families, disk: str, flow: FlowRecord) -> None:
    labels = {"node": flow.node, "class": flow.io_class, "disk": disk}
    gauge, policy = families.gauge, flow.policy
    gauge("meshfsd_flow_weight", "The flow's weight within its class.", labels, policy.weight)
    gauge("meshfsd_flow_reservation_ratio", _RESERVATION, labels, policy.reservation)
    gauge("meshfsd_flow_limit_operations_per_second", _LIMIT_IOPS, labels, policy.limit_iops)
    gauge("meshfsd_flow_limit_bytes_per_second", _LIMIT_BYTES, labels, policy.limit_bytes_per_s)
    gauge("meshfsd_flow_entitlement_ratio", _ENTITLEMENT, labels, flow.entitlement)
    gauge("meshfsd_flow_share_ratio", _SHARE, labels, flow.share.minute)
    gauge("meshfsd_flow_lag_seconds", "The cost by which the flow is behind its entitlement.", labels, flow.lag_s)
    gauge("meshfsd_flow_queued_requests", "Requests that wait in the queue.", labels, flow.queued)
    gauge("meshfsd_flow_in_flight_requests", "Requests that are at the disk.", labels, flow.in_flight)
    families.counter("meshfsd_flow_cost_seconds_total", _COST, labels, flow.cost_s)
    _totals(families, "meshfsd_flow", labels, flow)
    for op, counts, sum_s in (
        ("read", flow.read_histogram, flow.read_time_s),
        ("write", flow.write_histogram, flow.write_time_s),
    ):
        families.latency("meshfsd_flow_latency_seconds", _LATENCY, {**labels, "op": op}, counts, sum_s)
