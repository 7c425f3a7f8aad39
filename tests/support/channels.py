"""Further channels of a session, and further sessions of a connection, at an exporter in memory."""

from meshfs.exporter.state.exporter import Exporter
from meshfs.smb.messages import CloseRequest, FileId
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator


def connect(exporter: Exporter, **negotiation) -> RawInitiator:
    """Return a client that has negotiated and is not logged in."""
    client = RawInitiator(exporter)
    client.negotiate(**negotiation)
    return client


def channel_of(client: RawInitiator, **negotiation) -> RawInitiator:
    """Return a further channel of the client's session."""
    channel = RawInitiator(client.exporter)
    second_channel(client, channel, **negotiation)
    return channel


def second_session(client: RawInitiator, user: str = "n3") -> RawInitiator:
    """Log another user in on the connection of ``client``. Return a client of that session, which takes its replies."""
    second = RawInitiator(client.exporter)
    second.peer, second.engine = client.peer, client.engine
    second.connection, second.preauth = client.connection, client.preauth
    second.replies, second.next_id = client.replies, client.next_id
    assert second.set_up(user).status == 0
    second.sealed = client.sealed
    second.connect("disks")
    client.next_id = second.next_id
    return second


def session_of(client: RawInitiator):
    return client.exporter.sessions[client.session_id]


def close_body(file_id: int) -> bytes:
    return CloseRequest(FileId(file_id, file_id)).pack()
