"""What all tests in the guest need: programs that start quickly, and time-outs for an emulated machine."""

import subprocess
from collections.abc import Iterator

import pytest

from meshlab.cluster import cluster
from meshlab.shelf.shelf import Shelf

#: Emulated processors are ten to fifty times slower than the machine's own.
START_TIMEOUT_S = 120.0


@pytest.fixture(scope="session", autouse=True)
def _emulated() -> Iterator[None]:
    from support.forked import ForkingPopen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", ForkingPopen)
        patch.setattr(cluster, "START_TIMEOUT_S", START_TIMEOUT_S)
        patch.setattr(cluster, "STOP_TIMEOUT_S", START_TIMEOUT_S)
        yield


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    """Run a shelf of eight empty slots, whose enclosure and disks the kernel attaches as SCSI devices."""
    with Shelf(slots=8) as shelf:
        yield shelf
    assert shelf.errors == []
