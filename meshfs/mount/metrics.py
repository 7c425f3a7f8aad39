"""A mount's metrics, out of its status document.

`node` is the owner of what is counted, `disk` the disk's name there. What a part of the document
does not say (yet) has no metric.
"""

from meshfs.telemetry.metrics_place import Snapshot
from meshfs.telemetry.problems import MOUNT_RULES, published
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


def open_mount_metrics(place: tuple[str, int], make: Snapshot) -> MetricsServer:
    """``make`` gives the status document. Raises ConfigError when the place cannot be listened at."""
    return open_metrics(place, make, fill)


def fill(families: Families, status: Document) -> None:
    gauge = families.gauge
    info = {name: str(status.get(name, "")) for name in ("node", "mountpoint", "config")}
    gauge("meshfs_mount_info", "1; which mount this is.", info, 1)
    gauge("meshfs_uptime_seconds", "Since the mount started.", {}, status.get("uptime_s"))
    gauge("meshfs_io_timeout_seconds", "Bound of every I/O.", {}, status.get("io_timeout_s"))
    problem_counts(families, "meshfs_problems", MOUNT_RULES, published(status))
    for exporter in tables(status, "exporters"):
        _exporter(families, exporter)
    for disk in tables(status, "disks"):
        _disk(families, disk)


def _exporter(families: Families, exporter: Document) -> None:
    labels = {"node": str(exporter.get("node", ""))}
    gauge, counter = families.gauge, families.counter
    up = exporter.get("state") == "connected"
    gauge("meshfs_exporter_up", "1 when connected, else 0.", labels, up)
    gauge("meshfs_exporter_state_seconds", "Connected or not for so long.", labels, exporter.get("since_s"))
    channels, waiting = tables(exporter, "channels"), tables(exporter, "waiting")
    connected = sum(channel.get("state") == "connected" for channel in channels)
    gauge("meshfs_exporter_channels", "Connections in use.", labels, connected)
    outstanding = sum(numbers(channels, "outstanding"))
    gauge("meshfs_exporter_outstanding_requests", "Sent and not answered.", labels, outstanding)
    gauge("meshfs_exporter_waiting_calls", "I/O calls that wait for the exporter.", labels, len(waiting))
    longest_s = max(numbers(waiting, "for_s"), default=0.0)
    gauge("meshfs_exporter_waiting_longest_seconds", "How long the first of them waits.", labels, longest_s)
    failures = exporter.get("failures")
    counter("meshfs_exporter_failures_total", "Connections lost and attempts failed.", labels, failures)
    counter("meshfs_exporter_sent_bytes_total", "Sent, with headers.", labels, exporter.get("sent_bytes"))
    counter("meshfs_exporter_received_bytes_total", "Received, with headers.", labels, exporter.get("received_bytes"))
    for channel in channels:
        _channel(families, labels, channel)


def _channel(families: Families, exporter: dict[str, str], channel: Document) -> None:
    """By the path and not by the connection, whose ports are others each time."""
    names = ("interface", "local_address", "remote_address", "number")
    labels = {**exporter, **{name: str(channel.get(name, "")) for name in names}}
    up = channel.get("state") == "connected"
    families.gauge("meshfs_channel_up", "1 when connected, else 0.", labels, up)
    selected = channel.get("selected")
    families.gauge("meshfs_channel_selected", "1 when it is to be used, 0 when others are better.", labels, selected)
    speed = channel.get("speed_bits_s") or None
    families.gauge("meshfs_channel_speed_bits_per_second", "What the drivers say.", labels, speed)
    outstanding = channel.get("outstanding")
    families.gauge("meshfs_channel_outstanding_requests", "Sent and not answered.", labels, outstanding)
    failures = channel.get("failures")
    families.counter("meshfs_channel_failures_total", "Times lost and attempts failed.", labels, failures)
    forged = channel.get("bad_signatures")
    what_forged = "Replies with a wrong signature or seal; each ends its connection."
    families.counter("meshfs_channel_bad_signatures_total", what_forged, labels, forged)
    for name, what in (("sent_bytes", "Sent"), ("received_bytes", "Received")):
        families.counter(f"meshfs_channel_{name}_total", f"{what}, with headers.", labels, channel.get(name))


def _disk(families: Families, disk: Document) -> None:
    labels = {"node": str(disk.get("node", "")), "disk": str(disk.get("name", ""))}
    gauge, counter, io = families.gauge, families.counter, table(disk, "io")
    gauge("meshfs_disk_present", "1 when its owner offers it now, else 0.", labels, disk.get("present"))
    gauge("meshfs_disk_size_bytes", "The disk's size.", labels, disk.get("size_bytes"))
    gauge("meshfs_disk_opens", "Open file handles.", labels, disk.get("opens"))
    labels["local"] = "true" if disk.get("local") else "false"
    operations = "meshfs_disk_operations_total", "Operations done."
    for op, name in (("read", "reads"), ("write", "writes"), ("flush", "flushes")):
        counter(*operations, {**labels, "op": op}, io.get(name))
    for op, name in (("read", "read_bytes"), ("write", "written_bytes")):
        counter("meshfs_disk_bytes_total", "Bytes read and written.", {**labels, "op": op}, io.get(name))
        counts, sum_s = io.get(f"{op}_histogram"), io.get(f"{op}_time_s")
        families.latency("meshfs_disk_latency_seconds", "From call to answer.", {**labels, "op": op}, counts, sum_s)
    counter("meshfs_disk_errors_total", "Operations that ended in an error.", labels, io.get("errors"))
