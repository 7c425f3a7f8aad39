"""A mount's metrics, made from its status document.

The label `node` is the owner of what is counted, and `disk` is the name of a disk at its owner. A value that is missing
from the document has no metric.
"""

from typing import Final

from meshfs.telemetry.metrics_place import Snapshot
from meshfs.telemetry.mount_records import MountDiskRecord, MountExporterRecord, MountRecord, PathRecord
from meshfs.telemetry.problems import MOUNT_RULES, published
from meshfs.telemetry.prometheus import (
    Document,
    Families,
    MetricsServer,
    open_metrics,
    problem_counts,
)

_UP: Final = "connected"


def open_mount_metrics(place: tuple[str, int], make: Snapshot) -> MetricsServer:
    """Listen at a place. ``make`` returns the status document. Raises ConfigError if that is not possible."""
    return open_metrics(place, make, fill)


def fill(families: Families, status: Document) -> None:
    gauge, mount = families.gauge, MountRecord(status)
    info = {"node": mount.node, "mountpoint": mount.mountpoint, "config": mount.config}
    gauge("meshfs_mount_info", "Always 1; the labels name the mount.", info, 1)
    gauge("meshfs_uptime_seconds", "The time since the mount started.", {}, mount.uptime_s)
    gauge("meshfs_io_timeout_seconds", "The time limit of every I/O.", {}, mount.io_timeout_s)
    problem_counts(families, "meshfs_problems", MOUNT_RULES, published(status))
    for exporter in mount.exporters:
        _exporter(families, exporter)
    for disk in mount.disks:
        _disk(families, disk)


def _exporter(families: Families, exporter: MountExporterRecord) -> None:
    labels = {"node": exporter.node}
    gauge, counter = families.gauge, families.counter
    gauge("meshfs_exporter_up", "1 if the exporter is connected, else 0.", labels, exporter.state == _UP)
    gauge("meshfs_exporter_state_seconds", "The time since the state changed.", labels, exporter.since_s)
    channels, waiting = exporter.channels, exporter.waiting
    connected = sum(channel.state == _UP for channel in channels)
    gauge("meshfs_exporter_channels", "Connections in use.", labels, connected)
    outstanding = sum(channel.outstanding or 0 for channel in channels)
    gauge("meshfs_exporter_outstanding_requests", "Requests without an answer yet.", labels, outstanding)
    gauge("meshfs_exporter_waiting_calls", "I/O calls that wait for the exporter.", labels, len(waiting))
    longest_s = max((call.for_s or 0.0 for call in waiting), default=0.0)
    gauge("meshfs_exporter_waiting_longest_seconds", "The longest wait of these calls.", labels, longest_s)
    counter("meshfs_exporter_failures_total", "Lost connections and failed attempts.", labels, exporter.failures)
    counter("meshfs_exporter_sent_bytes_total", "Bytes sent, with headers.", labels, exporter.sent_bytes)
    counter("meshfs_exporter_received_bytes_total", "Bytes received, with headers.", labels, exporter.received_bytes)
    for channel in channels:
        _channel(families, labels, channel)


def _channel(families: Families, exporter: dict[str, str], channel: PathRecord) -> None:
    """Add the metrics of one channel. The labels name its path, because each new connection has other ports."""
    labels = {
        **exporter,
        "interface": channel.interface,
        "local_address": channel.local_address,
        "remote_address": channel.remote_address,
        "number": "" if channel.path_number is None else str(channel.path_number),
    }
    gauge, counter = families.gauge, families.counter
    gauge("meshfs_channel_up", "1 if the channel is connected, else 0.", labels, channel.state == _UP)
    gauge("meshfs_channel_selected", "1 if the path is selected, 0 if others are better.", labels, channel.selected)
    what_speed = "The speed of the path that the network drivers report."
    gauge("meshfs_channel_speed_bits_per_second", what_speed, labels, channel.speed_bits_s or None)
    gauge("meshfs_channel_outstanding_requests", "Requests without an answer yet.", labels, channel.outstanding)
    counter("meshfs_channel_failures_total", "Lost connections and failed attempts.", labels, channel.failures)
    what_forged = "Replies with a wrong signature or seal. Each of them ends its connection."
    counter("meshfs_channel_bad_signatures_total", what_forged, labels, channel.bad_signatures)
    counter("meshfs_channel_sent_bytes_total", "Bytes sent, with headers.", labels, channel.sent_bytes)
    counter("meshfs_channel_received_bytes_total", "Bytes received, with headers.", labels, channel.received_bytes)


def _disk(families: Families, disk: MountDiskRecord) -> None:
    labels = {"node": disk.node, "disk": disk.name}
    gauge, counter, io = families.gauge, families.counter, disk.io
    gauge("meshfs_disk_present", "1 if the owner offers the disk now, else 0.", labels, disk.present)
    gauge("meshfs_disk_size_bytes", "The disk's size.", labels, disk.size_bytes)
    gauge("meshfs_disk_opens", "Open file handles.", labels, disk.opens)
    labels["local"] = "true" if disk.local else "false"
    reads, writes, flushes = ({**labels, "op": op} for op in ("read", "write", "flush"))
    for of_op, operations in ((reads, io.reads), (writes, io.writes), (flushes, io.flushes)):
        counter("meshfs_disk_operations_total", "Operations done.", of_op, operations)
    for of_op, size_bytes, counts, sum_s in (
        (reads, io.read_bytes, io.read_histogram, io.read_time_s),
        (writes, io.written_bytes, io.write_histogram, io.write_time_s),
    ):
        counter("meshfs_disk_bytes_total", "Bytes read and written.", of_op, size_bytes)
        families.latency("meshfs_disk_latency_seconds", "The time from the call to its answer.", of_op, counts, sum_s)
    counter("meshfs_disk_errors_total", "Operations that failed.", labels, io.errors)
