"""Compute the write verifier of a disk. If the verifier has changed, acknowledged writes may be lost.

The verifier works as in NFS (RFC 1813 3.3.7). A caller remembers the verifier of its unflushed writes. If its next
flush returns another verifier, those writes may never have reached the disk.
"""

import hashlib
from pathlib import Path


def make_verifier(identity: str, instance: str = "") -> str:
    """Compute a write verifier. It changes with each boot of this machine, with ``identity``, and with ``instance``.

    ``identity`` is the identity of the disk. ``instance`` is the seed that changes after a loss.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.sha256(f"{boot_id}\0{identity}\0{instance}".encode()).hexdigest()
