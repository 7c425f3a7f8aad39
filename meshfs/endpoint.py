"""ADDRESS:PORT as administrators write it; pure."""

import ipaddress
from typing import Final

ENDPOINT_RULE: Final = "ADDRESS:PORT, as 127.0.0.1:9464 or [::1]:9464"


def parse_endpoint(text: str) -> tuple[str, int]:
    """The IP address and the port. Raises ValueError when it is anything but ENDPOINT_RULE."""
    host, _, digits = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    if bracketed != (address.version == 6) or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} is not {ENDPOINT_RULE}")
    if address.is_multicast or not 1 <= int(digits) <= 65535:
        raise ValueError(f"{text!r} has no address and port to listen at")
    return str(address), int(digits)


def format_endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
