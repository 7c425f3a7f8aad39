"""Makes permanent numbers of files and volumes, and the times of a file.

The numbers are made from names, so a restart does not change them.
"""

import hashlib

from meshfs.exporter.state.exporter import Exporter
from meshfs.smb.messages import FileTimes, filetime


def index_number(text: str) -> int:
    """Return a number of 64 bits for the name. It is never 0 or all ones, which stand for no number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little") << 1 | 2


def volume_serial(exporter: Exporter) -> int:
    """Return the serial number of the volume. All shares of an exporter are one volume."""
    return index_number(exporter.name) & 0xFFFFFFFF


def times_of_change(started: int, changed_ns: int) -> FileTimes:
    """Return the times of a disk or an enclosure. All follow from the last change, because a read leaves no trace.

    ``started`` is the FILETIME at which the exporter started. It is the creation time, unless the last change was
    before that, and the time of the last change if ``changed_ns`` is 0.
    """
    changed = filetime(changed_ns) if changed_ns else started
    return FileTimes(min(started, changed), changed, changed, changed)
