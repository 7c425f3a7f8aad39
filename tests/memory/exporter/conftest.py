"""A disk of 1 MiB, and a client whose session may get further channels."""

import pytest

from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 20)


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    """Return a client of node n2 at an exporter of ``disk``. Its session may be bound to further channels."""
    return RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True)
