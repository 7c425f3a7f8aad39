"""A disk of 1 MiB, and a client whose session may get further channels, with enough credits for most tests."""

import pytest

from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 20)


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    """Return a client of node n2 at an exporter of ``disk``. Its session may be bound to further channels."""
    client = RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True)
    client.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return client


@pytest.fixture
def file_id(client: RawInitiator) -> int:
    """Open disk0, and return the file id."""
    return client.open("disk0")


@pytest.fixture
def channel(client: RawInitiator) -> RawInitiator:
    """Return a further channel of the client's session."""
    channel = RawInitiator(client.exporter)
    second_channel(client, channel)
    channel.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return channel
