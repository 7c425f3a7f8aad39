"""This machine's network interfaces, one entry per address, and news of their changes.

    list_interfaces     as they are now
    InterfaceChanges    a bell for changes
    KnownInterfaces     both together: the list kept up to date by a task

All are of the network namespace the process is in, need no privilege, and read nothing of
/sys, which goes on showing another namespace's interfaces under `nsenter --net`.
"""

import array
import errno
import fcntl
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from types import TracebackType
from typing import Any, Final, Protocol, Self

import psutil
import trio

from meshfs import limits

logger = logging.getLogger(__name__)

# linux/rtnetlink.h: links, addresses and routes of both families.
_RTMGRP: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
# linux/sockios.h, linux/ethtool.h.
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GCHANNELS: Final = 0x3C
# struct ethtool_channels: cmd, then max_rx, max_tx, max_other, max_combined and the four that are in use.
_CHANNELS: Final = struct.Struct("=9I")
# struct ifreq with a pointer in its union.
_IFREQ: Final = struct.Struct("16sP16x")


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of a network interface, with the network it is in (``address.network`` is on the link)."""

    name: str
    #: The kernel's number of it; never 0.
    index: int
    address: IPv4Interface | IPv6Interface
    #: 0 where the driver does not tell.
    speed_bits_s: int = 0
    #: Up, and with a carrier.
    up: bool = True
    rdma: bool = False
    #: Several receive queues, so that several connections are received by several cores.
    rss: bool = False


def list_interfaces() -> tuple[Interface, ...]:
    """Every address there is but IPv6 link-local ones, by the interfaces' numbers.

    An interface that comes or goes meanwhile is told as down, or not at all.
    """
    stats = psutil.net_if_stats()
    found: list[Interface] = []
    for label, addresses in psutil.net_if_addrs().items():
        # An IPv4 address may have a label of its own, as eth0:1.
        name = label.partition(":")[0]
        usable = [each for each in map(_interface_of, addresses) if each is not None]
        if not usable:
            continue
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            continue
        up, speed_bits_s = _state(stats.get(name))
        rss = _receive_queues(name) > 1
        found.extend(Interface(name, index, address, speed_bits_s, up, rss=rss) for address in usable)
    return tuple(sorted(found, key=lambda each: each.index))


class _Stats(Protocol):
    """What is used of psutil's snicstats."""

    speed: int
    flags: str


def _state(stats: _Stats | None) -> tuple[bool, int]:
    """Whether it is up with a carrier, and its speed.

    IFF_RUNNING is the kernel's word for the carrier: without it IFF_UP only tells what the administrator wants.
    """
    if stats is None:
        return False, 0
    return {"up", "running"} <= set(stats.flags.split(",")), stats.speed * 1_000_000


def _interface_of(entry: Any) -> IPv4Interface | IPv6Interface | None:
    """psutil's snicaddr as address and network; None for other families and link-local addresses."""
    if entry.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = ip_interface(entry.address)
    if address.version == 6 and address.is_link_local:
        return None
    if entry.netmask is None:
        return address
    mask = int.from_bytes(socket.inet_pton(entry.family, entry.netmask))
    return ip_interface((entry.address, mask.bit_count()))


def _receive_queues(name: str) -> int:
    """How many the device uses (ethtool -l); 1 where the driver does not tell."""
    channels = array.array("B", _CHANNELS.pack(_ETHTOOL_GCHANNELS, *[0] * 8))
    request = _IFREQ.pack(name.encode(), channels.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return 1
    _, _, _, _, _, receive, _, _, combined = _CHANNELS.unpack(channels)
    return max(1, int(receive) + int(combined))


class InterfaceChanges:
    """A bell that rings when a link, an address or a route of this namespace changed.

    It rings from the moment it is made, so: make it, look, and look again after each wait().
    What changed is not told; list_interfaces tells what is. Raises OSError where the kernel
    gives no netlink socket.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, _RTMGRP))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """A wait() under way ends with trio.ClosedResourceError."""
        if self._socket.fileno() != -1:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def wait(self) -> None:
        """Until something changed since the last wait() returned; changes that come together are one.

        A cancelled wait has taken nothing: the next one returns for what rang meanwhile.
        """
        await trio.lowlevel.wait_readable(self._socket)
        await trio.sleep(limits.INTERFACES_SETTLE_S)
        self._drain()

    def _drain(self) -> None:
        """Take what is there, and leave off at a flood: the rest rings again."""
        for _ in range(limits.INTERFACE_MESSAGES_MAX):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                # More came than the socket holds: some of it is lost, that it came is not.
                if error.errno != errno.ENOBUFS:
                    raise


def is_here(address: str, interfaces: Iterable[Interface]) -> bool:
    """Whether connections to the address can come in at one of them; loopback has its whole network."""
    ip = ip_address(address)
    return any(
        ip == known.address.ip or (known.address.ip.is_loopback and ip in known.address.network) for known in interfaces
    )


class KnownInterfaces:
    """The list as of the last change, for those who must not wait for the kernel's network lock, which ioctl takes."""

    def __init__(self) -> None:
        self._changes = InterfaceChanges()
        self.current = list_interfaces()
        self._changed = trio.Event()

    def close(self) -> None:
        self._changes.close()

    async def run(self) -> None:
        """Keep `current` true until cancelled; it lags behind by INTERFACES_SETTLE_S and the kernel's answer."""
        while True:
            await self._changes.wait()
            now = await self._look()
            if now != self.current:
                self.current = now
                changed, self._changed = self._changed, trio.Event()
                changed.set()

    async def _look(self) -> tuple[Interface, ...]:
        """A look needs a file descriptor, and a process without a free one goes on without news until it has one."""
        while True:
            try:
                return await trio.to_thread.run_sync(list_interfaces)
            except OSError as error:
                logger.warning("cannot look at the network interfaces: %s", error)
            await trio.sleep(limits.INTERFACES_RETRY_S)

    async def changed_from(self, seen: tuple[Interface, ...]) -> tuple[Interface, ...]:
        """The current list, once it is another than the one seen."""
        while self.current == seen:
            await self._changed.wait()
        return self.current
