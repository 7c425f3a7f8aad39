"""An exporter's metrics, made from its status and flows documents.

The label `disk` is a disk of the exporter, and `node` is the node that requested the I/O. A flow is a node and a class.
A value that is missing from a document has no metric.
"""

from collections.abc import Iterable
from typing import Final

from meshfs.telemetry.metrics_place import Snapshot
from meshfs.telemetry.problems import EXPORTER_RULES, published
from meshfs.telemetry.prometheus import (
    Document,
    Families,
    MetricsServer,
    numbers,
    open_metrics,
    problem_counts,
    table,
    tables,
)

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
# (operation, key of its count, key of its bytes)
_OPS: Final = (
    ("read", "reads", "read_bytes"),
    ("write", "writes", "written_bytes"),
    ("flush", "flushes", ""),
    ("zero", "zeroes", "zeroed_bytes"),
)


def open_exporter_metrics(place: tuple[str, int], make: Snapshot) -> MetricsServer:
    """Listen at a place. ``make`` returns {"status": ..., "flows": ...}. Raises ConfigError if that is not possible."""
    return open_metrics(place, make, fill)


def fill(families: Families, documents: Document) -> None:
    status = table(documents, "status")
    _exporter(families, status)
    for disk in tables(status, "disks"):
        _disk(families, disk)
    for disk in tables(table(documents, "flows"), "disks"):
        _scheduling(families, disk)
        for flow in tables(disk, "flows"):
            _flow(families, _text(disk, "name"), flow)


def _text(document: Document, name: str) -> str:
    return str(document.get(name, ""))


def _exporter(families: Families, status: Document) -> None:
    gauge = families.gauge
    gauge("meshfsd_exporter_info", "Always 1; the label is the exporter's node.", {"node": _text(status, "node")}, 1)
    gauge("meshfsd_uptime_seconds", "The time since the exporter started.", {}, status.get("uptime_s"))
    problem_counts(families, "meshfsd_problems", EXPORTER_RULES, published(status))
    gauge("meshfsd_connections", "Connections, logged in or not.", {}, status.get("connections"))
    for node, sessions in _by_node(tables(status, "sessions")).items():
        labels = {"node": node}
        gauge("meshfsd_sessions", "Sessions of a node.", labels, len(sessions))
        gauge("meshfsd_opens", "Open files of a node.", labels, sum(numbers(sessions, "opens")))
    for usage in tables(status, "nodes"):
        labels, held = {"node": _text(usage, "node")}, usage.get("memory_bytes")
        gauge("meshfsd_node_connections", _CONNECTIONS, labels, usage.get("connections"))
        gauge("meshfsd_node_memory_bytes", _HELD, labels, held)
    memory = table(status, "memory")
    gauge("meshfsd_memory_bytes", _HELD_BY_ALL, {}, memory.get("used_bytes"))
    for flow in tables(status, "processor"):
        labels = {"node": _text(flow, "node"), "class": _text(flow, "class")}
        families.counter("meshfsd_processor_seconds_total", _PROCESSOR, labels, flow.get("used_s"))
        families.counter("meshfsd_processor_turns_total", _TURNS, labels, flow.get("turns"))
    for event, count in table(status, "counters").items():
        families.counter("meshfsd_events_total", "Other events, by name.", {"event": event}, count)


def _by_node(sessions: Iterable[Document]) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for session in sessions:
        found.setdefault(_text(session, "node"), []).append(session)
    return found


def _disk(families: Families, disk: Document) -> None:
    labels = {"disk": _text(disk, "name")}
    gauge = families.gauge
    gauge("meshfsd_disk_ok", "1 if the disk's state is ok, else 0.", labels, disk.get("state") == "ok")
    gauge("meshfsd_disk_size_bytes", "The disk's size.", labels, disk.get("size_bytes"))
    gauge("meshfsd_disk_queued_requests", "Requests that wait in the queue.", labels, disk.get("queued"))
    gauge("meshfsd_disk_in_flight_requests", "Requests that are at the disk.", labels, disk.get("in_flight"))
    _totals(families, "meshfsd_disk", labels, disk)


def _totals(families: Families, prefix: str, labels: dict[str, str], document: Document) -> None:
    for op, operations, size in _OPS:
        more = {**labels, "op": op}
        families.counter(f"{prefix}_operations_total", "Operations done.", more, document.get(operations))
        families.counter(f"{prefix}_bytes_total", "Bytes read and written.", more, document.get(size))
    families.counter(f"{prefix}_errors_total", "Operations that failed.", labels, document.get("errors"))


def _scheduling(families: Families, disk: Document) -> None:
    labels, gauge = {"disk": _text(disk, "name")}, families.gauge
    policy, cost = table(disk, "policy"), table(disk, "cost")
    gauge(
        "meshfsd_disk_depth_requests", "The most requests at the disk at once, at present.", labels, disk.get("depth")
    )
    gauge("meshfsd_disk_limit_operations_per_second", _LIMIT_IOPS, labels, policy.get("limit_iops"))
    gauge("meshfsd_disk_limit_bytes_per_second", _LIMIT_BYTES, labels, policy.get("limit_bytes_per_s"))
    floor = policy.get("system_floor")
    gauge(
        "meshfsd_disk_system_floor_ratio", "The share of the disk that the system class gets at least.", labels, floor
    )
    utilisation = table(disk, "utilisation").get("60s")
    gauge("meshfsd_disk_utilisation_ratio", "The cost served per second, over the last minute.", labels, utilisation)
    for name, index in table(disk, "jain").items():
        value = index.get("60s") if isinstance(index, dict) else None
        gauge(
            "meshfsd_disk_jain_index",
            "Jain's index of fairness between the flows of a class, over the last minute.",
            {**labels, "class": name},
            value,
        )
    for op in ("read", "write", "flush"):
        fixed, byte = _scaled(cost.get(f"{op}_fixed_us"), 1e-6), _scaled(cost.get(f"{op}_byte_ns"), 1e-9)
        more = {**labels, "op": op}
        gauge("meshfsd_disk_cost_fixed_seconds", "The fixed time of a request, by the cost model.", more, fixed)
        gauge("meshfsd_disk_cost_byte_seconds", "The time per byte of a request, by the cost model.", more, byte)


def _scaled(value: object, unit: float) -> float | None:
    return value * unit if isinstance(value, int | float) else None


def _flow(families: Families, disk: str, flow: Document) -> None:
    labels = {"node": _text(flow, "node"), "class": _text(flow, "class"), "disk": disk}
    gauge = families.gauge
    gauge("meshfsd_flow_weight", "The flow's weight within its class.", labels, flow.get("weight"))
    gauge(
        "meshfsd_flow_reservation_ratio",
        "The share of the disk that is reserved for the flow.",
        labels,
        flow.get("reservation"),
    )
    gauge("meshfsd_flow_limit_operations_per_second", _LIMIT_IOPS, labels, flow.get("limit_iops"))
    gauge("meshfsd_flow_limit_bytes_per_second", _LIMIT_BYTES, labels, flow.get("limit_bytes_per_s"))
    entitlement = flow.get("entitlement")
    gauge(
        "meshfsd_flow_entitlement_ratio",
        "The share that the flow is entitled to among the active flows.",
        labels,
        entitlement,
    )
    share = table(flow, "share").get("60s")
    gauge("meshfsd_flow_share_ratio", "The flow's share of the cost served, over the last minute.", labels, share)
    gauge(
        "meshfsd_flow_lag_seconds", "The cost by which the flow is behind its entitlement.", labels, flow.get("lag_s")
    )
    gauge("meshfsd_flow_queued_requests", "Requests that wait in the queue.", labels, flow.get("queued"))
    gauge("meshfsd_flow_in_flight_requests", "Requests that are at the disk.", labels, flow.get("in_flight"))
    cost_s = flow.get("cost_s")
    families.counter(
        "meshfsd_flow_cost_seconds_total", "The disk's time that the flow used, by the cost model.", labels, cost_s
    )
    _totals(families, "meshfsd_flow", labels, flow)
    for op in ("read", "write"):
        counts, sum_s = flow.get(f"{op}_histogram"), flow.get(f"{op}_time_s")
        families.latency(
            "meshfsd_flow_latency_seconds",
            "The time of requests in the queue and at the disk.",
            {**labels, "op": op},
            counts,
            sum_s,
        )
