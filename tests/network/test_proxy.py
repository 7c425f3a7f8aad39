"""The proxy between real processes: a WRITE of a dying connection arrives after everything else."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from meshlab.cluster.network import Network
from meshlab.smb.frame_relay import Unanswered
from meshlab.smb.proxy import Proxy
from support.commands import until
from support.traffic import reachable

BLOCK_BYTES = 4 * KIB
OFFSET = 64 * KIB
OLD, NEW = b"o" * BLOCK_BYTES, b"n" * BLOCK_BYTES


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Start n1 with a disk. n2's mount reaches it through one LAN."""
    with Network() as network, LocalCluster(tmp_path) as cluster:
        cluster.add_node("n1", [cluster.image("disk0", MIB)], host=network.host("n1"))
        cluster.add_node("n2", host=network.host("n2"))
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        yield cluster
    assert not list(tracebacks(tmp_path / "log"))


@pytest.fixture
def proxy(cluster: LocalCluster) -> Iterator[Proxy]:
    node = cluster.nodes["n1"]
    assert node.host is not None
    with Proxy.before(node.host.nics[0], node.port) as proxy:
        yield proxy


def write_at_once(path: Path, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), data, OFFSET) == len(data)
        os.fsync(file.fileno())


def on_disk(cluster: LocalCluster) -> bytes:
    with (cluster.folder / "disks/disk0.img").open("rb") as image:
        return os.pread(image.fileno(), BLOCK_BYTES, OFFSET)


def test_a_neighbour_does_not_notice_the_proxy(cluster: LocalCluster, proxy: Proxy) -> None:
    n1, n2 = (cluster.nodes[name].host for name in ("n1", "n2"))
    assert n1 is not None
    assert n2 is not None
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    write_at_once(path, OLD)
    assert on_disk(cluster) == OLD
    assert [relay.remote[0] for relay in proxy.relays] == ["10.77.0.2"]
    [session] = cluster.control("n1")["sessions"]
    assert session["node"] == "n2"
    assert reachable(n2, n1.nics[0]), "the address is there, and nothing else listens at it"
    n1.nics[0].unplug()
    assert proxy.relays[0].frozen is False
    n1.nics[0].plug()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_write_released_after_a_newer_one_changes_nothing(
    cluster: LocalCluster, proxy: Proxy, restarted: bool
) -> None:
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    hold = proxy.hold(lambda message: message.is_write(OFFSET))
    older = threading.Thread(target=write_at_once, args=(path, OLD))
    older.start()
    held = hold.wait()
    if restarted:
        cluster.stop_exporter("n1", signal.SIGKILL)
        cluster.start_exporter("n1")
    older.join(25)
    assert not older.is_alive(), "the write goes again on another connection"
    assert on_disk(cluster) == OLD
    write_at_once(path, NEW)
    try:
        held.release()
        assert held.status() != 0
    except Unanswered:
        assert held.relay.exporter_gone
    if restarted:
        with pytest.raises(Unanswered, match="closed"):
            held.release_anew()
    assert on_disk(cluster) == NEW
    assert path.read_bytes()[OFFSET : OFFSET + BLOCK_BYTES] == NEW


def test_one_of_two_connections_freezes(cluster: LocalCluster, proxy: Proxy) -> None:
    """Another mount of the node goes on meanwhile."""
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    write_at_once(path, OLD)
    proxy.relays[0].freeze()
    other = cluster.mount("n2", label="other") / "disk/by-node/n1/disk0"
    write_at_once(other, NEW)
    assert on_disk(cluster) == NEW
    until(lambda: path.read_bytes()[OFFSET : OFFSET + BLOCK_BYTES] == NEW, "found dead, and replaced", timeout_s=20)
    assert len(proxy.relays) == 3
