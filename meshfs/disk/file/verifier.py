"""The write verifier of a disk: when it changed, acknowledged writes may be lost.

As NFS's (RFC 1813 3.3.7): a caller that remembers the verifier of its unflushed writes and
finds another one at its next flush knows that they may never have reached the disk.
"""

import hashlib
from pathlib import Path


def make_verifier(identity: str, instance: str = "") -> str:
    """The write verifier: changes with a boot of this machine, and with the disk.

    ``instance`` is for a disk whose cache is the process's own, and dies with it.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.sha256(f"{boot_id}\0{identity}\0{instance}".encode()).hexdigest()
