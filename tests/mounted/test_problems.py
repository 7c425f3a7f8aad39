"""If a real cluster is not well, `meshctl status` names the problem, metrics count it, and the log has a line."""

import errno
import json
import mmap
import os
import resource
import signal
import socket
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB, PROBLEM_FRAMES_BROKEN
from meshlab.cluster.cluster import LocalCluster, free_port
from support import commands

pytestmark = pytest.mark.mounted

until = partial(commands.until, timeout_s=30.0)
NewCluster = Callable[..., LocalCluster]


def found(cluster: LocalCluster, *arguments: str) -> dict[str, str]:
    """Return the problems of `meshctl status` by code, and check that its exit status agrees."""
    done = cluster.meshctl("status", "--json", *arguments, check=False)
    shown = json.loads(done.stdout)
    problems = {item["code"]: f"{item['subject']}: {item['text']}" for item in shown["problems"]}
    bad = any(item["severity"] != "note" for item in shown["problems"])
    assert (done.returncode, shown["ok"]) == (int(bad), not bad)
    return problems


def of_exporter(cluster: LocalCluster, node: str = "n1") -> dict[str, str]:
    return found(cluster, "--config", str(cluster.config), "--node", node)


def metric(port: int, name: str, code: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{code="{code}"}}'))


def log_of(cluster: LocalCluster, name: str) -> str:
    return (cluster.logs / f"{name}.log").read_text()


def started(cluster: LocalCluster, *disks: Any, **settings: Any) -> Path:
    cluster.add_node("n1", disks, **settings)
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    return cluster.mount("n2")


def test_all_is_well(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    point = started(cluster, cluster.image("disk0", 4 * MIB))
    assert found(cluster, str(point)) == {}
    assert of_exporter(cluster) == {}


def test_a_disk_whose_reads_fail(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    backing = cluster.image("backing", 8 * MIB).path
    port = free_port("127.0.0.1")
    point = started(cluster, cluster.loop("bad", backing), metrics=f"127.0.0.1:{port}")
    os.truncate(backing, 1 * MIB)
    fd = os.open(point / "disk/by-node/n1/bad", os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in (4 * MIB, 5 * MIB, 6 * MIB):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.preadv(fd, [mmap.mmap(-1, 4096)], offset)
    finally:
        os.close(fd)
    until(lambda: "disk-errors" in found(cluster, str(point)), "the mount knows")
    assert "disk n1/bad: 3 I/O errors within the last minute" in found(cluster, str(point))["disk-errors"]
    until(lambda: "disk-errors" in of_exporter(cluster), "the exporter knows")
    until(lambda: metric(port, "meshfsd_problems", "disk-errors") == 1, "Prometheus knows")
    until(lambda: "problem disk-errors: disk n1/bad" in log_of(cluster, "n1-meshfsd"), "the exporter's log")
    until(lambda: "problem disk-errors: disk n1/bad" in log_of(cluster, "n2-meshfs"), "the mount's log")


def test_a_disk_that_cannot_be_opened_at_a_reload(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    point = started(cluster, cluster.image("disk0", 4 * MIB))
    late = cluster.image("late", 4 * MIB)
    image = late.path.rename(late.path.with_suffix(".away"))
    cluster.nodes["n1"].disks.append(late)
    cluster.write()
    for pid in (cluster.exporters["n1"].pid, cluster.mounts["n2"].pid):
        os.kill(pid, signal.SIGHUP)
    until(lambda: "disk-missing" in of_exporter(cluster), "the exporter knows")
    until(lambda: "disk-missing" in found(cluster, str(point)), "the mount knows")
    assert "disk n1/late: the disk is missing" in found(cluster, str(point))["disk-missing"]
    image.rename(late.path)
    until(lambda: found(cluster, str(point)) == of_exporter(cluster) == {}, "it is taken, and all is well")


def test_a_mount_whose_process_died(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    point = started(cluster, cluster.image("disk0", 4 * MIB))
    cluster.mounts["n2"].process.kill()
    cluster.mounts["n2"].process.wait()
    problems = found(cluster, str(point))
    assert "its process died; umount" in problems["mount-dead"]


def test_an_exporter_that_does_not_run_though_its_node_has_disks(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    started(cluster, cluster.image("disk0", 4 * MIB))
    point = cluster.mount("n1")
    cluster.stop_exporter("n1")
    until(lambda: "exporter-drained" in found(cluster, str(point)), "the mount knows")
    problems = found(cluster, str(point))
    assert "the exporter is not running" in problems["exporter-stopped"]
    assert "1 disks are out of reach" in problems["exporter-drained"]
    assert "exporter-away" not in problems, "it was stopped on purpose"
    until(lambda: "problem exporter-drained: exporter n1" in log_of(cluster, "n2-meshfs"), "the log says when it began")
    cluster.start_exporter("n1")
    ended = "problem exporter-drained has ended: exporter n1"
    until(lambda: ended in log_of(cluster, "n2-meshfs"), "and when it ended")
    until(lambda: found(cluster, str(point)) == {}, "all is well again")


def test_a_node_without_a_public_key_cannot_log_in(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    started(cluster, cluster.image("disk0", 4 * MIB))
    cluster.add_node("n3")
    cluster.write()
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: "key-missing" in of_exporter(cluster), "the exporter knows")
    assert "node n3: it cannot log in" in of_exporter(cluster)["key-missing"]
    cluster.keygen()
    until(lambda: "config-reload" in of_exporter(cluster), "the new key is not in force yet")
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: of_exporter(cluster) == {}, "all is well again")


def test_broken_frames_of_strangers_are_a_problem(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    started(cluster, cluster.image("disk0", 4 * MIB))
    node = cluster.nodes["n1"]
    for _ in range(PROBLEM_FRAMES_BROKEN):
        with socket.create_connection((node.address, node.port)) as stranger:
            stranger.sendall(b"\x00\x00\x00\x40" + b"\xfeSMB" + bytes(60))
            stranger.recv(100)
    until(lambda: "frames-broken" in of_exporter(cluster), "the exporter counts the frames")
    assert "logins-refused" not in of_exporter(cluster)


def test_a_state_folder_that_cannot_be_written(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    cluster.folder.joinpath("state").write_text("a file where a folder should be")
    started(cluster, cluster.image("disk0", 4 * MIB))
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: "state-unwritable" in of_exporter(cluster), "the exporter knows")


def test_few_descriptors_are_left(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    point = started(cluster, cluster.image("disk0", 4 * MIB))
    pid = cluster.mounts["n2"].pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, used + 1))
    assert "file descriptors are in use; raise LimitNOFILE=" in found(cluster, str(point))["descriptors-short"]


def test_no_security_is_a_note(new_cluster: NewCluster) -> None:
    cluster = new_cluster(security="none")
    point = started(cluster, cluster.image("disk0", 4 * MIB))
    assert found(cluster, str(point)).keys() == {"security-none"}
