"""Makes the list of network interfaces that an exporter advertises (MS-SMB2 3.3.5.15.11, 2.2.32.5). Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from meshfs import limits
from meshfs.linux.interfaces import Interface
from meshfs.smb.messages.ioctl import NetworkInterface


def offered(addresses: Iterable[str], interfaces: Iterable[Interface]) -> tuple[NetworkInterface, ...]:
    """Return an entry for each address of the config that is on an interface with a carrier, in the config's order.

    Other addresses of the machine are not advertised, because no exporter listens there.

    As in Samba, RSS_CAPABLE says that the device has several receive queues. Clients open several connections to an
    interface with this flag, and one connection to an interface without it. If some interfaces have the flag, Windows
    does not use the others. So a flag for all would have clients open connections that one core receives anyway. A flag
    for none would keep Windows at one connection, even to the fastest device.

    A link-local address is left out, because it means nothing without an interface of the client.
    """
    up = [each for each in interfaces if each.up and each.index != 0]
    entries: list[NetworkInterface] = []
    for address in dict.fromkeys(ip_address(text) for text in addresses):
        interface = _holder(address, up)
        if interface is None or (address.version == 6 and address.is_link_local):
            continue
        capability = NetworkInterface.RSS_CAPABLE if interface.rss else 0
        speed_bits_s = interface.speed_bits_s or limits.LINK_SPEED_ASSUMED_BITS_S
        entries.append(NetworkInterface(interface.index, address, speed_bits_s, capability))
    return tuple(entries[: limits.NETWORK_INTERFACES_MAX])


def _holder(address: IPv4Address | IPv6Address, interfaces: list[Interface]) -> Interface | None:
    """Return the interface that has the address, or None. Every address of 127.0.0.0/8 is on the loopback interface."""
    for each in interfaces:
        on_link = address.is_loopback and address in each.address.network
        if each.address.ip == address or on_link:
            return each
    return None
