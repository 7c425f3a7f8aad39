"""The metrics made of whole, partial and odd documents. docs/admin/metrics.md describes each metric."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from meshfs.endpoint import format_endpoint, parse_endpoint
from meshfs.mount import metrics as mount_metrics
from meshfs.mount.options import UsageError, parse_arguments
from meshfs.telemetry.prometheus import Document, Families
from meshfsd import metrics as exporter_metrics

Fill = Callable[[Families, Document], None]
ROOT = Path(__file__).resolve().parents[3]

FLOW: dict[str, Any] = {
    "node": "n2", "class": "app", "local": False, "weight": 2.0, "reservation": 0.25, "limit_iops": 100.0,
    "limit_bytes_per_s": 1e6, "source": "config", "entitlement": 0.8, "share": {"1s": 0.5, "60s": 0.75}, "lag_s": 0.001,
    "queued": 3, "in_flight": 4, "held": "", "latency_ms": {"p50": 1.0, "p99": 2.0}, "reads": 60, "writes": 8,
    "flushes": 9, "errors": 2, "read_bytes": 4096, "written_bytes": 8192, "cost_s": 1.5,
    "read_histogram": [1, 2, 3, 4, 5, 6, 7], "read_time_s": 12.5,
    "write_histogram": [8, 0, 0, 0, 0, 0, 0], "write_time_s": 0.004,
}  # fmt: skip
EXPORTER: dict[str, Any] = {
    "status": {
        "version": 1, "node": "n1", "pid": 1, "uptime_s": 12.5, "listening": [], "connections": 3,
        "sessions": [{"node": "n2", "opens": 2}, {"node": "n2", "opens": 1}, {"node": "n1", "opens": 4}],
        "counters": {"logins": 3, "bad_signatures": 1},
        "nodes": [{"node": "n2", "connections": 2, "memory_bytes": 4096}], "memory": {"used_bytes": 8192},
        "processor": [{"node": "n2", "class": "app", "used_s": 1.5, "turns": 30}],
        "disks": [{
            "name": "disk0", "size_bytes": 1 << 40, "state": "ok", "queued": 5, "in_flight": 6, "reads": 1, "writes": 2,
            "flushes": 3, "read_bytes": 512, "written_bytes": 1024, "errors": 1,
        }],
    },
    "flows": {
        "version": 1, "node": "n1", "disks": [{
            "name": "disk0", "discipline": "fair", "depth": 16, "in_flight": 6, "queued": 5,
            "policy": {"system_floor": 0.2, "limit_iops": 1000.0, "limit_bytes_per_s": 1e8, "source": "config"},
            "cost": {"read_fixed_us": 100.0, "read_byte_ns": 2.0, "write_fixed_us": 200.0, "write_byte_ns": 4.0,
                     "flush_fixed_us": 5000.0, "calibrated": True, "windows": 9},
            "jain": {"app": {"1s": 0.9, "60s": 0.99}, "system": {"1s": None, "60s": None}},
            "utilisation": {"1s": 1.0, "60s": 0.5},
            "flows": [FLOW, {**FLOW, "class": "system", "limit_iops": None, "limit_bytes_per_s": None}],
        }],
    },
}  # fmt: skip
MOUNT: dict[str, Any] = {
    "version": 1, "mountpoint": "/mesh", "config": "/etc/c.toml", "node": "n2", "pid": 7, "uptime_s": 3.0,
    "io_timeout_s": 30.0, "problems": [{"code": "disk-refused", "severity": "error", "subject": "s", "text": "t"}],
    "exporters": [
        {"node": "n1", "state": "connected", "why": "", "since_s": 2.5, "retry_in_s": None, "failures": 1,
         "sent_bytes": 1000, "received_bytes": 2000, "waiting": [],
         "channels": [
             {"state": "connected", "outstanding": 3, "interface": "eth0", "local_address": "10.0.1.2",
              "remote_address": "10.0.1.1", "number": 0, "selected": True, "speed_bits_s": 25_000_000_000,
              "failures": 2, "bad_signatures": 1, "sent_bytes": 100, "received_bytes": 200},
             {"state": "connected", "outstanding": 4},
             {"state": "down", "outstanding": 0, "interface": "eth2", "selected": False, "speed_bits_s": 0},
         ]},
        {"node": "n3", "state": "down", "why": "refused", "since_s": 9.0, "retry_in_s": 0.5, "failures": 4,
         "sent_bytes": 0, "received_bytes": 0, "channels": [],
         "waiting": [{"disk": "d", "op": "read", "for_s": 1.5, "left_s": 2.0}, {"disk": "d", "for_s": 0.5}]},
    ],
    "disks": [{
        "id": "meshfs-n1-disk0", "node": "n1", "name": "disk0", "size_bytes": 4096, "present": True, "state": "ok",
        "opens": 2, "local": False,
        "io": {"reads": 5, "writes": 6, "flushes": 7, "errors": 1, "read_bytes": 512, "written_bytes": 1024,
               "read_histogram": [5, 0, 0, 0, 0, 0, 0], "read_time_s": 0.001,
               "write_histogram": [0, 0, 0, 0, 0, 0, 6], "write_time_s": 90.0},
    }],
}  # fmt: skip
BOTH = pytest.mark.parametrize(
    ("fill", "document"), [(exporter_metrics.fill, EXPORTER), (mount_metrics.fill, MOUNT)], ids=["exporter", "mount"]
)


class Filled:
    """A registry's collector of one document, and its answer, parsed again."""

    def __init__(self, fill: Fill, document: Document) -> None:
        self._families = Families()
        fill(self._families, document)
        registry = CollectorRegistry()
        registry.register(self)
        self.text = generate_latest(registry).decode()
        self.families = list(text_string_to_metric_families(self.text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def collect(self) -> Families:
        return self._families

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample. The label `class` is spelled `class_`."""
        return self._samples.get((name, frozenset((key.rstrip("_"), value) for key, value in labels.items())))

    def names(self) -> set[str]:
        return {f"{each.name}_total" if each.type == "counter" else each.name for each in self.families}


def test_a_flow_has_its_metrics_under_node_and_class() -> None:
    filled = Filled(exporter_metrics.fill, EXPORTER)
    flow = {"node": "n2", "class_": "app", "disk": "disk0"}
    assert filled.value("meshfsd_flow_operations_total", **flow, op="read") == 60
    assert filled.value("meshfsd_flow_operations_total", **flow, op="flush") == 9
    assert filled.value("meshfsd_flow_bytes_total", **flow, op="write") == 8192
    assert filled.value("meshfsd_flow_bytes_total", **flow, op="flush") is None
    assert filled.value("meshfsd_flow_errors_total", **flow) == 2
    assert filled.value("meshfsd_flow_cost_seconds_total", **flow) == 1.5
    assert filled.value("meshfsd_flow_weight", **flow) == 2
    assert filled.value("meshfsd_flow_share_ratio", **flow) == 0.75
    assert filled.value("meshfsd_flow_entitlement_ratio", **flow) == 0.8
    assert filled.value("meshfsd_flow_queued_requests", **flow) == 3
    assert filled.value("meshfsd_flow_limit_operations_per_second", **flow) == 100
    system = {**flow, "class_": "system"}
    assert filled.value("meshfsd_flow_weight", **system) == 2
    assert filled.value("meshfsd_flow_limit_operations_per_second", **system) is None, "no limit, no metric"


def test_the_time_of_the_processor() -> None:
    used = [
        {"node": "", "class": "app", "used_s": 0.25, "turns": 4},
        {"node": "n2", "class": "system", "used_s": 1.5, "turns": 10},
    ]
    filled = Filled(exporter_metrics.fill, {"status": {"node": "n1", "processor": used}})
    assert filled.value("meshfsd_processor_seconds_total", node="n2", class_="system") == 1.5
    assert filled.value("meshfsd_processor_turns_total", node="", class_="app") == 4


def test_a_disk_and_its_exporter() -> None:
    filled = Filled(exporter_metrics.fill, EXPORTER)
    assert filled.value("meshfsd_sessions", node="n2") == 2
    assert filled.value("meshfsd_opens", node="n2") == 3
    assert filled.value("meshfsd_events_total", event="bad_signatures") == 1
    assert filled.value("meshfsd_disk_ok", disk="disk0") == 1
    assert filled.value("meshfsd_disk_queued_requests", disk="disk0") == 5
    assert filled.value("meshfsd_disk_depth_requests", disk="disk0") == 16
    assert filled.value("meshfsd_disk_limit_bytes_per_second", disk="disk0") == 1e8
    assert filled.value("meshfsd_disk_jain_index", disk="disk0", class_="app") == 0.99
    assert filled.value("meshfsd_disk_jain_index", disk="disk0", class_="system") is None
    fixed_s = filled.value("meshfsd_disk_cost_fixed_seconds", disk="disk0", op="flush")
    assert fixed_s == pytest.approx(0.005)
    byte_s = filled.value("meshfsd_disk_cost_byte_seconds", disk="disk0", op="write")
    assert byte_s == pytest.approx(4e-9)


def test_a_mount_has_its_metrics() -> None:
    filled = Filled(mount_metrics.fill, MOUNT)
    assert filled.value("meshfs_exporter_up", node="n1") == 1
    assert filled.value("meshfs_exporter_up", node="n3") == 0
    assert filled.value("meshfs_problems", code="disk-refused") == 1
    assert filled.value("meshfs_problems", code="exporter-away") == 0, "a rule that finds nothing has a line"
    assert filled.value("meshfs_exporter_channels", node="n1") == 2
    path = {"node": "n1", "interface": "eth0", "local_address": "10.0.1.2", "remote_address": "10.0.1.1", "number": "0"}
    assert filled.value("meshfs_channel_up", **path) == 1
    assert filled.value("meshfs_channel_selected", **path) == 1
    assert filled.value("meshfs_channel_speed_bits_per_second", **path) == 25e9
    assert filled.value("meshfs_channel_outstanding_requests", **path) == 3
    assert filled.value("meshfs_channel_failures_total", **path) == 2
    assert filled.value("meshfs_channel_sent_bytes_total", **path) == 100
    assert filled.value("meshfs_channel_received_bytes_total", **path) == 200
    down = {"node": "n1", "interface": "eth2", "local_address": "", "remote_address": "", "number": ""}
    assert filled.value("meshfs_channel_up", **down) == 0
    assert filled.value("meshfs_channel_speed_bits_per_second", **down) is None, "not known, no line"
    assert filled.value("meshfs_exporter_outstanding_requests", node="n1") == 7
    assert filled.value("meshfs_exporter_waiting_calls", node="n3") == 2
    assert filled.value("meshfs_exporter_waiting_longest_seconds", node="n3") == 1.5
    assert filled.value("meshfs_exporter_failures_total", node="n3") == 4
    assert filled.value("meshfs_exporter_received_bytes_total", node="n1") == 2000
    disk = {"node": "n1", "disk": "disk0", "local": "false"}
    assert filled.value("meshfs_disk_operations_total", **disk, op="flush") == 7
    assert filled.value("meshfs_disk_bytes_total", **disk, op="read") == 512
    assert filled.value("meshfs_disk_latency_seconds_count", **disk, op="write") == 6
    assert filled.value("meshfs_disk_latency_seconds_bucket", **disk, op="write", le="10.0") == 0


def test_a_histogram_is_cumulative_and_has_its_sum() -> None:
    filled = Filled(exporter_metrics.fill, EXPORTER)
    labels = {"node": "n2", "class_": "app", "disk": "disk0", "op": "read"}
    name = "meshfsd_flow_latency_seconds"
    bounds = ("0.001", "0.005", "0.01", "0.1", "1.0", "10.0", "+Inf")
    assert [filled.value(f"{name}_bucket", **labels, le=le) for le in bounds] == [1, 3, 6, 10, 15, 21, 28]
    assert filled.value(f"{name}_count", **labels) == 28
    assert filled.value(f"{name}_sum", **labels) == 12.5


@BOTH
def test_names_follow_the_rules(fill: Fill, document: Document) -> None:
    """Base units are suffixes, counters end in _total (which the parser removes), and each metric has a help text."""
    for family in Filled(fill, document).families:
        assert re.fullmatch(r"meshfsd?_[a-z_]+", family.name)
        assert not re.search(r"_(ms|us|ns|kib|mib|percent)$", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")


@BOTH
def test_every_metric_is_documented_and_the_reverse(fill: Fill, document: Document) -> None:
    prefix = "meshfsd" if fill is exporter_metrics.fill else "meshfs"
    _, _, section = (ROOT / "docs/admin/metrics.md").read_text().partition("\n## Metrics\n")
    section = section.partition("\n## ")[0]
    told = {f"{prefix}_{name}" for name in expand(re.findall(rf"`{prefix}_([a-z_{{}},]+)`", section))}
    assert told == Filled(fill, document).names()


def expand(names: list[str]) -> list[str]:
    """Expand `a_{b,c}_d` to a_b_d and a_c_d."""
    found = []
    for name in names:
        head, brace, rest = name.partition("{")
        if not brace:
            found.append(name)
            continue
        middle, _, tail = rest.partition("}")
        found += expand([f"{head}{each}{tail}" for each in middle.split(",")])
    return found


def partial(document: Any) -> list[Any]:
    """Yield the document without each of its parts in turn, and with an odd value for each."""
    found: list[Any] = []
    if isinstance(document, dict):
        for key, value in document.items():
            found.append({name: each for name, each in document.items() if name != key})
            found += [{**document, key: odd} for odd in (None, "text", [], {}, 7, [None, "x"], math.nan)]
            found += [{**document, key: each} for each in partial(value)]
    elif isinstance(document, list):
        found += [[each, *document[1:]] for each in partial(document[0])] if document else []
    return found


@BOTH
def test_parts_that_are_missing_or_odd_leave_the_rest(fill: Fill, document: Document) -> None:
    whole = Filled(fill, document).names()
    documents = partial(document)
    assert len(documents) > 200
    for each in documents:
        assert Filled(fill, each).names() <= whole
    assert Filled(fill, {}).text.count("nan") == 0


@pytest.mark.parametrize("name", ['quo"ted', "back\\slash", "new\nline", "\u00e4\u20ac", "{a=1}", ""])
def test_labels_come_back_as_they_were(name: str) -> None:
    filled = Filled(mount_metrics.fill, {**MOUNT, "mountpoint": name})
    assert filled.value("meshfs_mount_info", node="n2", mountpoint=name, config="/etc/c.toml") == 1


def test_a_path_that_is_no_utf8_is_told_somehow() -> None:
    filled = Filled(mount_metrics.fill, {**MOUNT, "mountpoint": "/m\udcff"})
    assert filled.value("meshfs_mount_info", node="n2", mountpoint="/m\\udcff", config="/etc/c.toml") == 1


def test_one_name_has_one_kind() -> None:
    families = Families()
    families.gauge("meshfs_x", "X.", {}, 1)
    families.gauge("meshfs_x", "X.", {}, 2)
    (family,) = families
    assert isinstance(family, Metric)
    assert [sample.value for sample in family.samples] == [1, 2]
    with pytest.raises(AssertionError, match="two kinds"):
        families.counter("meshfs_x", "X.", {}, 1)


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:1", "0.0.0.0:65535"])
def test_an_endpoint_is_parsed_and_written_the_same(text: str) -> None:
    assert format_endpoint(*parse_endpoint(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9464",
     "[127.0.0.1]:9464", "localhost:9464", "[::1]", "127.0.0.1:+1", "127.0.0.1:\u0661", "224.0.0.1:80",
     "127.0.0.1: 80", "[fe80::1]:80", "[fe80::1%lo]:80", "[::ffff:10.0.0.1]:80"],
)  # fmt: skip
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_endpoint(text)
    with pytest.raises(UsageError, match="metrics"):
        parse_arguments("meshfs", ["c", "/m", "-o", f"metrics={text}"])


def test_the_mounts_option() -> None:
    assert parse_arguments("meshfs", ["c", "/m"]).metrics is None
    assert parse_arguments("meshfs", ["c", "/m", "-o", "metrics=[::1]:9465"]).metrics == ("::1", 9465)
