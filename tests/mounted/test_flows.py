"""The scheduler on real processes: the flow of each I/O, limits, flows that vanish, disks that stall."""

import json
import mmap
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmark.slow_device import SlowDevice, slow_device
from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run, until

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]
BLOCK_BYTES = 4096
DISK_BYTES = 8 * MIB


def up(cluster: LocalCluster, *disks: LocalDisk, mounts: tuple[str, ...] = ("n2",)) -> LocalCluster:
    """Start n1, which owns the disks, and n2 and n3, which have none."""
    cluster.add_node("n1", list(disks))
    for name in ("n2", "n3"):
        cluster.add_node(name)
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    for name in mounts:
        cluster.mount(name)
    return cluster


def disk_path(cluster: LocalCluster, mount: str = "n2", disk: str = "disk0") -> Path:
    return cluster.mountpoint(mount) / "disk/by-node/n1" / disk


def flows(cluster: LocalCluster, disk: str = "disk0") -> dict[tuple[str, str], dict[str, Any]]:
    """Return the flows by node and class. A flow that was not seen yet has zeros."""
    (found,) = cluster.control("n1", "flows", disk=disk)["disks"]
    by_key: dict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    return by_key | {(flow["node"], flow["class"]): flow for flow in found["flows"]}


def read_blocks(path: Path, count: int) -> float:
    """Read blocks one after the other with O_DIRECT, and return the seconds that it took."""
    buffer = mmap.mmap(-1, BLOCK_BYTES)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        start = time.monotonic()
        for index in range(count):
            assert os.preadv(fd, [buffer], index * BLOCK_BYTES % DISK_BYTES) == BLOCK_BYTES
        return time.monotonic() - start
    finally:
        os.close(fd)


@contextmanager
def flood(path: Path, *options: str, block: str = "64k", depth: int = 16) -> Iterator[subprocess.Popen[bytes]]:
    """Run an asynchronous fio until the block ends."""
    command = [
        "fio",
        "--name=flood",
        f"--filename={path}",
        "--rw=randread",
        f"--bs={block}",
        f"--iodepth={depth}",
        "--ioengine=libaio",
        "--direct=1",
        "--time_based",
        "--runtime=120",
        *options,
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()


def test_whose_io_it_is_and_of_which_class(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    up(cluster, cluster.image("disk0", DISK_BYTES), mounts=("n1", "n2"))
    cluster.mount("n2", "class=system", label="n2-system")
    for mount, prefix in (("n1", []), ("n2", []), ("n2", ["ionice", "-c", "idle"]), ("n2-system", [])):
        command = [*prefix, "dd", f"if={disk_path(cluster, mount)}", "of=/dev/null", "bs=4k", "count=8", "iflag=direct"]
        run(*command)
    found = flows(cluster)
    assert {key: flow["reads"] for key, flow in found.items()} == {
        ("n1", "app"): 8,
        ("n2", "app"): 8,
        ("n2", "system"): 16,
    }
    assert {key: flow["local"] for key, flow in found.items()} == {
        ("n1", "app"): True,
        ("n2", "app"): False,
        ("n2", "system"): False,
    }


def test_no_disk_does_more_than_its_limits(new_cluster: NewCluster) -> None:
    """The test asserts only a lower bound of the time. A slow machine may take longer, but no machine may take less."""
    cluster = new_cluster()
    disks = [
        cluster.image("requests", DISK_BYTES, limit_iops=100),
        cluster.image("bytes", DISK_BYTES, limit_bytes_per_s=100 * BLOCK_BYTES),
        cluster.image("flow", DISK_BYTES),
    ]
    cluster.scheduler = {"flow": [{"node": "n2", "disk": "n1/flow", "limit_iops": 100}]}
    up(cluster, *disks)
    for disk in disks:
        # Of 60 requests, one may go at once and one more early.
        assert read_blocks(disk_path(cluster, disk=disk.name), 60) > 0.57, disk.name


def test_a_limited_flow_slows_nobody_else_down(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    cluster.scheduler = {"flow": [{"node": "n2", "limit_iops": 1}]}
    up(cluster, cluster.image("disk0", DISK_BYTES), mounts=("n2", "n3"))
    with flood(disk_path(cluster, "n2")):
        until(lambda: flows(cluster)["n2", "app"]["held"] == "flow limit", "the limit holds the flow")
        read_blocks(disk_path(cluster, "n3"), 200)
        assert flows(cluster)["n2", "app"]["queued"] > 0


def test_a_flow_that_vanishes_leaves_nothing_behind(new_cluster: NewCluster) -> None:
    """The mount dies with requests queued. They are dropped, and the remaining flow gets the share."""
    cluster = new_cluster()
    up(cluster, cluster.image("disk0", DISK_BYTES, limit_iops=20), mounts=("n2", "n3"))
    with flood(disk_path(cluster, "n2"), depth=64) as process, flood(disk_path(cluster, "n3"), depth=4):
        until(lambda: flows(cluster)["n2", "app"]["queued"] > 32, "n2 has requests waiting")
        until(lambda: flows(cluster)["n3", "app"]["reads"] > 0, "n3 is served beside it")
        mount = cluster.mounts.pop("n2")
        mount.process.kill()
        mount.process.wait(10)
        until(lambda: flows(cluster)["n2", "app"]["queued"] == 0, "n2's requests are gone")
        assert flows(cluster)["n2", "app"]["in_flight"] == 0
        before = flows(cluster)["n3", "app"]["reads"]
        until(lambda: flows(cluster)["n3", "app"]["reads"] > before + 10, "n3 goes on")
        process.kill()
    run("umount", "--lazy", cluster.mountpoint("n2"))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowDevice]:
    with ExitStack() as stack:
        yield slow_device(stack, tmp_path, "slow", f"{tmp_path.parent.parent.name}-stalls", DISK_BYTES)


def test_a_disk_that_stalls_holds_up_no_other_and_comes_back(new_cluster: NewCluster, slow: SlowDevice) -> None:
    cluster = new_cluster()
    up(cluster, LocalDisk("slow", slow.path), cluster.image("disk0", DISK_BYTES))
    stalled = disk_path(cluster, disk="slow")
    read_blocks(stalled, 2)
    os.kill(slow.pids["nbdkit"], signal.SIGSTOP)
    try:
        took: list[float] = []
        reader = threading.Thread(target=lambda: took.append(read_blocks(stalled, 8)))
        with flood(stalled, block="1m", depth=64):
            reader.start()
            until(lambda: flows(cluster, "slow")["n2", "app"]["in_flight"] > 0, "requests are at the stalled disk")
            # 64 requests of 1 MiB would take all credits that there are.
            read_blocks(disk_path(cluster), 200)
            assert not took
            os.kill(slow.pids["nbdkit"], signal.SIGCONT)
            reader.join(20)
            assert took
    finally:
        os.kill(slow.pids["nbdkit"], signal.SIGCONT)
    until(lambda: flows(cluster, "slow")["n2", "app"]["queued"] == 0, "everything came back")
    assert flows(cluster, "slow")["n2", "app"]["errors"] == 0


def test_what_is_learnt_of_a_disk_is_kept(new_cluster: NewCluster, slow: SlowDevice) -> None:
    cluster = new_cluster()
    up(cluster, LocalDisk("disk0", slow.path))
    with flood(disk_path(cluster), depth=64):
        until(lambda: cluster.control("n1", "flows")["disks"][0]["cost"]["windows"] > 3, "something is learnt")
    cluster.stop_exporter("n1")
    kept = cluster.folder / "state/n1/disk0.cost.json"
    learnt = json.loads(kept.read_text())
    cluster.start_exporter("n1")
    assert cluster.control("n1", "flows")["disks"][0]["cost"]["windows"] >= 3
    cluster.stop_exporter("n1")
    assert json.loads(kept.read_text()) == learnt


@pytest.mark.parametrize("content", ["", "[]", '{"disk": 5}', '{"disk": "another", "cost": {}}', "\xff", "{" * 9999])
def test_what_was_kept_and_cannot_be_used_is_learnt_anew(new_cluster: NewCluster, content: str) -> None:
    cluster = new_cluster()
    kept = cluster.folder / "state/n1/disk0.cost.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(content, encoding="latin-1")
    up(cluster, cluster.image("disk0", DISK_BYTES), mounts=())
    assert "its costs are learnt again" in cluster.exporters["n1"].log.read_text()
    assert cluster.control("n1", "flows")["disks"][0]["cost"]["calibrated"] is False
