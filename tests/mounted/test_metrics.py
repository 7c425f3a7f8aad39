"""Metrics of real processes, as Prometheus gets them."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster, free_port
from support.commands import FIO_VERIFY, fio, run, until

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
LOOPBACK = "127.0.0.1"
GUARD_S = 30.0
READ_BYTES = 2 * MIB


class Scrape:
    """One answer, parsed."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=GUARD_S) as answer:
            text = answer.read().decode()
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample. The label `class` is spelled `class_`."""
        return self._samples.get((name, frozenset((key.rstrip("_"), value) for key, value in labels.items())))


@pytest.fixture
def ports() -> tuple[int, int]:
    """Return the ports of the exporter's metrics and of the mount's."""
    return free_port(LOOPBACK), free_port(LOOPBACK)


@pytest.fixture
def cluster(new_cluster: NewCluster, ports: tuple[int, int]) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", 16 * MIB)], metrics=f"{LOOPBACK}:{ports[0]}")
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    return cluster


def test_both_ends_count_the_same_io(cluster: LocalCluster, ports: tuple[int, int]) -> None:
    cluster.start_exporter("n1")
    disk = cluster.mount("n2", f"metrics={LOOPBACK}:{ports[1]}", "cache=none") / "disk/by-node/n1/disk0"
    run("dd", f"if={disk}", "of=/dev/null", "bs=1M", f"count={READ_BYTES // MIB}", "iflag=direct")
    run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=1", "oflag=direct", "conv=notrunc,fsync")
    exporter, mount = Scrape(ports[0]), Scrape(ports[1])
    flow = {"node": "n2", "class_": "app", "disk": "disk0"}
    theirs = {"node": "n1", "disk": "disk0", "local": "false"}
    for name, labels, scrape in (("meshfsd_flow", flow, exporter), ("meshfs_disk", theirs, mount)):
        assert scrape.value(f"{name}_bytes_total", **labels, op="read") == READ_BYTES
        assert scrape.value(f"{name}_bytes_total", **labels, op="write") == MIB
        assert scrape.value(f"{name}_operations_total", **labels, op="flush") == 1
        assert scrape.value(f"{name}_errors_total", **labels) == 0
        for op in ("read", "write"):
            operations = scrape.value(f"{name}_operations_total", **labels, op=op)
            assert operations is not None
            assert operations >= 1
            latency = f"{name}_latency_seconds"
            assert scrape.value(f"{latency}_count", **labels, op=op) == operations
            assert scrape.value(f"{latency}_bucket", **labels, op=op, le="+Inf") == operations
            sum_s = scrape.value(f"{latency}_sum", **labels, op=op)
            assert sum_s is not None
            assert 0 < sum_s < GUARD_S * operations
    assert exporter.value("meshfsd_disk_bytes_total", disk="disk0", op="read") == READ_BYTES
    assert exporter.value("meshfsd_flow_weight", **flow) == 1
    assert exporter.value("meshfsd_disk_system_floor_ratio", disk="disk0") == 0.2
    assert exporter.value("meshfsd_sessions", node="n2") == 1
    assert mount.value("meshfs_exporter_up", node="n1") == 1
    received = mount.value("meshfs_exporter_received_bytes_total", node="n1")
    assert received is not None
    assert received > READ_BYTES
    for scrape in (exporter, mount):
        assert scrape.value("process_start_time_seconds") is not None


def test_a_mount_in_the_background_tells_of_an_exporter_that_is_away(
    cluster: LocalCluster, ports: tuple[int, int], tmp_path: Path
) -> None:
    point = tmp_path / "mesh"
    point.mkdir()
    cluster.start_exporter("n1")
    run(BIN / "meshfs", cluster.config, point, "-o", f"node=n2,metrics={LOOPBACK}:{ports[1]},log={tmp_path}/log")
    try:
        before = Scrape(ports[1])
        assert before.value("meshfs_exporter_up", node="n1") == 1
        assert before.value("meshfs_disk_present", node="n1", disk="disk0") == 1
        cluster.stop_exporter("n1", signal.SIGKILL)
        until(lambda: Scrape(ports[1]).value("meshfs_exporter_up", node="n1") == 0, "the loss is told")
        after = Scrape(ports[1])
        assert after.value("meshfs_disk_present", node="n1", disk="disk0") == 0
        assert after.value("meshfs_exporter_channels", node="n1") == 0
        sent = "meshfs_exporter_sent_bytes_total"
        assert (after.value(sent, node="n1") or 0) >= (before.value(sent, node="n1") or 0) > 0, "a counter never falls"
    finally:
        run("umount", point)
    until(lambda: not listens(ports[1]), "the port is free again")


def test_scrapes_and_io_do_not_disturb_each_other_nor_the_end(cluster: LocalCluster, ports: tuple[int, int]) -> None:
    cluster.start_exporter("n1")
    disk = cluster.mount("n2", f"metrics={LOOPBACK}:{ports[1]}") / "disk/by-node/n1/disk0"
    scraped = dict.fromkeys(ports, 0)
    ending = threading.Event()

    def scrape_on(port: int) -> None:
        while not ending.is_set():
            Scrape(port)
            scraped[port] += 1

    def scrape_to_the_end(port: int) -> None:
        # Once the process ends, a scrape is refused or cut off in the middle, but it never hangs.
        try:
            while True:
                Scrape(port)
        except (OSError, ValueError, http.client.HTTPException):
            return

    scrapers = [threading.Thread(target=scrape_on, args=(port,)) for port in ports]
    for scraper in scrapers:
        scraper.start()
    try:
        fio(
            disk,
            "--rw=randrw",
            "--bs=4k",
            "--size=8m",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=16",
            *FIO_VERIFY,
            folder=cluster.folder,
        )
    finally:
        ending.set()
        for scraper in scrapers:
            scraper.join(GUARD_S)
    assert all(count > 1 for count in scraped.values()), "scraped all the time, without an error"

    scrapers = [threading.Thread(target=scrape_to_the_end, args=(port,)) for port in ports]
    for scraper in scrapers:
        scraper.start()
    for running in (cluster.mounts.pop("n2"), cluster.exporters.pop("n1")):
        running.process.terminate()
        assert running.process.wait(GUARD_S) == 0
    for scraper in scrapers:
        scraper.join(GUARD_S)
        assert not scraper.is_alive()


def test_an_address_that_is_taken_ends_the_start(cluster: LocalCluster, ports: tuple[int, int], tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, ports[0])) as taken:
        place = f"{LOOPBACK}:{taken.getsockname()[1]}"
        (cluster.folder / "run").mkdir(exist_ok=True)
        text = run(BIN / "meshfsd", "--config", cluster.config, "--node", "n1", status=2)
        assert f"cannot serve metrics at {place}: Address already in use" in text
        assert "Traceback" not in text
        point = tmp_path / "mesh"
        point.mkdir()
        options = f"node=n2,metrics={place},log={tmp_path}/log"
        text = run(BIN / "meshfs", cluster.config, point, "-o", options, status=32)
        assert f"meshfs: cannot serve metrics at {place}: Address already in use" in text
        assert not point.is_mount()
    cluster.start_exporter("n1")


def test_who_asks_for_no_metrics_does_not_pay_for_them(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", MIB)])
    cluster.write()
    cluster.keygen()
    running = cluster.start_exporter("n1")
    assert "metrics at" not in running.log.read_text()
    loaded = "import meshfs.mount.program, meshfsd.__main__, sys; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True, timeout=GUARD_S)


def test_a_reload_moves_the_metrics(cluster: LocalCluster, ports: tuple[int, int]) -> None:
    running = cluster.start_exporter("n1")
    settings = cluster.nodes["n1"].settings
    settings["metrics"] = f"{LOOPBACK}:{ports[1]}"
    cluster.write()
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in running.log.read_text(), "reloaded")
    assert Scrape(ports[1]).value("meshfsd_exporter_info", node="n1") == 1
    until(lambda: not listens(ports[0]), "nobody answers at the old address")
    with socket.create_server((LOOPBACK, ports[0])):
        settings["metrics"] = f"{LOOPBACK}:{ports[0]}"
        cluster.write()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "metrics stay at their old address" in running.log.read_text(), "refused")
        # The address is refused in the middle of a reload, and the problem counts from its end.
        until(lambda: reload_problems(ports[1]) == 1, "the refusal is a problem")
    running.process.send_signal(signal.SIGHUP)
    until(lambda: listens(ports[0]), "now that the address is free")
    until(lambda: reload_problems(ports[0]) == 0, "the problem has ended")


def reload_problems(port: int) -> float | None:
    """Return the exporter's number of problems with a reload."""
    return Scrape(port).value("meshfsd_problems", code="config-reload")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
