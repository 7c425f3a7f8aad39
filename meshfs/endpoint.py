"""Parse and format IP addresses and ADDRESS:PORT as administrators write them. Pure.

An address is refused if no exporter could listen at the address, or if no other node could reach it. Otherwise
listening would fail later, with an error of the kernel that names neither the file nor the reason.
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from typing import Final

ENDPOINT_RULE: Final = "ADDRESS:PORT, as 127.0.0.1:9464 or [::1]:9464"
_BROADCAST: Final = IPv4Address("255.255.255.255")


def parse_address(text: str) -> str:
    """Return the address of one network interface. Raises ValueError, whose text says what was expected instead."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("expected an IPv4 or IPv6 address") from None
    if address.is_unspecified:
        raise ValueError("expected an address of one network interface, not the address that means all of them")
    _check(address)
    return str(address)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return the IP address and the port. Raises ValueError, whose text says what was expected instead."""
    host, _, digits = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"expected {ENDPOINT_RULE}") from None
    if bracketed != (address.version == 6) or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"expected {ENDPOINT_RULE}")
    if not 1 <= int(digits) <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    _check(address)
    return str(address), int(digits)


def _check(address: IPv4Address | IPv6Address) -> None:
    """Refuse an address that no socket can be bound to, or that other nodes cannot connect to."""
    if address.is_multicast or address == _BROADCAST:
        kind = "multicast" if address.is_multicast else "broadcast"
        raise ValueError(f"expected an address of one network interface, not a {kind} address")
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        raise ValueError(f"expected the plain IPv4 address {address.ipv4_mapped}")
    if address.is_link_local:
        raise ValueError(
            "expected an address that is not link-local: one is valid only together with the name of a network "
            "interface (%eth0), which differs from node to node; give the interface a unique local address (fd00::/8)"
        )
    if address.scope_id is not None:
        raise ValueError(f"expected an address without a zone: {str(address).partition('%')[0]}")


def format_endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
