"""This machine's network interfaces, one entry per address, and notifications of their changes.

    list_interfaces     the interfaces as they are now
    InterfaceChanges    wakes a task when interfaces, addresses or routes change
    KnownInterfaces     both together: a list that a task keeps up to date

All three cover the network namespace of the process and need no privilege. They do not read /sys, because under
`nsenter --net` it still shows the interfaces of another namespace.

Sources: rtnetlink(7), netdevice(7), linux/ethtool.h.
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
# struct ethtool_channels: cmd, then max_rx, max_tx, max_other, max_combined, then the four counts in use.
_CHANNELS: Final = struct.Struct("=9I")
# struct ifreq with a pointer in its union.
_IFREQ: Final = struct.Struct("16sP16x")


@dataclass(frozen=True, slots=True)
class Interface:
    """Describes one address of a network interface. The hosts of ``address.network`` are on the same link."""

    name: str
    #: The kernel's number of the interface, which is never 0.
    index: int
    address: IPv4Interface | IPv6Interface
    #: 0 if the driver does not report a speed.
    speed_bits_s: int = 0
    #: True if the interface is up and has a carrier.
    up: bool = True
    rdma: bool = False
    #: Receive-side scaling: several receive queues, so that several cores can receive several connections.
    rss: bool = False


def list_interfaces() -> tuple[Interface, ...]:
    """Return every address except IPv6 link-local ones, sorted by the index of the interface.

    If an interface appears or disappears during the call, it is reported as down or left out.
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
    """Declares the fields of psutil's snicstats that this module reads. ``speed`` is in Mbit/s."""

    speed: int
    flags: str


def _state(stats: _Stats | None) -> tuple[bool, int]:
    """Return whether the interface is up with a carrier, and its speed in bit/s.

    IFF_RUNNING reports the carrier. IFF_UP alone only says that the administrator has enabled the interface.
    """
    if stats is None:
        return False, 0
    return {"up", "running"} <= set(stats.flags.split(",")), stats.speed * 1_000_000


def _interface_of(entry: Any) -> IPv4Interface | IPv6Interface | None:
    """Return psutil's snicaddr as an address with its network, or None for other families and link-local addresses."""
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
    """Return how many receive queues the device uses (as ethtool -l does), or 1 if the driver does not report them."""
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
    """Wakes a task when a link, an address or a route of this network namespace changes.

    Changes count from the moment the object is created. So create it first, then call list_interfaces, and call
    list_interfaces again after each wait(). The notification does not say what changed. Raises OSError if the
    kernel does not give a netlink socket.
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
        """Close the socket. A wait() in progress raises trio.ClosedResourceError."""
        if self._socket.fileno() != -1:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def wait(self) -> None:
        """Wait for a change since the last wait() returned. Changes within INTERFACES_SETTLE_S count as one.

        If a wait is cancelled, no change is lost: the next wait returns for it.
        """
        await trio.lowlevel.wait_readable(self._socket)
        await trio.sleep(limits.INTERFACES_SETTLE_S)
        self._drain()

    def _drain(self) -> None:
        """Drop the waiting messages, at most INTERFACE_MESSAGES_MAX of them. The rest ends the next wait at once."""
        for _ in range(limits.INTERFACE_MESSAGES_MAX):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                # More messages came than the socket holds. Their content is lost, but only their arrival matters.
                if error.errno != errno.ENOBUFS:
                    raise


def is_here(address: str, interfaces: Iterable[Interface]) -> bool:
    """Return whether connections to ``address`` can arrive at one of ``interfaces``.

    An address of loopback's network counts as here, because loopback accepts the whole network.
    """
    ip = ip_address(address)
    return any(
        ip == known.address.ip or (known.address.ip.is_loopback and ip in known.address.network) for known in interfaces
    )


class KnownInterfaces:
    """Holds the list of interfaces as of the last change.

    Code that must not block reads `current` here: list_interfaces uses an ioctl, which waits for the kernel's
    network lock.
    """

    def __init__(self) -> None:
        self._changes = InterfaceChanges()
        self.current = list_interfaces()
        self._changed = trio.Event()

    def close(self) -> None:
        self._changes.close()

    async def run(self) -> None:
        """Keep `current` up to date until cancelled. It lags by INTERFACES_SETTLE_S plus the kernel's response time."""
        while True:
            await self._changes.wait()
            now = await self._look()
            if now != self.current:
                self.current = now
                changed, self._changed = self._changed, trio.Event()
                changed.set()

    async def _look(self) -> tuple[Interface, ...]:
        """List the interfaces, and retry until that succeeds.

        Listing needs a file descriptor. While the process has no free one, `current` stays as it was.
        """
        while True:
            try:
                return await trio.to_thread.run_sync(list_interfaces)
            except OSError as error:
                logger.warning("cannot look at the network interfaces: %s", error)
            await trio.sleep(limits.INTERFACES_RETRY_S)

    async def changed_from(self, seen: tuple[Interface, ...]) -> tuple[Interface, ...]:
        """Wait until the current list differs from ``seen``, and return it."""
        while self.current == seen:
            await self._changed.wait()
        return self.current
