"""`meshctl check` on real mounts: it finds that all nodes see the same disks, and each thing that breaks that."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster
from support import commands

pytestmark = pytest.mark.mounted

GUARD_S = 60

until = partial(commands.until, timeout_s=GUARD_S)


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    """Start three nodes with two disks on n1, one of which n3 may not know of, and one on n2. All nodes mount."""
    cluster = new_cluster(io_timeout_s=20)
    cluster.add_node("n1", [cluster.image("disk0", 4 * MIB), cluster.image("secret", 3 * MIB)])
    cluster.add_node("n2", [cluster.image("disk1", 2 * MIB)])
    cluster.add_node("n3")
    text = cluster.write().read_text()
    cluster.config.write_text(text.replace('name = "secret"', 'name = "secret"\nnodes = { n3 = "none" }'))
    cluster.keygen()
    for node in ("n1", "n2"):
        cluster.start_exporter(node)
    for node in ("n1", "n2", "n3"):
        cluster.mount(node)
    return cluster


def check(cluster: LocalCluster, node: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status of `meshctl check` on the node, and its JSON."""
    done = cluster.meshctl("check", str(cluster.mountpoint(node)), "--json", *options, check=False)
    return done.returncode, json.loads(done.stdout)


def codes(shown: dict[str, Any]) -> set[tuple[str, str]]:
    return {(problem["code"], problem["subject"]) for problem in shown["problems"]}


def offered_sizes(cluster: LocalCluster) -> set[int]:
    """Return the sizes of the disks that the exporter of n1 offers."""
    exporters = check(cluster, "n1", "--timeout", "0")[1]["mounts"][0]["exporters"]
    return {disk["size_bytes"] for each in exporters if each["node"] == "n1" for disk in each["disks"]}


def test_all_nodes_see_the_same_and_a_hidden_disk_is_no_difference(cluster: LocalCluster) -> None:
    for node in ("n1", "n2", "n3"):
        code, shown = check(cluster, node)
        assert (code, shown["problems"]) == (0, [])
        rows = {row["node"]: (row["disks"], row["disks_expected"]) for row in shown["mounts"][0]["nodes"]}
        # n3 does not learn that there is a disk that it may not know of.
        known = 2 if node == "n3" else 3
        assert rows == {"n1": (known, known), "n2": (known, known), "n3": (2, 2)}
        assert ("secret" in json.dumps(shown)) == (node != "n3")
    text = cluster.meshctl("check", str(cluster.mountpoint("n1")))
    assert "all 3 nodes see the same disks (3)" in text.stdout


def test_a_node_without_a_mount_and_an_exporter_that_is_away(cluster: LocalCluster) -> None:
    cluster.unmount("n3")
    code, shown = check(cluster, "n1", "--timeout", "2")
    assert (code, codes(shown)) == (1, {("check-node", "node n3")})
    assert check(cluster, "n1", "--ignore", "n3")[0] == 0
    cluster.stop_exporter("n2")
    code, shown = check(cluster, "n1", "--ignore", "n3", "--timeout", "2")
    assert (code, codes(shown)) == (1, {("check-exporter", "exporter n2")})
    cluster.start_exporter("n2")
    cluster.mount("n3")
    until(lambda: check(cluster, "n1")[0] == 0, "the mesh is symmetric again")


def test_a_mount_that_hangs_does_not_hold_up_the_check(cluster: LocalCluster) -> None:
    """A mount that is stopped tells nothing new, so a disk that grows meanwhile has another size in its view."""
    stopped = cluster.mounts["n2"].pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        image = cluster.nodes["n1"].disks[0].path
        os.truncate(image, 8 * MIB)
        until(lambda: 8 * MIB in offered_sizes(cluster), "the disk has grown")
        code, shown = check(cluster, "n1", "--timeout", "3")
        assert (code, codes(shown)) == (1, {("check-size", "node n2")})
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(lambda: check(cluster, "n1")[0] == 0, "the mesh is symmetric again")
