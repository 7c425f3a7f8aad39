"""A node whose session has one of everything, messages that pretend to be of that session, and what they change."""

from contextlib import suppress

from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import RemoteProtocolError
from meshfs.model import Security
from meshfs.smb.constants import (
    Command,
    Flags,
    NtStatus,
)
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    EchoRequest,
    FileId,
)
from meshfs.smb.wire import pack_header
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import framed, read_body, write_body
from support.bodies import request_bodies

SIZE_BYTES = 1 << 16
ECHO, CANCEL = EchoRequest().pack(), CancelRequest().pack()
SIGNED = int(Flags.SIGNED)


class World:
    """A node whose session has one of everything, and a session of another node on another connection."""

    def __init__(self, security: Security = Security.SIGN) -> None:
        self.disk = MemoryDisk(SIZE_BYTES)
        self.exporter = make_exporter(security, depth=1, disk0=self.disk)
        self.mine = RawInitiator(self.exporter).log_in("n2")
        self.foreign = RawInitiator(self.exporter).log_in("n3")
        client = self.mine
        self.file, self.root = client.open("disk0"), client.open("", 1)
        self.disk.stall()
        self.at_disk = client.send(Command.WRITE, write_body(self.file, 0, b"at the disk"))
        self.queued = client.send(Command.READ, read_body(self.file, 512, 512))
        self.notified = client.call(Command.CHANGE_NOTIFY, ChangeNotifyRequest(self.root_id, 4096, 0xFFF).pack())
        assert self.notified.status == NtStatus.PENDING
        client.call(Command.ECHO, ECHO, credits=100)

    @property
    def file_id(self) -> FileId:
        return FileId(self.file, self.file)

    @property
    def root_id(self) -> FileId:
        return FileId(self.root, self.root)

    def body(self, command: int) -> bytes:
        """Return a good body, so that no command fails before its session is checked."""
        return request_bodies(self.file_id, self.root_id).get(command, ECHO)

    def state(self) -> object:
        """Return all that a peer could change: sessions, opens, the disk, and the limits of the connection."""
        exporter, peer = self.exporter, self.mine.peer
        sessions = sorted(
            (
                session.id,
                session.state,
                session.user,
                sorted(session.trees),
                session.last_tree_id,
                [(each.file_id, each.channel_sequence, len(each.waits)) for each in session.opens.values()],
                len(session.channels),
                len(session.binding),
                len(session.logins),
                len(session.closing),
                session.preauth.value,
            )
            for session in exporter.sessions.values()
        )
        negotiated = peer.connection.negotiated
        return (
            sessions,
            bytes(self.disk.data),
            self.disk.in_flight,
            bool(exporter.disks.all()[0].locks),
            sorted(peer.waiting),
            sorted(peer.cancellable),
            sorted(peer.binds),
            len(exporter.peers),
            peer.window.limit,
            peer.received.frame_max_bytes,
            negotiated.preauth.value,
            negotiated.dialect,
            {name: count for name, count in exporter.counters.items() if name not in ALLOWED_COUNTERS},
        )


#: The counters of refusals.
ALLOWED_COUNTERS = {"bad_signatures", "cancels_refused", "binds_denied"}


def message(
    world: World, command: int, *, session_id: int, flags: int = 0, signed_by: RawInitiator | None = None
) -> bytearray:
    """Return a request without prefix, signed if ``signed_by`` is given. A CANCEL names the queued request."""
    client = world.mine
    if command == Command.CANCEL:
        message_id = world.queued
    else:
        message_id, client.next_id = client.next_id, client.next_id + 1
    flags |= SIGNED if signed_by is not None else 0
    made = bytearray(
        pack_header(
            command,
            message_id=message_id,
            session_id=session_id,
            tree_id=client.tree_id,
            credits=1,
            credit_charge=1,
            flags=flags,
        )
        + world.body(command)
    )
    if signed_by is not None:
        assert signed_by.security is not None
        client.connection.sign(made, signed_by.security)
    return made


def damaged(data: bytearray, at: int = 50) -> bytearray:
    data[at] ^= 1
    return data


def sealed(world: World, plain: bytearray, by: RawInitiator) -> bytearray:
    assert by.security is not None
    return bytearray(world.mine.connection.protect([plain], None, by.security))[FRAMING_BYTES:]


def ends(world: World, *parts: bytearray) -> bool:
    """Deliver messages in one frame, and return whether they end the connection."""
    with suppress(RemoteProtocolError):
        world.mine.deliver(framed(bytes(b"".join(parts))))
        return world.mine.peer.closing
    return True
