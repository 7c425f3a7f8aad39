"""Makes permanent numbers of files and volumes. They are made from names, so a restart does not change them."""

import hashlib

from meshfs.exporter.state.exporter import Exporter


def index_number(text: str) -> int:
    """Return a number of 64 bits for the name. It is never 0 or all ones, which stand for no number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little") << 1 | 2


def volume_serial(exporter: Exporter) -> int:
    """Return the serial number of the volume. All shares of an exporter are one volume."""
    return index_number(exporter.name) & 0xFFFFFFFF
