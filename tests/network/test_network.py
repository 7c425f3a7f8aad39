"""A mesh whose nodes are hosts of a network of their own: the mount of one node uses the disks of another."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.cluster.config import load
from meshfs.cluster.keys import Keyring
from meshfs.limits import MIB
from meshfs.model import SHARE_DISKS
from meshfs.smb.constants import Capabilities, Command, Fsctl
from meshfs.smb.messages.ioctl import NO_FILE, IoctlRequest, IoctlResponse, NetworkInterface, unpack_interfaces
from meshlab.cluster.cluster import LocalCluster, tracebacks
from meshlab.cluster.network import Network
from meshlab.smb.socket_initiator import SocketInitiator
from support.commands import FIO_VERIFY, fio, run, until

SIZE_BYTES = 8 * MIB


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[LocalCluster]:
    """Start n1, which has a disk, and n2, which has none. Each is a host with an interface in two LANs."""
    with LocalCluster(tmp_path) as cluster:
        disk = cluster.image("disk0", SIZE_BYTES)
        cluster.add_node("n1", [disk], host=network.host("n1", lans=2))
        cluster.add_node("n2", host=network.host("n2", lans=2))
        cluster.write()
        cluster.keygen()
        yield cluster
    assert not list(tracebacks(tmp_path / "log"))


def test_io_crosses_the_network(cluster: LocalCluster, network: Network) -> None:
    exporter = cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    for process in (exporter, cluster.mounts["n2"]):
        host = cluster.nodes["n1" if process is exporter else "n2"].host
        assert host is not None
        assert os.stat(f"/proc/{process.pid}/ns/net").st_ino == host.path.stat().st_ino
    data = random.Random(1).randbytes(SIZE_BYTES)
    before = sent_bytes(network)
    path.write_bytes(data)
    run("sync", path)
    assert (cluster.folder / "disks/disk0.img").read_bytes() == data
    assert sent_bytes(network) - before >= SIZE_BYTES
    fio(
        path,
        "--rw=randrw",
        f"--size={SIZE_BYTES}",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=8",
        *FIO_VERIFY,
        folder=cluster.folder,
    )
    assert {place.rpartition(":")[0] for place in cluster.control("n1")["listening"][:2]} == {"10.77.0.1", "10.77.1.1"}
    cluster.unmount("n2")


def sent_bytes(network: Network) -> int:
    """Return the bytes that left n2 on all its interfaces."""
    lines = network.hosts["n2"].run("cat", "/proc/self/net/dev").splitlines()
    return sum(int(line.split()[9]) for line in lines if line.lstrip().startswith("eth"))


def test_an_exporter_whose_first_interface_is_down_is_started_and_used(cluster: LocalCluster, network: Network) -> None:
    network.hosts["n1"].nics[0].down()
    cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    until(path.exists, "n1's disk is shown", timeout_s=20)
    assert path.read_bytes() == bytes(SIZE_BYTES)


def test_a_restart_over_the_network(cluster: LocalCluster) -> None:
    cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    cluster.stop_exporter("n1", signal.SIGKILL)
    # The mount has read nothing yet, and therefore only the new exporter can give these bytes.
    with cluster.nodes["n1"].disks[0].path.open("r+b") as image:
        image.write(b"restarted")
    cluster.start_exporter("n1")
    until(lambda: path.read_bytes()[:9] == b"restarted", "served again")


def asked_interfaces(cluster: LocalCluster) -> list[NetworkInterface]:
    """Return what n1's exporter answers to n2."""
    n1, n2 = cluster.nodes["n1"], cluster.nodes["n2"]
    assert n2.host is not None
    with n2.host.entered():
        client = SocketInitiator((n1.addresses[1], n1.port))
    with client:
        client.negotiate(capabilities=int(Capabilities.LARGE_MTU | Capabilities.MULTI_CHANNEL))
        assert client.set_up("n2", Keyring(load(cluster.config), "n2").password_to("n1")).status == 0
        client.connect(SHARE_DISKS)
        asked = IoctlRequest(Fsctl.QUERY_NETWORK_INTERFACE_INFO, NO_FILE, b"", 65536)
        reply = client.call(Command.IOCTL, asked.pack())
        assert reply.status == 0
        return list(unpack_interfaces(IoctlResponse.unpack(reply.body).output))


def test_an_exporter_tells_of_its_interfaces_as_they_are(cluster: LocalCluster, network: Network) -> None:
    cluster.start_exporter("n1")
    both = [(str(each.address), each.link_speed_bits_s, each.capability) for each in asked_interfaces(cluster)]
    assert both == [("10.77.0.1", 10_000_000_000, 0), ("10.77.1.1", 10_000_000_000, 0)]
    assert len({each.index for each in asked_interfaces(cluster)} - {0}) == 2
    first = network.hosts["n1"].nics[0]
    first.unplug()
    until(lambda: [str(each.address) for each in asked_interfaces(cluster)] == ["10.77.1.1"], "one has no carrier")
    first.plug()
    until(lambda: len(asked_interfaces(cluster)) == 2, "told again")
