"""Hosts with several network interfaces on this machine: network namespaces, joined by switches.

    with Network() as network:
        n1 = network.host("n1", lans=2, rate="200mbit")     # eth0 10.77.0.1/24, eth1 10.77.1.1/24
        n2 = network.host("n2", lans=2, rate=["200mbit", "20mbit"])
        n1.run("curl", f"http://{n2.addresses[1]}/")
        n1.nics[0].down(); n1.nics[1].blackhole()

    n1 eth0 --veth-- port [bridge lan0] port --veth-- eth0 n2
    n1 eth1 --veth-- port [bridge lan1] port --veth-- eth1 n2       the bridges have a separate namespace

Every LAN is a separate network, 10.77.LAN.0/24. Its first host has the address .1, the second .2. No LAN is connected
to another one or to this machine's own interfaces. A program belongs to a host if it is started with the host's
`prefix` (nsenter). It still shares everything except the network with this machine, including Unix sockets. A socket
belongs to a host if it is made in `with host.entered():`.

The namespaces' names contain the process id, so that concurrent runs do not conflict. At the end of the block, all
processes in the namespaces are killed and the namespaces removed. If a run was killed, the next run removes its
namespaces. Root and iproute2 are required.
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
# Storage networks use jumbo frames. With them, 99 % of a rate is payload; with 1500 bytes it is 95.6 %.
MTU_BYTES: Final = 9000
# tc's token bucket filter (tbf): the bucket holds the bytes of 4 ms at the rate, because a busy machine is late by
# milliseconds, and at least two frames. Its queue holds 20 ms, like a switch's, and at least the bytes that TCP needs
# to find the rate.
BURST_S: Final = 0.004
BURST_MIN_BYTES: Final = 2 * MTU_BYTES
QUEUE_S: Final = 0.02
QUEUE_MIN_BYTES: Final = 8 * MTU_BYTES
# The first number of a private LAN, between an interface and the hosts that `interpose` puts before it. The hosts'
# own LANs have lower numbers.
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
    """A command that builds or changes the network failed. The text contains its output."""


class Network:
    """Holds the hosts that were made so far, and the namespace of their switches."""

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
        """Make a host with an interface in each of the first `lans` LANs, limited in both directions.

        `rate` is a rate of tc (200mbit), one for all interfaces or a list with one for each. None sets no limit; a veth
        then transfers tens of Gbit/s.
        """
        host = self._host(name, len(self.hosts) + 1)
        self.hosts[name] = host
        rates = [rate] * lans if rate is None or isinstance(rate, str) else rate
        for lan, each in zip(range(lans), rates, strict=True):
            host.attach(lan, rate=each)
        return host

    def close(self) -> None:
        """Remove all namespaces. A step that fails does not keep the others from running."""
        with ExitStack() as stack:
            for name in self._namespaces:
                stack.callback(_remove, name)
        self._namespaces, self.hosts = [], {}

    def interpose(self, nic: "Nic") -> tuple["Host", "Host"]:
        """Do the work of Nic.interpose."""
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
        """Make the LAN's bridge if it is missing.

        The bridge has no spanning tree, so that a port forwards at once, and it has no addresses.
        """
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
    """Simulates one host. `namespace` is the name of its network namespace, and `path` the file for setns(2)."""

    def __init__(self, network: Network, name: str, namespace: str, number: int, serial: int) -> None:
        self.name = name
        self.namespace = namespace
        self.path = NAMESPACES / namespace
        #: The last byte of the host's address in every LAN.
        self.number = number
        self.nics: list[Nic] = []
        self.network = network
        #: A number that no other host of the network has. It is part of the names of the host's ports at the switches.
        self.serial = serial

    @property
    def addresses(self) -> list[str]:
        """Return one address per interface, for the node's `addresses` in the config."""
        return [nic.address for nic in self.nics]

    @property
    def prefix(self) -> list[str]:
        """Return the words to put before a command that is to run on this host. Only the network differs."""
        return ["nsenter", f"--net={self.path}"]

    def command(self, *command: str | Path) -> list[str]:
        return [*self.prefix, *map(str, command)]

    def run(self, *command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command on the host, and return its standard output. Raises NetworkFailure when it fails."""
        return _run(*self.command(*command), timeout_s=timeout_s)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread into the namespace for the block. A socket made in the block stays there.

        The block must not await or fork, because other tasks and child processes would run in the namespace too.
        """
        with open("/proc/thread-self/ns/net", "rb") as home, self.path.open("rb") as there:
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def attach(self, lan: int, address: str = "", *, rate: Rate = None, mac: str = "") -> "Nic":
        """Add an interface, eth0 first, and return when it has a carrier. `address` is IPv4 or IPv6, with /PREFIX."""
        self.network.need_lan(lan)
        nic = Nic(self, len(self.nics), lan, address or f"10.77.{lan}.{self.number}/24")
        nic.plug_in(mac)
        self.nics.append(nic)
        nic.limit(rate)
        return nic


class Nic:
    """Simulates one interface of a host. It is called `name` on the host and `port` at the switch."""

    def __init__(self, host: Host, index: int, lan: int, address: str) -> None:
        self.host = host
        self.lan = lan
        self.name = f"eth{index}"
        self.port = f"{host.serial}.{index}"
        #: The address without, and below with, the length of the prefix.
        self.address = address.partition("/")[0]
        self.interface_address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._switches = host.network.switches
        self._dropping = False

    def plug_in(self, mac: str = "") -> None:
        """Make the veth pair, once. `mac` is the interface's MAC address; by default the kernel chooses it."""
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
        """Set the interface down, like the host's administrator with `ip link set eth0 down`."""
        _ip(self.host.namespace, f"link set dev {self.name} down")

    def up(self) -> None:
        """Set the interface up, and return when it has a carrier."""
        _ip(self.host.namespace, f"link set dev {self.name} up")
        # When an interface goes down, the kernel removes its IPv6 addresses.
        self._take_address()
        self._await_carrier()

    def unplug(self) -> None:
        """Pull the cable: the interface stays up and loses its carrier."""
        _ip(self._switches, f"link set dev {self.port} down")

    def plug(self) -> None:
        """Plug the cable in again, and return when the interface has a carrier."""
        _ip(self._switches, f"link set dev {self.port} up")
        self._await_carrier()

    def blackhole(self, *, to_host: bool = True, from_host: bool = True) -> None:
        """Make the switch drop every frame, or those of one direction. The link stays up and keeps its carrier."""
        self.heal()
        _tc(self._switches, f"qdisc add dev {self.port} clsact")
        self._dropping = True
        # The switch's egress is the direction to the host.
        for hook, wanted in (("egress", to_host), ("ingress", from_host)):
            if wanted:
                _tc(self._switches, f"filter add dev {self.port} {hook} bpf direct-action bytecode", _DROP)

    def heal(self) -> None:
        """End a blackhole."""
        if self._dropping:
            _tc(self._switches, f"qdisc del dev {self.port} clsact")
        self._dropping = False

    def limit(self, rate: Rate) -> None:
        """Limit sending to the rate, and receiving as well. If the rate is None, remove the limits."""
        for namespace, device in ((self.host.namespace, self.name), (self._switches, self.port)):
            if rate is None:
                if "tbf" in _tc(namespace, f"qdisc show dev {device} root"):
                    _tc(namespace, f"qdisc del dev {device} root")
            else:
                _tc(namespace, f"qdisc replace dev {device} root {_tbf(rate)}")

    def interpose(self) -> tuple[Host, Host]:
        """Put two hosts between the interface and its LAN, permanently; see smb/proxy.py.

        The first host faces the LAN. It has the interface's address, and also its MAC address, so that no neighbour
        notices the change. The second host faces the interface, and has the last address of the interface's network.
        Nothing passes between the two hosts unless a program relays it.
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
        # Skip the detection of duplicate IPv6 addresses, which takes time: there are no duplicates in these LANs.
        nodad = " nodad" if self.family == socket.AF_INET6 else ""
        _ip(self.host.namespace, f"address replace {self.interface_address} dev {self.name}{nodad}")

    def _await_carrier(self) -> None:
        deadline = time.monotonic() + CARRIER_TIMEOUT_S
        while not self.has_carrier():
            if time.monotonic() > deadline:
                raise NetworkFailure(f"{self.host.name} {self.name} has no carrier after {CARRIER_TIMEOUT_S:g} s")
            time.sleep(POLL_S)


def bits_s(rate: str) -> float:
    """Return a rate of tc, such as 200mbit, in bits per second. Raises ValueError for tc's other units."""
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
    """Remove the namespaces of runs whose process has ended, and kill the processes in them."""
    if not NAMESPACES.is_dir():
        return
    for name in sorted(os.listdir(NAMESPACES)):
        match = _NAME.fullmatch(name)
        if match and str(_started(int(match[1]))) != match[2]:
            # Another run may remove the same namespace at this moment.
            with suppress(NetworkFailure):
                _remove(name)


def _started(pid: int) -> int | None:
    """Return the start time of a process in clock ticks after boot (proc(5)), or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def _remove(namespace: str) -> None:
    """Kill all processes in a namespace, and delete it. Otherwise it would exist until its last process ends."""
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
