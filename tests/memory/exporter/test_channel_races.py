"""Channels that come and go in random order: the exporter's tables agree, and at the end nothing is left."""

import random

import pytest

from meshfs import limits
from meshfs.exporter.state.exporter import Exporter
from meshfs.smb.constants import Command, Flags, NtStatus
from meshfs.smb.messages import CloseRequest, EchoRequest, FileId, LockElement, LockRequest, LogoffRequest
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_binding import RawBind
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body

STEPS = 150
CONNECTIONS_MAX = 8
BLOCK = 512
#: What a request may be answered with while sessions and opens vanish under it.
EXPECTED = {
    0,
    NtStatus.PENDING,
    NtStatus.MORE_PROCESSING_REQUIRED,
    NtStatus.USER_SESSION_DELETED,
    NtStatus.FILE_CLOSED,
    NtStatus.NETWORK_NAME_DELETED,
    NtStatus.FILE_NOT_AVAILABLE,
    NtStatus.REQUEST_NOT_ACCEPTED,
    NtStatus.CANCELLED,
    NtStatus.LOGON_FAILURE,
    NtStatus.ACCESS_DENIED,
    NtStatus.RANGE_NOT_LOCKED,
    NtStatus.FILE_LOCK_CONFLICT,
    NtStatus.INSUFFICIENT_RESOURCES,
    NtStatus.NOT_SUPPORTED,
}


def check_tables(exporter: Exporter) -> None:
    for session_id, session in exporter.sessions.items():
        assert session.id == session_id
        assert session.peer in session.channels or not session.user
        for peer, security in session.channels.items():
            assert not peer.closed
            assert peer.sessions[session_id] is session
            assert peer.connection.security[session_id] is security
        for peer in session.binding:
            assert session_id in peer.binds
        assert set(session.logins) <= {session.peer, *session.channels}
    for peer in exporter.peers:
        assert set(peer.sessions) <= set(exporter.sessions)
        assert set(peer.connection.security) <= set(peer.sessions)
        for session_id in peer.binds:
            assert peer in exporter.sessions[session_id].binding


class World:
    """Connections of node n2 that log in, bind, work and end at random, as the seed says."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = MemoryDisk(1 << 16)
        self.exporter = make_exporter(depth=2, disk0=self.disk)
        self.clients: list[RawInitiator] = []
        self.binds: list[RawBind] = []
        self.file_ids = [0]
        #: Of each connection what it was logged in with last, to name as the previous session.
        self.session_ids = [0]
        self.bound = 0

    def client(self, *, logged_in: bool = True) -> RawInitiator | None:
        fitting = [client for client in self.clients if (client.security is not None) is logged_in]
        return self.rng.choice(fitting) if fitting else None

    def send(self, client: RawInitiator, command: int, body: bytes, **header: int) -> None:
        client.send(command, body, credits=4, **header)
        self.collect(client)

    def collect(self, client: RawInitiator) -> None:
        client.collect()
        for reply in client.replies:
            assert reply.status in EXPECTED, hex(reply.status)
        client.replies.clear()

    # --- what may happen ---------------------------------------------------------------

    def connect(self) -> None:
        if len(self.clients) >= CONNECTIONS_MAX:
            return
        client = RawInitiator(self.exporter)
        client.negotiate()
        client.call(Command.ECHO, EchoRequest().pack(), credits=16, sign=False, session_id=0)
        self.clients.append(client)

    def log_in(self) -> None:
        client = self.client(logged_in=False)
        if client is None or client.peer.binds:
            return
        previous = self.rng.choice(self.session_ids)
        password = None if self.rng.random() < 0.8 else "wrong"
        client.skip_ids(limits.BIND_MESSAGE_IDS)
        reply = client.set_up("n2", password, previous=previous)
        assert reply.status == (0 if password is None else NtStatus.LOGON_FAILURE)
        if reply.status:
            return
        self.session_ids.append(client.session_id)
        client.connect("disks")
        # What earlier sessions have at the disk has to end first.
        self.disk.release()
        self.file_ids.append(client.open("disk0"))

    def log_in_again(self) -> None:
        client = self.client()
        if client is not None and client.session_id in client.peer.sessions:
            # A refusal ends the session, and waits for its work.
            self.disk.release()
            client.set_up("n2", None if self.rng.random() < 0.8 else "wrong")
            client.replies.clear()

    def begin_bind(self) -> None:
        client, session = self.client(logged_in=False), self.client()
        if client is not None and session is not None and not client.peer.sessions:
            self.binds.append(RawBind(client, session, self.rng.choice(("n2", "n2", "n2", "n3"))))
            self.step_bind(self.binds[-1])

    def go_on_binding(self) -> None:
        if self.binds:
            self.step_bind(self.rng.choice(self.binds))

    def step_bind(self, exchange: RawBind) -> None:
        if exchange.client not in self.clients or exchange.client.security is not None:
            self.binds.remove(exchange)
            return
        reply = exchange.step()
        assert reply.status in EXPECTED, hex(reply.status)
        if reply.status != NtStatus.MORE_PROCESSING_REQUIRED:
            self.binds.remove(exchange)
            self.bound += not reply.status

    def lose(self) -> None:
        if self.clients:
            client = self.clients.pop(self.rng.randrange(len(self.clients)))
            client.peer.lost()

    def log_off(self) -> None:
        client = self.client()
        if client is not None and self.rng.random() < 0.3:
            self.send(client, Command.LOGOFF, LogoffRequest().pack())

    def forget(self) -> None:
        """Let a client whose session has ended start again on the same connection."""
        client = self.client()
        if client is not None and client.session_id not in client.peer.sessions:
            client.session_id, client.security, client.session_security = 0, None, None

    def work(self) -> None:
        client = self.client()
        if client is None:
            return
        file_id, offset = self.rng.choice(self.file_ids[-3:]), self.rng.randrange(64) * BLOCK
        replay = self.rng.choice((0, 0, int(Flags.REPLAY_OPERATION)))
        kind = self.rng.randrange(4)
        if kind == 0:
            self.send(client, Command.READ, read_body(file_id, offset, BLOCK), sequence=self.rng.randrange(3))
        elif kind in (1, 2):
            body = write_body(file_id, offset, self.rng.randbytes(BLOCK))
            self.send(client, Command.WRITE, body, sequence=self.rng.randrange(3), flags=replay)
        else:
            lock = LockElement(offset, BLOCK, self.rng.choice((2, 4)))
            self.send(client, Command.LOCK, LockRequest(FileId(file_id, file_id), (lock,)).pack())

    def close(self) -> None:
        client = self.client()
        if client is not None and self.rng.random() < 0.5:
            file_id = self.rng.choice(self.file_ids)
            self.send(client, Command.CLOSE, CloseRequest(FileId(file_id, file_id)).pack())

    def hold(self) -> None:
        self.disk.stall(lambda request: request.offset % (4 * BLOCK) == 0)

    def release(self) -> None:
        self.disk.release()
        for client in self.clients:
            self.collect(client)

    def run(self) -> None:
        happenings = [
            *[self.connect] * 3,
            *[self.log_in] * 2,
            self.log_in_again,
            *[self.begin_bind] * 3,
            *[self.go_on_binding] * 4,
            self.lose,
            self.log_off,
            self.forget,
            *[self.work] * 6,
            self.close,
            self.hold,
            self.release,
        ]
        for _ in range(STEPS):
            self.rng.choice(happenings)()
            check_tables(self.exporter)
        while self.clients:
            self.lose()
            check_tables(self.exporter)
        self.disk.release()


@pytest.mark.parametrize("block", range(8))
def test_channels_in_any_order_leave_nothing_behind(block):
    bound = lost = 0
    for seed in range(block * 10, block * 10 + 10):
        world = World(seed)
        world.run()
        exporter = world.exporter
        assert not exporter.sessions
        assert not exporter.peers
        assert not exporter.sessions._ending
        assert not exporter.disks.all()[0].opens
        assert not exporter.disks.all()[0].lock_waiters
        assert world.disk.in_flight == 0
        assert exporter.pool.used_bytes == 0
        bound += world.bound
        lost += exporter.counters["channels_lost"]
    # The random steps did make channels and lose some.
    assert bound > 5
    assert lost > 0
