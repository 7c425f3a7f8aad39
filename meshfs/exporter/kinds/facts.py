"""Numbers that name files and volumes for good: they are made of names that stay, so a restart changes none of them."""

import hashlib

from meshfs.exporter.state.exporter import Exporter


def index_number(text: str) -> int:
    """A number of 64 bits for what has that name; never 0 or all ones, which stand for no number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little") << 1 | 2


def volume_serial(exporter: Exporter) -> int:
    """The serial number of the volume that all shares of an exporter are."""
    return index_number(exporter.name) & 0xFFFFFFFF
