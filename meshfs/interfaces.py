"""This machine's network interfaces, one entry per address, and news of their changes."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface


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
