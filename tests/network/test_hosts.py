"""The test network itself: what its hosts reach and how fast, and that nothing of it is left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from meshfs.linux.interfaces import list_interfaces
from meshlab.cluster import network as network_module
from meshlab.cluster.network import NAMESPACES, Host, Network, NetworkFailure, bits_s
from support.commands import until
from support.traffic import connected, reachable, throughput_bits_s


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def namespaces(owner: int) -> list[str]:
    return [name for name in os.listdir(NAMESPACES) if name.startswith(f"meshfs-{owner}.")]


def told(host: Host) -> str:
    """Return what list_interfaces gives in a process of the host."""
    script = (
        "from meshfs.linux.interfaces import list_interfaces\n"
        "for each in list_interfaces():\n"
        "    if each.name != 'lo': print(each.name, each.address, each.up)"
    )
    return host.run(sys.executable, "-c", script)


def test_hosts_reach_each_other_in_every_lan_and_nothing_else(network: Network) -> None:
    before = list_interfaces()
    hosts = [network.host(name, lans=2) for name in ("n1", "n2", "n3")]
    assert [host.addresses for host in hosts] == [[f"10.77.{lan}.{n}" for lan in (0, 1)] for n in (1, 2, 3)]
    for host in hosts:
        for other in hosts:
            assert all(reachable(host, nic) for nic in other.nics)
    lines = [line for line in told(hosts[1]).splitlines() if "10.77" in line]
    assert lines == ["eth0 10.77.0.2/24 True", "eth1 10.77.1.2/24 True"]
    assert list_interfaces() == before, "this machine's interfaces are not touched"
    hosts[1].nics[0].down()
    assert not reachable(hosts[0], hosts[1].nics[0]), "not by another LAN either"


def test_an_ipv6_address_comes_back_with_the_link(network: Network) -> None:
    one, two = network.host("n1", lans=0), network.host("n2", lans=0)
    for number, host in enumerate((one, two), 1):
        host.attach(0, f"fd77::{number}/64")
    assert two.addresses == ["fd77::2"]
    two.nics[0].down()
    two.nics[0].up()
    assert "fd77::2/64 True" in told(two)


def test_an_interface_that_is_down_or_unplugged(network: Network) -> None:
    one, two = network.host("n1", lans=2), network.host("n2", lans=2)
    nic = two.nics[0]
    nic.down()
    assert "eth0 10.77.0.2/24 False" in told(two)
    assert not reachable(one, nic)
    assert reachable(one, two.nics[1]), "the other LAN goes on"
    nic.up()
    until(lambda: reachable(one, nic), "reachable again")
    nic.unplug()
    until(lambda: "eth0 10.77.0.2/24 False" in told(two), "no carrier")
    assert "state DOWN" in two.run("ip", "link", "show", "eth0")
    assert "NO-CARRIER,BROADCAST,MULTICAST,UP" in two.run("ip", "link", "show", "eth0")
    assert one.nics[0].has_carrier(), "only one cable is pulled"
    nic.plug()
    until(lambda: reachable(one, nic), "reachable again")


def test_a_blackhole_keeps_the_link_and_drops_everything(network: Network) -> None:
    one, two = network.host("n1"), network.host("n2")
    nic = two.nics[0]
    with connected(one, nic) as (near, far):
        nic.blackhole()
        near.sendall(b"lost")
        far.settimeout(0.5)
        with pytest.raises(TimeoutError):
            far.recv(4)
        assert not reachable(one, nic)
        assert nic.has_carrier()
        assert one.nics[0].has_carrier()
        nic.down()
        nic.up()
        assert not reachable(one, nic), "a link that comes back does not heal it"
        nic.heal()
        far.settimeout(10)
        assert far.recv(4) == b"lost", "TCP sends it again"
    until(lambda: reachable(one, nic), "reachable again")


@pytest.mark.parametrize(("to_host", "from_host"), [(True, False), (False, True)])
def test_a_blackhole_of_one_direction(network: Network, to_host: bool, from_host: bool) -> None:
    one, two = network.host("n1"), network.host("n2")
    with connected(one, two.nics[0]) as (near, far):
        two.nics[0].blackhole(to_host=to_host, from_host=from_host)
        near.sendall(b"there")
        far.settimeout(0.5)
        if to_host:
            with pytest.raises(TimeoutError):
                far.recv(5)
        else:
            assert far.recv(5) == b"there"
        two.nics[0].heal()


@pytest.mark.parametrize("rate", ["100mbit", "200mbit", "500mbit"])
def test_one_connection_gets_the_rate_and_no_more(network: Network, rate: str) -> None:
    """At least 95 % of the rate is payload in both directions.

    The other host has no limit, so both sides of one are measured.
    """
    one, two = network.host("n1"), network.host("n2", rate=rate)
    for outwards in (True, False):
        with connected(one, two.nics[0]) as (near, far):
            got = throughput_bits_s(near, far) if outwards else throughput_bits_s(far, near)
        assert 0.95 <= got / bits_s(rate) <= 1.02, f"{got / 1e6:.1f} Mbit/s"


def test_interfaces_have_rates_of_their_own_which_can_change(network: Network) -> None:
    one, two = network.host("n1", lans=2), network.host("n2", lans=2, rate=["200mbit", "20mbit"])
    for nic, expected in zip(two.nics, (2e8, 2e7), strict=True):
        with connected(one, nic) as ends:
            assert throughput_bits_s(*ends) == pytest.approx(expected, rel=0.15)
    two.nics[0].limit("50mbit")
    with connected(one, two.nics[0]) as ends:
        assert throughput_bits_s(*ends) == pytest.approx(5e7, rel=0.06)
    two.nics[0].limit(None)
    two.nics[0].limit(None)
    with connected(one, two.nics[0]) as ends:
        assert throughput_bits_s(*ends, seconds=0.5) > 1e9


@pytest.mark.parametrize("rate", ["200", "200mbps", "fast"])
def test_a_rate_that_is_none(rate: str) -> None:
    with pytest.raises(ValueError, match="kbit"):
        bits_s(rate)


# --- what stays


def test_networks_of_one_process_do_not_meet(network: Network) -> None:
    with Network() as other:
        assert other.host("n1").addresses == network.host("n1").addresses == ["10.77.0.1"]
        assert len(namespaces(os.getpid())) == 4
    assert len(namespaces(os.getpid())) == 2


def test_all_is_removed_after_a_failure_with_what_runs_there() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def fails() -> None:
        with Network() as network:
            host = network.host("n1")
            started.append(subprocess.Popen(host.command("sleep", "600")))
            until(lambda: str(started[0].pid) in host.run("ip", "netns", "pids", host.namespace), "it runs there")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert started[0].wait(5) < 0
    assert not namespaces(os.getpid())


def test_a_command_that_fails_says_how(network: Network) -> None:
    with pytest.raises(NetworkFailure, match="no such device"):
        network.host("n1").run("sh", "-c", "echo no such device; exit 3")


def test_what_a_killed_run_left_is_removed(network: Network) -> None:
    script = (
        "import subprocess, time\n"
        "from meshlab.cluster.network import Network\n"
        "host = Network().host('n1')\n"
        "print(subprocess.Popen(host.command('sleep', '600')).pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
        assert run.stdout
        stray = int(run.stdout.readline())
        mine = network.host("n1")
        network_module.remove_leftovers()
        assert len(namespaces(run.pid)) == 2, "a run that lives is left alone"
        run.kill()
        run.wait()
        network_module.remove_leftovers()
    assert not namespaces(run.pid)
    deadline = time.monotonic() + 5
    while _alive(stray):
        assert time.monotonic() < deadline, "what it had started there is ended"
        time.sleep(0.01)
    assert mine.run("true") == ""


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
