"""Further channels of a session at an exporter in memory."""

import pytest

from meshfs.exporter.state.exporter import Exporter
from meshfs.smb.messages import (
    CloseRequest,
    FileId,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 20)


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    return RawInitiator(make_exporter(disk0=disk)).log_in(to_be_bound=True)


def connect(exporter: Exporter, **negotiation) -> RawInitiator:
    """A connection that has negotiated and no more."""
    client = RawInitiator(exporter)
    client.negotiate(**negotiation)
    return client


def channel_of(client: RawInitiator, **negotiation) -> RawInitiator:
    channel = RawInitiator(client.exporter)
    second_channel(client, channel, **negotiation)
    return channel


def session_of(client: RawInitiator):
    return client.exporter.sessions[client.session_id]


def close_body(file_id: int) -> bytes:
    return CloseRequest(FileId(file_id, file_id)).pack()
