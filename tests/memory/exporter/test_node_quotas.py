"""No node takes the connections, sessions or memory of another. Where it matters, the tests use real sockets."""

import socket
import time
from contextlib import ExitStack, asynccontextmanager, suppress

import trio

from meshfs import limits
from meshfs.exporter.serving.listener import Listener
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.messages import EchoRequest, LogoffRequest
from meshfs.transport.listening import listen_unix
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.frames import prefix
from meshlab.smb.raw_binding import bind
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.waiting import until

ECHO = EchoRequest().pack()
MIB = limits.MIB
in_thread = trio.to_thread.run_sync


# --- connections and sessions -----------------------------------------------------------


def connect(exporter):
    client = RawInitiator(exporter)
    client.negotiate()
    return client


def logged_in(exporter, user="n2"):
    client = RawInitiator(exporter)
    return client.log_in(user, to_be_bound=True)


def test_a_node_that_takes_all_its_sessions_leaves_others_theirs():
    exporter = make_exporter()
    exporter.usage.sessions_max = 5
    exporter.usage.connections_max = 100
    clients = [logged_in(exporter) for _ in range(5)]
    one_more = connect(exporter)
    assert one_more.set_up("n2").status == NtStatus.INSUFFICIENT_RESOURCES
    assert exporter.counters["node_limits_reached"] == 1
    assert exporter.counters["logins_denied"] == 0
    logged_in(exporter, "n3")
    # A session that replaces another one needs no more room, and room that is given back may be taken again.
    assert one_more.set_up("n2", previous=clients[0].session_id).status == 0
    assert clients[1].call(Command.LOGOFF, LogoffRequest().pack()).status == 0
    logged_in(exporter)
    assert connect(exporter).set_up("n2").status == NtStatus.INSUFFICIENT_RESOURCES


def test_a_node_that_takes_all_its_connections_leaves_others_theirs():
    exporter = make_exporter()
    exporter.usage.connections_max = 4
    clients = [logged_in(exporter) for _ in range(3)]
    channel = connect(exporter)
    assert bind(channel, clients[0]).status == 0
    assert bind(connect(exporter), clients[0]).status == NtStatus.INSUFFICIENT_RESOURCES
    assert connect(exporter).set_up("n2").status == NtStatus.INSUFFICIENT_RESOURCES
    logged_in(exporter, "n3")
    channel.peer.lost()
    assert bind(connect(exporter), clients[0]).status == 0
    assert exporter.usage.of("n2").connections == 4
    for client in list(exporter.peers):
        client.lost()
    assert [(each.connections, each.sessions) for each in exporter.usage.all()] == [(0, 0), (0, 0)]


def test_a_further_session_on_a_connection_is_no_further_connection():
    exporter = make_exporter()
    exporter.usage.connections_max = 1
    client = connect(exporter)
    for _ in range(2):
        client.security, client.session_id = None, 0
        assert client.set_up("n2").status == 0
    assert (exporter.usage.of("n2").connections, exporter.usage.of("n2").sessions) == (1, 2)


# --- memory ------------------------------------------------------------------------------


@asynccontextmanager
async def serving(tmp_path, disk, *, max_bytes, per_node_min_bytes):
    path = tmp_path / "n1.sock"
    exporter = make_exporter(disk0=disk)
    exporter.memory.max_bytes, exporter.memory.per_node_min_bytes = max_bytes, per_node_min_bytes
    with listen_unix(path) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Listener(exporter, [listening]).run)
            yield exporter, str(path)
            nursery.cancel_scope.cancel()
    assert exporter.pool.used_bytes == 0
    assert all(each.memory.used_bytes == 0 for each in (exporter.usage.strangers, *exporter.usage.all()))


class Highest:
    """Watches the pool while a block runs, and keeps the most bytes that were in use."""

    def __init__(self, exporter, nursery):
        self.used_bytes = 0
        #: It is set once a connection had to wait for memory.
        self.wanted = False
        self._exporter = exporter
        nursery.start_soon(self._watch)

    async def _watch(self):
        while True:
            self.used_bytes = max(self.used_bytes, self._exporter.pool.used_bytes)
            self.wanted |= self._exporter.memory.wanted
            await trio.sleep(0.001)


def use(path, user):
    """Log in as another node, write and read."""
    with SocketInitiator(path, timeout_s=60) as client:
        client.log_in(user)
        file_id = client.open("disk0")
        data = bytes(range(256)) * 4096
        assert client.call(Command.ECHO, ECHO, credits=500).status == 0
        assert client.call(Command.WRITE, write_body(file_id, 0, data), charge=16, credits=16).status == 0
        assert client.call(Command.READ, read_body(file_id, 0, len(data)), charge=16, credits=16).data == data


#: A batch that begins below the threshold may take CREDITS_MAX of payload and one large frame beyond it.
BATCH_BYTES = 2 * limits.CREDITS_MAX * limits.CREDIT_BYTES


async def test_connections_of_one_node_that_read_nothing_hold_a_bounded_part(tmp_path, monkeypatch):
    # Also on a slow machine, the exporter does not drop the clients before they read.
    monkeypatch.setattr(limits, "CONNECTION_DEAD_AFTER_S", 1000.0)
    disk = MemoryDisk(16 * MIB)
    async with serving(tmp_path, disk, max_bytes=64 * MIB, per_node_min_bytes=8 * MIB) as (exporter, path):

        def ask_for_20_mib(client, file_id):
            return [client.send(Command.READ, read_body(file_id, 0, MIB), charge=16, credits=16) for _ in range(20)]

        async with trio.open_nursery() as nursery:
            highest = Highest(exporter, nursery)
            opened = [await in_thread(open_disk, path) for _ in range(20)]
            clients = [(client, await in_thread(ask_for_20_mib, client, file_id)) for client, file_id in opened]
            await until(lambda: highest.wanted, 120)
            await in_thread(use, path, "n3")
            assert highest.used_bytes < 64 * MIB + BATCH_BYTES
            # Nothing was refused. All requests are answered when the clients read.

            def fetch(client, ids):
                with client:
                    assert [len(client.take(each).data) for each in ids] == [MIB] * len(ids)

            async with trio.open_nursery() as fetching:
                for client, ids in clients:
                    fetching.start_soon(in_thread, fetch, client, ids)
            assert highest.used_bytes < 64 * MIB + BATCH_BYTES
            nursery.cancel_scope.cancel()


async def test_an_announcement_of_a_large_message_takes_no_memory(tmp_path):
    disk = MemoryDisk(MIB)
    async with serving(tmp_path, disk, max_bytes=64 * MIB, per_node_min_bytes=8 * MIB) as (exporter, path):
        with ExitStack() as clients:
            for _ in range(50):
                client = clients.enter_context(await in_thread(SocketInitiator(path).log_in, "n2"))
                client.socket.sendall(prefix(limits.FRAME_MAX_BYTES) + b"\xfeSMB" + bytes(8))
            await until(lambda: all(peer.received.missing_bytes for peer in exporter.peers), 120)
            assert exporter.pool.used_bytes == 0


def write_frame(client, file_id):
    data = bytes(8 * MIB)
    _, frame = client.pack(Command.WRITE, write_body(file_id, 0, data), charge=128, credits=128)
    return frame


async def test_half_messages_hold_a_bounded_part_and_end_when_their_memory_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONNECTION_DEAD_AFTER_S", 1.0)
    disk = MemoryDisk(16 * MIB)
    async with (
        serving(tmp_path, disk, max_bytes=64 * MIB, per_node_min_bytes=8 * MIB) as (exporter, path),
        trio.open_nursery() as nursery,
    ):
        highest = Highest(exporter, nursery)
        with ExitStack() as stack:
            opened = [await in_thread(open_disk, path) for _ in range(20)]
            for client, file_id in opened:
                stack.enter_context(client)
                await in_thread(send_half, client, file_id)
            await until(lambda: highest.wanted, 120)
            await in_thread(use, path, "n3")
            await until(lambda: exporter.counters["stalled_messages"], 120)
            assert highest.used_bytes < 64 * MIB + BATCH_BYTES
        nursery.cancel_scope.cancel()


def open_disk(path):
    client = SocketInitiator(path, timeout_s=60).log_in("n2")
    assert client.call(Command.ECHO, ECHO, credits=500).status == 0
    return client, client.open("disk0")


def send_half(client, file_id):
    """Send half of a WRITE of 8 MiB, or less: the exporter reads no more while the node holds all the memory it may."""
    frame = write_frame(client, file_id)
    client.socket.settimeout(0.2)
    with suppress(TimeoutError):
        client.socket.sendall(frame[: len(frame) // 2])


async def test_half_messages_are_left_alone_while_nobody_wants_their_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONNECTION_DEAD_AFTER_S", 0.1)
    disk = MemoryDisk(16 * MIB)
    async with serving(tmp_path, disk, max_bytes=64 * MIB, per_node_min_bytes=8 * MIB) as (exporter, path):

        def work():
            with SocketInitiator(path, timeout_s=60).log_in("n2") as client:
                client.call(Command.ECHO, ECHO, credits=500)
                frame = write_frame(client, client.open("disk0"))
                client.socket.sendall(frame[: 4 * MIB])
                time.sleep(0.5)
                client.socket.sendall(frame[4 * MIB :])
                assert client.take(client.next_id - 128).status == 0

        await in_thread(work)
        assert exporter.counters["stalled_messages"] == 0


async def test_writes_of_the_largest_size_by_many_connections_of_all_nodes_all_end(tmp_path):
    """Also with hardly any memory, no request waits for another for ever."""
    disk = MemoryDisk(16 * MIB)
    async with serving(tmp_path, disk, max_bytes=MIB, per_node_min_bytes=MIB) as (exporter, path):

        def work(user):
            with SocketInitiator(path, timeout_s=60).log_in(user) as client:
                client.call(Command.ECHO, ECHO, credits=500)
                file_id = client.open("disk0")
                frame = write_frame(client, file_id)
                client.socket.sendall(frame)
                assert client.take(client.next_id - 128).status == 0
                ids = [
                    client.send(Command.READ, read_body(file_id, 0, 2 * MIB), charge=32, credits=32) for _ in range(10)
                ]
                assert [len(client.take(each).data) for each in ids] == [2 * MIB] * 10

        async with trio.open_nursery() as nursery:
            for user in ("n2", "n3"):
                for _ in range(4):
                    nursery.start_soon(in_thread, work, user)
        assert not exporter.memory.wanted


async def test_small_replies_that_no_client_reads_are_limited_and_charged(tmp_path):
    """A reply of 84 bytes takes three times as much memory. A limit in bytes of replies would not be enough."""
    disk = MemoryDisk(MIB)
    async with serving(tmp_path, disk, max_bytes=64 * MIB, per_node_min_bytes=8 * MIB) as (exporter, path):

        def flood(client):
            with suppress(OSError):
                while True:
                    client.deliver(*(client.pack(Command.ECHO, ECHO, credits=2)[1] for _ in range(100)))

        client = await in_thread(SocketInitiator(path, timeout_s=120).log_in, "n2")
        (peer,) = exporter.peers
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, flood, client)
            await until(lambda: len(peer.out) >= limits.SEND_QUEUE_FRAMES_MAX, 120)
            await in_thread(use, path, "n3")
            # The requests of one batch of received bytes may exceed the limit.
            assert len(peer.out) < limits.SEND_QUEUE_FRAMES_MAX + 4096
            assert exporter.usage.of("n2").memory.used_bytes > 200 * limits.SEND_QUEUE_FRAMES_MAX
            client.socket.shutdown(socket.SHUT_RDWR)
        client.socket.close()
