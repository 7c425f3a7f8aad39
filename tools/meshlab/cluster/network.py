"""Hosts with several network interfaces on this machine: network namespaces, joined by switches.

    with Network() as network:
        n1 = network.host("n1", lans=2, rate="200mbit")     # eth0 10.77.0.1/24, eth1 10.77.1.1/24
        n2 = network.host("n2", lans=2, rate=["200mbit", "20mbit"])
        n1.run("curl", f"http://{n2.addresses[1]}/")
        n1.nics[0].down(); n1.nics[1].blackhole()

    n1 eth0 --veth-- port [bridge lan0] port --veth-- eth0 n2
    n1 eth1 --veth-- port [bridge lan1] port --veth-- eth1 n2       the bridges are in a namespace of their own

Every LAN is a network of its own, 10.77.LAN.0/24, in which the first host is .1, the second .2;
nothing leads out of it, and nothing of it is seen by this machine's own interfaces. A program is
of a host when it is started with the host's `prefix` (nsenter): it shares everything else with
this machine, Unix sockets too. A socket is of a host when it is made in `with host.entered():`.

The names hold the process id, so runs do not meet. Leaving the block removes all, killing what
still runs there; what a killed run left is removed by the next. Needs root and iproute2.
"""

import ctypes
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

NAMESPACES: Final = Path("/run/netns")
COMMAND_TIMEOUT_S: Final = 20.0
CARRIER_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.01
# Storage networks have it, and it leaves 99 % of a rate to the payload instead of 95.6 %.
MTU_BYTES: Final = 9000
# tbf: the bucket holds what the rate gives in 4 ms, as a busy machine is late by milliseconds, and two frames at
# least. The queue behind it is 20 ms long, a switch's, and not less than TCP needs to find the rate.
BURST_S: Final = 0.004
BURST_MIN_BYTES: Final = 2 * MTU_BYTES
QUEUE_S: Final = 0.02
QUEUE_MIN_BYTES: Final = 8 * MTU_BYTES
# LANs of an interface and what stands before it; hosts' own are lower.
PRIVATE_LANS: Final = 1000
# A classic BPF program for tc's direct-action mode: "return TC_ACT_SHOT".
_DROP: Final = "1,6 0 0 2"
_NAME: Final = re.compile(r"meshfs-(\d+)\.(\d+)-\d+-.+")
_UNITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}

Rate: TypeAlias = str | None

_CLONE_NEWNET: Final = 0x40000000

_libc: Final = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()


class NetworkFailure(Exception):
    """A command that builds or changes the network failed; the text has what it said."""


class Network:
    """The hosts made so far, and the namespace of their switches."""

    def __init__(self) -> None:
        remove_leftovers()
        self._prefix = f"meshfs-{os.getpid()}.{_started(os.getpid())}-{next(_serial)}"
        self.hosts: dict[str, Host] = {}
        self._lans: set[int] = set()
        self._namespaces: list[str] = []
        self.switches = self._add_namespace("switches")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def host(self, name: str, lans: int = 1, rate: Rate | Sequence[Rate] = None) -> "Host":
        """A host with an interface in each of the first `lans` LANs, limited in both directions.

        `rate` is tc's (200mbit), one for all or one per interface; None leaves a veth's own speed, tens of Gbit/s.
        """
        host = self._host(name, len(self.hosts) + 1)
        self.hosts[name] = host
        rates = [rate] * lans if rate is None or isinstance(rate, str) else rate
        for lan, each in zip(range(lans), rates, strict=True):
            host.attach(lan, rate=each)
        return host

    def close(self) -> None:
        """Every step is taken, whatever became of the others."""
        with ExitStack() as stack:
            for name in self._namespaces:
                stack.callback(_remove, name)
        self._namespaces, self.hosts = [], {}

    def interpose(self, nic: "Nic") -> tuple["Host", "Host"]:
        """Nic.interpose."""
        private = PRIVATE_LANS + len(self._lans)
        back = self._host(f"{nic.host.name}-{nic.name}-back", 0)
        network = ip_interface(nic.interface_address).network
        back.attach(private, f"{network[-2]}/{network.prefixlen}")
        _ip(self.switches, f"link set dev {nic.port} master lan{private}")
        front = self._host(f"{nic.host.name}-{nic.name}-front", 0)
        front.attach(nic.lan, nic.interface_address, mac=nic.mac())
        return front, back

    def _host(self, name: str, number: int) -> "Host":
        return Host(self, name, self._add_namespace(name), number, len(self._namespaces))

    def _add_namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        self._namespaces.append(full)
        _run("ip", "netns", "add", full)
        _run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def need_lan(self, lan: int) -> None:
        """Its bridge: no spanning tree, so that a port forwards at once, and no addresses of its own."""
        if lan in self._lans:
            return
        bridge = f"lan{lan}"
        _ip(
            self.switches,
            f"link add name {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set dev {bridge} addrgenmode none mtu {MTU_BYTES}",
            f"link set dev {bridge} up",
        )
        self._lans.add(lan)


class Host:
    """One namespace. `namespace` is its name, `path` its file for setns(2)."""

    def __init__(self, network: Network, name: str, namespace: str, number: int, serial: int) -> None:
        self.name = name
        self.namespace = namespace
        self.path = NAMESPACES / namespace
        #: Its last byte in every LAN.
        self.number = number
        self.nics: list[Nic] = []
        self.network = network
        #: No other of the network has it; its ports at the switches are named by it.
        self.serial = serial

    @property
    def addresses(self) -> list[str]:
        """One per interface, as the config has them."""
        return [nic.address for nic in self.nics]

    @property
    def prefix(self) -> list[str]:
        """What goes before a command that is to run here. Only the network is another."""
        return ["nsenter", f"--net={self.path}"]

    def command(self, *command: str | Path) -> list[str]:
        return [*self.prefix, *map(str, command)]

    def run(self, *command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Its standard output. Raises NetworkFailure when it fails."""
        return _run(*self.command(*command), timeout_s=timeout_s)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace: a socket made in the block stays there. Not for what awaits or forks."""
        with open("/proc/thread-self/ns/net", "rb") as home, self.path.open("rb") as there:
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def attach(self, lan: int, address: str = "", *, rate: Rate = None, mac: str = "") -> "Nic":
        """One more interface, eth0 first; returns when it has a carrier. `address` is IPv4 or IPv6, with /PREFIX."""
        self.network.need_lan(lan)
        nic = Nic(self, len(self.nics), lan, address or f"10.77.{lan}.{self.number}/24")
        nic.plug_in(mac)
        self.nics.append(nic)
        nic.limit(rate)
        return nic


class Nic:
    """One interface of a host, `name` there and `port` at the switch."""

    def __init__(self, host: Host, index: int, lan: int, address: str) -> None:
        self.host = host
        self.lan = lan
        self.name = f"eth{index}"
        self.port = f"{host.serial}.{index}"
        #: Without and with the length of the prefix.
        self.address = address.partition("/")[0]
        self.interface_address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._switches = host.network.switches
        self._dropping = False

    def plug_in(self, mac: str = "") -> None:
        """Make the veth pair, once; `mac` is the interface's, the kernel's choice unless given."""
        _ip(
            self._switches,
            f"link add name {self.port} mtu {MTU_BYTES} type veth"
            f" peer name {self.name} mtu {MTU_BYTES} {f'address {mac}' if mac else ''} netns {self.host.namespace}",
            f"link set dev {self.port} addrgenmode none",
            f"link set dev {self.port} master lan{self.lan} up",
        )
        self._take_address()
        self.up()

    def down(self) -> None:
        """As the administrator of the host does: `ip link set eth0 down`."""
        _ip(self.host.namespace, f"link set dev {self.name} down")

    def up(self) -> None:
        """The reverse; returns when it has a carrier."""
        _ip(self.host.namespace, f"link set dev {self.name} up")
        # Going down takes an IPv6 address away.
        self._take_address()
        self._await_carrier()

    def unplug(self) -> None:
        """The cable is pulled: the interface stays up and loses its carrier."""
        _ip(self._switches, f"link set dev {self.port} down")

    def plug(self) -> None:
        """The reverse; returns when it has a carrier."""
        _ip(self._switches, f"link set dev {self.port} up")
        self._await_carrier()

    def blackhole(self, *, to_host: bool = True, from_host: bool = True) -> None:
        """The link stays up, with a carrier, and the switch drops every frame (or those of one direction)."""
        self.heal()
        _tc(self._switches, f"qdisc add dev {self.port} clsact")
        self._dropping = True
        # What the switch sends goes to the host.
        for hook, wanted in (("egress", to_host), ("ingress", from_host)):
            if wanted:
                _tc(self._switches, f"filter add dev {self.port} {hook} bpf direct-action bytecode", _DROP)

    def heal(self) -> None:
        """End a blackhole."""
        if self._dropping:
            _tc(self._switches, f"qdisc del dev {self.port} clsact")
        self._dropping = False

    def limit(self, rate: Rate) -> None:
        """Limit what the host sends and what it receives to the rate each; None lifts the limit."""
        for namespace, device in ((self.host.namespace, self.name), (self._switches, self.port)):
            if rate is None:
                if "tbf" in _tc(namespace, f"qdisc show dev {device} root"):
                    _tc(namespace, f"qdisc del dev {device} root")
            else:
                _tc(namespace, f"qdisc replace dev {device} root {_tbf(rate)}")

    def interpose(self) -> tuple[Host, Host]:
        """Two hosts between the interface and its LAN, for good; see testing/proxy.py.

        The first has the interface's address, and its MAC address so that no neighbour notices, and faces
        the LAN; the second faces the interface, from the last address of its network. What is to pass
        between them a program must pass on.
        """
        return self.host.network.interpose(self)

    def has_carrier(self) -> bool:
        return bool(self._link()["operstate"] == "UP")

    def mac(self) -> str:
        return str(self._link()["address"])

    def _link(self) -> dict[str, Any]:
        [link] = json.loads(_run("ip", "-n", self.host.namespace, "-json", "link", "show", "dev", self.name))
        return dict(link)

    def _take_address(self) -> None:
        # Without waiting for the duplicates of an IPv6 address there cannot be.
        nodad = " nodad" if self.family == socket.AF_INET6 else ""
        _ip(self.host.namespace, f"address replace {self.interface_address} dev {self.name}{nodad}")

    def _await_carrier(self) -> None:
        deadline = time.monotonic() + CARRIER_TIMEOUT_S
        while not self.has_carrier():
            if time.monotonic() > deadline:
                raise NetworkFailure(f"{self.host.name} {self.name} has no carrier after {CARRIER_TIMEOUT_S:g} s")
            time.sleep(POLL_S)


def bits_s(rate: str) -> float:
    """tc's 200mbit as a number of bits per second. Raises ValueError for what tc takes and this does not."""
    number, unit = rate[:-4], rate[-4:].lower()
    if unit not in _UNITS:
        raise ValueError(f"{rate!r} is not a number of kbit, mbit or gbit")
    return float(number) * _UNITS[unit]


def _tbf(rate: str) -> str:
    bytes_s = bits_s(rate) / 8
    burst = max(BURST_MIN_BYTES, round(bytes_s * BURST_S))
    queue = max(QUEUE_MIN_BYTES, round(bytes_s * QUEUE_S))
    return f"tbf rate {rate} burst {burst} limit {burst + queue}"


def remove_leftovers() -> None:
    """Namespaces whose maker is dead, with what still runs in them."""
    if not NAMESPACES.is_dir():
        return
    for name in sorted(os.listdir(NAMESPACES)):
        match = _NAME.fullmatch(name)
        if match and str(_started(int(match[1]))) != match[2]:
            # Another run may be removing it just now.
            with suppress(NetworkFailure):
                _remove(name)


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks after the boot (proc(5)); None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def _remove(namespace: str) -> None:
    """It ends with its last process, so those are killed; nothing else was ever started in it than through a host."""
    for pid in _processes(namespace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if (NAMESPACES / namespace).exists():
        _run("ip", "netns", "delete", namespace)


def _processes(namespace: str) -> Iterator[int]:
    for text in _run("ip", "netns", "pids", namespace).split():
        yield int(text)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(namespace: str, *lines: str) -> None:
    for line in lines:
        _run("ip", "-n", namespace, *line.split())


def _tc(namespace: str, line: str, *last: str) -> str:
    return _run("tc", "-n", namespace, *line.split(), *last)


def _run(*command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise NetworkFailure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)
