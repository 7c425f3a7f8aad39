"""What all tests in the guest need: programs that start quickly, and time-outs for an emulated machine."""

import subprocess
from collections.abc import Iterator

import pytest

from meshfs import limits
from meshlab.cluster import cluster
from meshlab.shelf.shelf import Shelf

#: Emulated processors are ten to fifty times slower than the machine's own.
START_TIMEOUT_S = 120.0
#: For blkid, and for each look at the disks of the machine.
EXAMINED_WITHIN_S = 30.0


@pytest.fixture(scope="session", autouse=True)
def _emulated() -> Iterator[None]:
    from support.forked import ForkingPopen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", ForkingPopen)
        patch.setattr(limits, "BLKID_TIMEOUT_S", EXAMINED_WITHIN_S)
        patch.setattr(limits, "DISCOVERY_TIMEOUT_S", EXAMINED_WITHIN_S + 5)
        patch.setattr(cluster, "START_TIMEOUT_S", START_TIMEOUT_S)
        patch.setattr(cluster, "STOP_TIMEOUT_S", START_TIMEOUT_S)
        yield


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    """Run a shelf of eight empty slots, whose enclosure and disks the kernel attaches as SCSI devices.

    With vfork, a thread that starts a program waits with Python's lock held until the program has closed all files. If
    one of them is on the mesh, its close waits for writes to disks of the shelf. The shelf's thread needs that lock.
    """
    with pytest.MonkeyPatch.context() as patch, Shelf(slots=8) as shelf:
        patch.setattr(subprocess, "_USE_VFORK", False)
        yield shelf
    assert shelf.errors == []
