"""What exporters and mounts report of their I/O, as documents for tests of the programs that read them."""

from typing import Any


def histogram(*counts: int) -> list[int]:
    return [*counts, *[0] * (7 - len(counts))]


def flow(node: str = "n1", io_class: str = "app", **changed: Any) -> dict[str, Any]:
    """Return a flow with 100 reads of 4 KiB and 50 writes of 64 KiB since the start."""
    wanted = {"weight": 1.0, "reservation": 0.0, "limit_iops": None, "limit_bytes_per_s": None, "source": "config"}
    state = {
        "entitlement": 0.4,
        "share": {"1s": 0.38, "60s": 0.41},
        "lag_s": 0.002,
        "queued": 3,
        "waits_s": 0.045,
        "in_flight": 1,
    }
    rates = {
        "held": "",
        "latency_ms": {"p50": 0.35, "p99": 12.4},
        "disk_latency_ms": {"p50": 0.2, "p99": 2.0},
        "iops": {"1s": 1500.0, "60s": 1400.0},
        "bytes_per_s": {"1s": 6144000.0, "60s": 5e6},
    }
    totals = {
        "reads": 100,
        "writes": 50,
        "flushes": 1,
        "errors": 0,
        "read_bytes": 100 << 12,
        "written_bytes": 50 << 16,
        "cost_s": 1.5,
        "read_histogram": histogram(90, 10),
        "write_histogram": histogram(50),
    }
    about = {"node": node, "class": io_class, "local": node == "n1"}
    return {**about, **wanted, **state, **rates, **totals, **changed}


def shared_disk(name: str = "disk0", flows: list[dict[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    cost = {"read_fixed_us": 120.0, "read_byte_ns": 2.0, "write_fixed_us": 200.0, "write_byte_ns": 4.0}
    return {
        "name": name,
        "discipline": "fair",
        "depth": 8,
        "in_flight": 3,
        "queued": 12,
        "policy": {"system_floor": 0.2, "limit_iops": 500.0, "limit_bytes_per_s": None, "source": "config"},
        "cost": {**cost, "flush_fixed_us": 1500.0, "calibrated": True, "windows": 40},
        "jain": {"app": {"1s": 0.998, "60s": 0.9911}, "system": {"1s": None, "60s": None}},
        "utilisation": {"1s": 0.98, "60s": 0.761},
        "flows": [flow(), flow("n2", "system", local=False)] if flows is None else flows,
        **changed,
    }


def flows_document(*disks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"version": 1, "node": "n1", "uptime_s": 100.0, "disks": list(disks) or [shared_disk()], **changed}


def mount_disk(name: str = "disk0", node: str = "n1", *, local: bool = False, times: int = 1) -> dict[str, Any]:
    """Return a disk of a mount that has done `times` times 100 reads and 10 writes."""
    io = {
        "reads": 100 * times,
        "writes": 10 * times,
        "flushes": times,
        "errors": 0,
        "read_bytes": 409600 * times,
        "written_bytes": 655360 * times,
        "read_histogram": histogram(90 * times, 10 * times),
        "write_histogram": histogram(0, 0, 0, 0, 0, 0, 10 * times),
        "read_latency_ms": {"p50": 0.2, "p99": 4.0},
        "write_latency_ms": {"p50": 2.0, "p99": 12000.0},
    }
    identity = {"id": f"meshfs-{node}-{name}", "node": node, "name": name, "state": "ok", "present": True}
    return {**identity, "local": local, "io": io}


def mount_document(*disks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    base = {"version": 1, "mountpoint": "/mesh", "config": "", "node": "n2", "pid": 7, "uptime_s": 100.0}
    return {**base, "exporters": [], "disks": list(disks) or [mount_disk()], **changed}
