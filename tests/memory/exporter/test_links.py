"""How a connection ends, and in whose turns it is served: nothing is left, no other node pays, no wrong byte leaves."""

import contextlib

import trio

from meshfs import bugs
from meshfs.exporter.serving import listener as listener_module
from meshfs.exporter.serving.link import Link
from meshfs.model import FlowKey, IoClass
from meshfs.smb.constants import Command
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import make_exporter
from meshlab.smb.raw_messages import read_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.turns import ECHO, all_at_once, client_of, in_thread, serving
from support.waiting import until

LARGE_BYTES = 4 << 20


async def has_full_socket(server, path):
    """Return a client that asked for more than its socket takes and reads nothing, and the exporter's peer of it."""
    client = await in_thread(client_of, path)
    file_id = await in_thread(client.open, "disk0")
    body = read_body(file_id, 0, LARGE_BYTES)
    frames = [client.pack(Command.READ, body, charge=64, credits=64)[1] for _ in range(4)]
    await in_thread(client.deliver, *frames)
    peer = next(iter(server.peers))
    await until(lambda: bool(peer.out) and server.processor.is_idle)
    return client, peer


def all_bytes_of(client):
    """Return all bytes that come until the exporter closes the connection."""
    taken = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := client.socket.recv(1 << 20):
            taken += data
    return bytes(taken)


async def test_nothing_follows_a_frame_that_was_cut(tmp_path):
    """If a disk answers while the connection ends, the client would take the reply for the rest of the one before."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(LARGE_BYTES))
    async with serving(server, path) as listener:
        client, peer = await has_full_socket(server, path)
        (link,) = listener._links
        late = b"late" * 100
        buffer = server.pool.acquire(4096)
        link.end()
        server.batches.begin()
        peer.send(bytearray(late), buffer)
        server.batches.end()
        assert late not in await in_thread(all_bytes_of, client)
        await until(lambda: not server.peers)
        client.socket.close()


async def test_a_stopped_connection_that_breaks_is_closed(tmp_path):
    """While the exporter stops, a broken connection does not stay until the exporter has ended."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(LARGE_BYTES))
    async with serving(server, path) as listener:
        client, _ = await has_full_socket(server, path)
        with await in_thread(client_of, path) as other:
            links = set(listener._links)
            listener.stop()
            await in_thread(client.socket.close)
            await until(lambda: len(server.peers) == 1)
            assert len(links - listener._links) == 1
            await until(lambda: server.processor.is_idle)
            assert len(server.peers) == 1, "the other connection stays open"
            with contextlib.suppress(OSError):
                other.socket.shutdown(2)
            await trio.sleep(0.05)
            assert len(server.peers) == 1, "nothing more is received"


async def test_a_connection_that_is_stopped_before_it_is_served_is_never_received_from(tmp_path, monkeypatch):
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(LARGE_BYTES))
    begin = listener_module.Listener._begin

    def begin_and_stop(this, guest):
        begin(this, guest)
        this.stop()

    monkeypatch.setattr(listener_module.Listener, "_begin", begin_and_stop)
    async with serving(server, path):
        with SocketInitiator(str(path)) as client:
            await in_thread(client.deliver, b"\0\0\0\1x")
            await until(lambda: server.peers)
            await trio.sleep(0.05)
            (peer,) = server.peers
            assert not peer.closing, "what it sent would break the protocol"


async def test_a_peer_that_sends_on_while_its_last_replies_leave_costs_nothing(tmp_path, monkeypatch):
    """After a forged message, the exporter reads no more, but the connection stays until its last replies are sent."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(LARGE_BYTES))
    steps = 0
    real = Link.step

    def step(this, until_s):
        nonlocal steps
        steps += 1
        return real(this, until_s)

    async with serving(server, path):
        client, peer = await has_full_socket(server, path)
        _, forged = client.pack(Command.ECHO, ECHO)
        forged[60] ^= 1
        await in_thread(client.deliver, forged)
        await until(lambda: peer.closing)
        monkeypatch.setattr(Link, "step", step)
        await in_thread(client.deliver, client.pack(Command.ECHO, ECHO)[1])
        await trio.sleep(0.2)
        assert steps < 10
        assert len(await in_thread(all_bytes_of, client)) > 4 * LARGE_BYTES
        await until(lambda: not server.peers)
        client.socket.close()


async def test_an_application_behind_the_system_on_one_connection_waits_as_an_application(tmp_path):
    """Held requests of the application class wait in its turns, also after a turn of the system on the connection."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(1 << 20))
    async with serving(server, path):
        client, other = await in_thread(client_of, path), await in_thread(client_of, path, "n3")
        app_tree = client.tree_id
        app_file = await in_thread(client.open, "disk0")
        other_file = await in_thread(other.open, "disk0")
        await in_thread(client.connect, "disks-system")
        system_file = await in_thread(client.open, "disk0")
        await all_at_once((client, [client.pack(Command.READ, read_body(system_file, 0, 512))]))
        await until(lambda: server.processor.is_idle)
        system = server.processor.turns.flow(FlowKey("n2", IoClass.SYSTEM))
        used_s = system.used_s
        assert used_s
        client.tree_id = app_tree
        reads = [client.pack(Command.READ, read_body(app_file, 512 * n, 512)) for n in range(100)]
        others = [other.pack(Command.READ, read_body(other_file, 512 * n, 512)) for n in range(100)]
        await all_at_once((other, others), (client, reads))
        assert system.used_s == used_s
        with client, other:
            pass


async def test_memory_of_a_connection_whose_node_logged_off_is_not_the_strangers(tmp_path):
    """The connection may still receive large frames. If the strangers paid for them, nobody could log in any more."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(1 << 20))
    async with serving(server, path):
        with await in_thread(client_of, path) as client:
            assert (await in_thread(client.call, Command.LOGOFF, ECHO)).status == 0
            usage = server.usage
            await in_thread(client.deliver, (4 << 20).to_bytes(4, "big") + bytes(1 << 16))
            with trio.fail_after(5):
                while server.pool.used_bytes < 1 << 20:
                    # The link takes memory only when more bytes come than it received with the length prefix.
                    await in_thread(client.deliver, bytes(4096))
                    await trio.sleep(0.01)
            assert usage.strangers.memory.used_bytes == 0
            assert usage.of("n2").memory.used_bytes == server.pool.used_bytes
            assert usage.of("n2").connections == 0
        await until(lambda: not server.peers)


async def test_a_connection_that_cannot_be_served_is_closed_and_forgotten(tmp_path, monkeypatch):
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(1 << 20))
    real = listener_module.StreamTransport

    def fails(*_, **__):
        monkeypatch.setattr(listener_module, "StreamTransport", real)
        raise OSError("no such option")

    monkeypatch.setattr(listener_module, "StreamTransport", fails)
    async with serving(server, path) as listener:
        with SocketInitiator(str(path)) as client:
            before = bugs.count()
            await in_thread(client.deliver, b"x")
            assert await in_thread(all_bytes_of, client) == b""
        assert bugs.count() == before + 1
        assert listener.waiting == 0
        with await in_thread(client_of, path):
            pass


async def test_a_reply_in_anothers_turn_waits_in_turns_of_its_own_node(tmp_path):
    """An unlock can answer a LOCK of another node. The node that unlocked does not pay for that reply."""
    path, server = tmp_path / "n1.sock", make_exporter(disk0=MemoryDisk(LARGE_BYTES))
    async with serving(server, path) as listener:
        client, peer = await has_full_socket(server, path)
        (link,) = listener._links
        turns = server.processor.turns
        await in_thread(lambda: [client.take(client.next_id - 64 * n) for n in (4, 3, 2, 1)])
        await until(lambda: not peer.out)
        server.processor.serving = turns.flow(FlowKey("n3", IoClass.APP))
        server.batches.begin()
        peer.send(bytearray(8 << 20))
        server.batches.end()
        assert link._outlet.waiting is not None
        assert link._outlet._flow is turns.flow(FlowKey("n2", IoClass.APP))
        client.socket.close()
        await until(lambda: not server.peers)
