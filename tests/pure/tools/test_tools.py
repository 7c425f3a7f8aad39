"""The tools' own arithmetic: ratios pair by pair, profiles folded by function, configs that load."""

import json
import os
import time
from pathlib import Path

import pytest

from benchmark import profile, report
from benchmark.fio import WORKLOADS, FioSample, cpu_s, rss_mib
from meshfs.cluster import config
from meshfs.limits import MIB
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.policy import FlowPolicy
from meshlab.cluster.cluster import LocalCluster, tracebacks


def samples(*rates: float) -> list[FioSample]:
    return [FioSample(rate, {"mount": rate / 10, "exporter": 1.0}, 5.0, 9.0) for rate in rates]


@pytest.fixture
def row() -> report.WorkloadRow:
    # The machine halves its speed in the third round, for all subjects.
    return report.WorkloadRow(
        "loop",
        WORKLOADS[0],
        {"meshfs-sign": samples(90, 110, 50), "nbdfuse": samples(100, 100, 50), "qsd": samples(200, 220, 100)},
    )


def test_ratios_are_of_pairs_and_then_the_median(row: report.WorkloadRow) -> None:
    assert row.rate("meshfs-sign") == 90
    assert row.ratio("meshfs-sign", "nbdfuse") == 1.0
    assert row.ratio("meshfs-sign", "qsd") == 0.5
    assert row.ratio("qsd", "qsd") is None


def test_a_peer_that_did_not_run_has_no_ratio(row: report.WorkloadRow) -> None:
    del row.samples["qsd"]
    assert row.ratio("meshfs-sign", "qsd") is None
    assert "loop/randread-4k-qd1" in report.table(row)


def test_the_document_is_json_with_every_sample(row: report.WorkloadRow) -> None:
    shown = json.loads(json.dumps(report.document([row], {"rounds": 3})))
    (only,) = shown["rows"]
    assert only["subjects"]["meshfs-sign"]["cpu_us_per_op"] == {"mount": 9.0, "exporter": 1.0}
    assert len(only["subjects"]["qsd"]["samples"]) == 3


def test_a_profile_is_folded_by_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "x.stacks"
    raw.write_text("main (a.py:1);read (b.py:7) 3\nmain (a.py:2);read (b.py:9) 1\nmain (a.py:2) 4\n")
    profile.print_profile("mount", raw)
    shown = capsys.readouterr().out
    assert "50.0%  50.0%  read (b.py)" in shown
    assert "50.0% 100.0%  main (a.py)" in shown


def test_figures_of_a_process_are_read_from_proc() -> None:
    own = os.getpid()
    assert abs(cpu_s(own) - time.process_time()) < 0.1
    before_mib = rss_mib(own)
    touched = b"x" * (64 * MIB)
    assert 60 < rss_mib(own) - before_mib < 80
    del touched


def test_a_local_cluster_writes_a_config_that_loads(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, security="encrypt", io_timeout_s=7)
    cluster.add_node("n1", [cluster.image("disk0", 1 * MIB, cache="writeback")])
    cluster.add_node("n2")
    loaded = config.load(cluster.write())
    assert loaded.cluster.io_timeout_s == 7
    assert loaded.node("n1").disks[0].path.stat().st_size == 1 * MIB
    assert loaded.node("n1").socket == tmp_path / "run/n1.sock"
    assert loaded.node("n2").addresses == ("127.0.0.3",)


def test_a_local_cluster_writes_how_disks_are_shared(tmp_path: Path) -> None:
    flow = {"node": "n2", "class": "system", "disk": "n1/disk0", "reservation": 0.1}
    cluster = LocalCluster(tmp_path, scheduler={"system_floor": 0.3, "discipline": "fifo", "flow": [flow]})
    cluster.add_node("n1", [cluster.image("disk0", 1 * MIB, limit_iops=500, limit_bytes_per_s=1e9)])
    cluster.add_node("n2", weight=2, metrics="127.0.0.1:9464")
    loaded = config.load(cluster.write())
    policy = loaded.policy("n1", "disk0")
    assert (policy.system_floor, policy.limit_iops, policy.limit_bytes_per_s) == (0.3, 500, 1e9)
    assert policy.of(FlowKey("n2", IoClass.SYSTEM)) == FlowPolicy(weight=2, reservation=0.1)
    assert loaded.scheduler.discipline == "fifo"
    assert loaded.node("n2").metrics == ("127.0.0.1", 9464)


def test_tracebacks_in_logs_are_found(tmp_path: Path) -> None:
    (tmp_path / "good.log").write_text("all is well\n")
    assert not list(tracebacks(tmp_path))
    (tmp_path / "bad.log").write_text("Traceback (most recent call last):\n  x\n")
    (found,) = tracebacks(tmp_path)
    assert "bad.log" in found
