"""The exporter behind real sockets: batches, full sockets, limits, time-outs, and the end."""

import contextlib
import gc
import socket
import stat
import time
from contextlib import asynccontextmanager

import pytest
import trio

from meshfs import limits
from meshfs.errors import ConfigError
from meshfs.exporter.serving.doorstep import Guest
from meshfs.exporter.serving.listener import Listener
from meshfs.model import Security
from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest
from meshfs.transport.listening import listen_all, listen_tcp, listen_unix
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import make_exporter
from meshlab.smb.raw_messages import read_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.waiting import until

ECHO = EchoRequest().pack()
in_thread = trio.to_thread.run_sync


@asynccontextmanager
async def serving(server, path):
    with listen_unix(path) as listening:
        listener = Listener(server, [listening])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield listener
            # Answers of disks wait for a turn, also if their clients are gone.
            await until(lambda: server.processor.is_idle)
            nursery.cancel_scope.cancel()
    assert not server.sessions
    assert not server.peers


@pytest.fixture
def disk():
    return MemoryDisk(4 << 20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "n1.sock"


def client_of(path):
    client = SocketInitiator(str(path)).log_in()
    client.call(Command.ECHO, ECHO, credits=500)
    return client


async def test_requests_over_a_socket(disk, path):
    server = make_exporter(disk0=disk)
    async with serving(server, path):

        def work():
            with client_of(path) as client:
                file_id = client.open("disk0")
                packed = [client.pack(Command.READ, read_body(file_id, 4096 * n, 4096)) for n in range(100)]
                # Send all at once, and then one request in pieces of a byte.
                client.deliver(*(frame for _, frame in packed))
                assert all(len(client.take(message_id).data) == 4096 for message_id, _ in packed)
                frame = bytes(client.pack(Command.ECHO, ECHO, message_id=client.next_id)[1])
                for index in range(len(frame)):
                    client.deliver(frame[index : index + 1])
                assert client.take(client.next_id).status == 0

        await in_thread(work)
        await until(lambda: not server.peers)
    assert server.pool.used_bytes == 0


async def test_the_doorstep_frees_its_state_of_a_connection_that_is_served(path):
    """No cycle of references may be left. The garbage collector would stop the exporter for a while."""
    async with serving(make_exporter(), path):
        gc.collect()
        gc.disable()
        try:
            with await in_thread(client_of, path):
                assert not [each for each in gc.get_objects() if isinstance(each, Guest)]
        finally:
            gc.enable()


@pytest.mark.parametrize("protection", [Security.SIGN, Security.ENCRYPT])
async def test_more_requests_than_are_worked_on_wait_for_their_turn(disk, path, protection):
    """A client may use all its credits at once. The exporter takes memory for few of them, and answers all."""
    server, count, size = make_exporter(protection, disk0=disk), 1500, 64 * limits.KIB
    async with serving(server, path):

        def work():
            with SocketInitiator(str(path)).log_in() as client:
                assert client.call(Command.ECHO, ECHO, credits=9000).credits > 8000
                file_id = client.open("disk0")
                disk.stall()
                packed = [client.pack(Command.READ, read_body(file_id, 512 * n, size)) for n in range(count)]
                packed.append(client.pack(Command.ECHO, ECHO))
                client.deliver(*(frame for _, frame in packed))
                *reads, last = (client.take(message_id) for message_id, _ in packed)
                assert [len(reply.data) for reply in reads] == [size] * count
                assert last.status == 0
                # A disk that answers at once answers within the batch, and the rest of the requests follows.
                packed = [client.pack(Command.READ, read_body(file_id, 0, 512)) for n in range(count)]
                client.deliver(*(frame for _, frame in packed))
                assert {client.take(message_id).status for message_id, _ in packed} == {0}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, work)
            await until(lambda: server.pool.used_bytes >= limits.CREDITS_MAX * size)
            await trio.sleep(0.2)
            most = server.pool.used_bytes
            disk.release()
        await until(lambda: not server.peers)
    assert most <= (limits.CREDITS_MAX + 2) * 2 * size
    assert server.pool.used_bytes == 0


async def test_a_connection_that_ends_while_requests_are_held_leaves_nothing(disk, path):
    server = make_exporter(disk0=disk)
    async with serving(server, path):

        def work():
            with SocketInitiator(str(path)).log_in() as client:
                client.call(Command.ECHO, ECHO, credits=9000)
                file_id = client.open("disk0")
                disk.stall()
                client.deliver(*(client.pack(Command.READ, read_body(file_id, 0, 65536))[1] for _ in range(2000)))
                time.sleep(0.2)

        await in_thread(work)
        disk.release()
        await until(lambda: not server.peers)
    assert server.pool.used_bytes == 0


async def test_replies_of_a_stalled_disk_arrive_when_the_disk_goes_on(disk, path):
    server = make_exporter(disk0=disk)
    async with serving(server, path):
        client = await in_thread(client_of, path)
        file_id = await in_thread(client.open, "disk0")
        disk.stall()
        ids = [client.send(Command.READ, read_body(file_id, 0, 512)) for _ in range(3)]
        await until(lambda: disk.stalled == 3)
        disk.release()
        for message_id in ids:
            assert (await in_thread(client.take, message_id)).status == 0
        client.socket.close()


async def test_a_peer_that_takes_no_replies_is_not_read_from(disk, path, monkeypatch):
    monkeypatch.setattr(limits, "SEND_QUEUE_MAX_BYTES", 1 << 20)
    server = make_exporter(disk0=disk)
    async with serving(server, path):
        client = await in_thread(client_of, path)
        file_id = await in_thread(client.open, "disk0")
        served: list[object] = []
        disk.stall(lambda request: served.append(request) or False)
        frames = []
        for _ in range(400):
            frames.append(client.pack(Command.READ, read_body(file_id, 0, 65536), credits=1))

        def send_slowly():
            for _, frame in frames:
                client.deliver(frame)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, send_slowly)
            peer = next(iter(server.peers))
            await until(lambda: peer.out.unsent_bytes > limits.SEND_QUEUE_MAX_BYTES)
            await trio.sleep(0.2)
            assert len(served) < len(frames) / 2
            for message_id, _ in frames:
                reply = await in_thread(client.take, message_id)
                assert len(reply.data) == 65536
        client.socket.close()
        await until(lambda: not server.peers)
    assert server.pool.used_bytes == 0


async def test_a_peer_that_takes_no_replies_for_long_is_dropped(disk, path, monkeypatch):
    monkeypatch.setattr(limits, "CONNECTION_DEAD_AFTER_S", 0.05)
    server = make_exporter(disk0=disk)
    async with serving(server, path):
        client = await in_thread(client_of, path)
        file_id = await in_thread(client.open, "disk0")
        body = read_body(file_id, 0, 4 << 20)
        frames = [client.pack(Command.READ, body, charge=64, credits=64)[1] for _ in range(4)]
        await in_thread(client.deliver, *frames)
        await until(lambda: not server.peers)
        client.socket.close()
    assert server.pool.used_bytes == 0


async def test_a_peer_that_takes_replies_again_as_it_is_dropped_harms_nobody(disk, path, monkeypatch):
    """A stopped listener keeps its links to the end. The socket of a dropped link may become writable once more."""
    monkeypatch.setattr(limits, "CONNECTION_DEAD_AFTER_S", 1.0)
    server = make_exporter(disk0=disk)
    async with serving(server, path) as listener:
        with await in_thread(client_of, path) as client:
            file_id = await in_thread(client.open, "disk0")
            body = read_body(file_id, 0, 4 << 20)
            frames = [client.pack(Command.READ, body, charge=64, credits=64)[1] for _ in range(4)]
            await in_thread(client.deliver, *frames)
            # This is more than the kernel takes, which doubles the size of a socket's buffer. The rest waits.
            [peer] = server.peers
            await until(lambda: peer.out.unsent_bytes >= 2 * limits.UNIX_SOCKET_BUFFER_BYTES)
            listener.stop()
            await until(lambda: peer.closing)
        await trio.sleep(0.05)
        with SocketInitiator(str(path)) as other:
            assert other.socket.fileno() >= 0
    assert server.pool.used_bytes == 0


async def test_a_connection_without_a_login_is_dropped(path, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.05)
    server = make_exporter()
    async with serving(server, path):
        with SocketInitiator(str(path)) as client:
            await in_thread(client.negotiate)
            with pytest.raises(EOFError):
                await in_thread(client.answered, 1000)
        assert server.counters["login_timeouts"] == 1


async def test_logins_that_fail_buy_no_time(path, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.5)
    server = make_exporter()
    async with serving(server, path):
        with SocketInitiator(str(path)) as client:

            def knock():
                client.negotiate()
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    client.set_up(password="wrong")
                    client.session_id = 0

            with pytest.raises((EOFError, ConnectionError)):
                await in_thread(knock)
        assert server.counters["logins_denied"] > 1
        assert server.counters["login_timeouts"] == 1


async def test_strangers_cannot_pile_up_replies(path):
    server = make_exporter()
    async with serving(server, path):
        with SocketInitiator(str(path)) as client:
            await in_thread(client.negotiate)
            client.socket.setblocking(False)
            most = 0
            with trio.move_on_after(2):
                while True:
                    frames = b"".join(
                        bytes(client.pack(Command.ECHO, ECHO, credits=16, sign=False)[1]) for _ in range(200)
                    )
                    while frames:
                        with contextlib.suppress(BlockingIOError):
                            frames = frames[client.socket.send(frames) :]
                        await trio.lowlevel.checkpoint()
                        for peer in server.peers:
                            most = max(most, peer.out.unsent_bytes)
            assert 0 < most <= limits.SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES + limits.TURN_STEP_BYTES + limits.MIB


async def test_a_login_keeps_a_connection_and_a_logoff_drops_it(disk, path, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.2)
    server = make_exporter(disk0=disk)
    async with serving(server, path):
        client = await in_thread(client_of, path)
        await trio.sleep(0.4)
        assert (await in_thread(client.call, Command.ECHO, ECHO)).status == 0
        assert (await in_thread(client.call, Command.LOGOFF, ECHO)).status == 0
        await until(lambda: not server.peers)
        client.socket.close()


async def test_a_broken_peer_is_one_line_and_no_traceback(disk, path, caplog):
    server = make_exporter(disk0=disk)
    async with serving(server, path):
        neighbour = await in_thread(client_of, path)
        with SocketInitiator(str(path)) as client:
            client.deliver(b"\0\0\0\x50" + bytes(80))
            with pytest.raises(EOFError):
                await in_thread(client.answered, 0)
        assert (await in_thread(neighbour.call, Command.ECHO, ECHO)).status == 0
        neighbour.socket.close()
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1
    assert not lines[0].exc_info
    assert server.counters["protocol_errors"] == 1


async def test_a_refused_negotiation_is_answered_before_the_end(path):
    server = make_exporter()
    async with serving(server, path):
        with SocketInitiator(str(path)) as client:
            with pytest.raises(AssertionError, match="0xc00000bb"):
                await in_thread(lambda: client.negotiate((0x0202, 0x0210)))
            with pytest.raises(EOFError):
                await in_thread(client.answered, 1)


async def test_a_stopped_listener_answers_the_requests_in_progress(disk, path):
    server = make_exporter(disk0=disk)
    async with serving(server, path) as listener:
        client = await in_thread(client_of, path)
        file_id = await in_thread(client.open, "disk0")
        disk.stall()
        message_id = client.send(Command.READ, read_body(file_id, 0, 512))
        await until(lambda: disk.stalled == 1)
        listener.stop()
        client.send(Command.ECHO, ECHO)
        disk.release()
        await listener.sent_all()
        assert (await in_thread(client.take, message_id)).status == 0
        client.socket.close()


# --- endpoints -------------------------------------------------------------------------


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path):
    first = listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ConfigError, match="another process does already"):
        listen_unix(path)
    first.close()
    listen_unix(path).close()


def test_a_file_at_the_path_of_the_socket_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_an_address_in_use_is_named_and_nothing_stays_open(path):
    with listen_tcp("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use; another"):
            listen_all(["127.0.0.2", "127.0.0.1"], port, path)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.2", port)) != 0
    assert not path.exists()


def test_an_address_of_another_machine_is_named(path):
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:4450: .*no interface of this machine"):
        listen_all(["192.0.2.1"], 4450, path)


@pytest.mark.parametrize("missing", ["192.0.2.1", "2001:db8::1"])
def test_an_address_that_is_not_there_yet_is_listened_on_beside_one_that_is(path, missing, caplog):
    sockets = listen_all([missing, "127.0.0.1"], 0, path)
    assert [each.getsockname()[0] for each in sockets[:2]] == [missing, "127.0.0.1"]
    assert [record.message for record in caplog.records] == [
        f"no interface has address {missing} yet; it is served as soon as one has it"
    ]
    for listening in sockets:
        listening.close()
