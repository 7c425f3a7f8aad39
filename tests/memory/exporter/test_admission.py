"""Floods of connections over real sockets, and nodes that log in beside them."""

import os
import socket
import time
from contextlib import asynccontextmanager

import pytest
import trio

from meshfs import limits
from meshfs.exporter.serving.listener import Listener
from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest
from meshfs.transport.listening import listen_tcp, listen_unix
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.frames import prefix
from meshlab.smb.raw_initiator import make_exporter
from meshlab.smb.raw_messages import read_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.knocking import knocking
from support.waiting import until

ECHO = EchoRequest().pack()
NODE, STRANGER = "127.0.0.1", "127.0.0.9"
in_thread = trio.to_thread.run_sync


class Served:
    def __init__(self, exporter, listener, port, path):
        self.exporter = exporter
        self.listener = listener
        self.port = port
        self.path = path


@pytest.fixture
async def served(tmp_path):
    """Serve an exporter on TCP, whose config has NODE and not STRANGER, and on a Unix socket."""
    path = tmp_path / "n1.sock"
    exporter = make_exporter(disk0=MemoryDisk(1 << 20))
    with listen_unix(path) as unix, listen_tcp(NODE, 0) as tcp:
        listener = Listener(exporter, [tcp, unix], [NODE])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield Served(exporter, listener, tcp.getsockname()[1], path)
            nursery.cancel_scope.cancel()
    assert not exporter.peers
    assert listener.waiting == 0


@asynccontextmanager
async def attack(*arguments):
    """Run `knocking` in other threads, because this thread has to run the exporter."""
    context = knocking(*arguments)
    process = await in_thread(context.__enter__)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(context.__exit__, None, None, None)


def use(address) -> None:
    """Log in as a node, open the disk, and read."""
    with SocketInitiator(address, timeout_s=60) as client:
        client.log_in("n2")
        assert client.call(Command.READ, read_body(client.open("disk0"), 0, 4096)).status == 0


def try_until_in(address) -> None:
    """Try again after each connection that was ended, as a mount does, until one is served."""
    for _ in range(200):
        try:
            use(address)
        except (EOFError, OSError):
            continue
        return
    raise AssertionError("never got in")


@pytest.mark.parametrize("kind", ["idle", "trickle", "negotiate"])
@pytest.mark.parametrize("source", [NODE, STRANGER])
async def test_a_node_gets_in_beside_a_flood_of_connections(served, kind, source):
    """The flood may come from the node's own address: from behind the same NAT, or from the same machine."""
    exporter, count = served.exporter, 1000
    async with attack(NODE, served.port, kind, count, source):
        await until(lambda: exporter.counters["connections_ended"] > count, 120)
        await in_thread(use, str(served.path))
        await in_thread(use if source == STRANGER else try_until_in, (NODE, served.port))
    assert served.listener.waiting <= 3 * (limits.CONNECTIONS_STRANGERS_MAX + limits.CONNECTIONS_NODE_MAX)


async def test_a_session_that_is_there_goes_on_beside_a_flood(served):
    with SocketInitiator((NODE, served.port), timeout_s=60) as client:
        await in_thread(client.log_in, "n2")
        async with attack(NODE, served.port, "idle", 1000, NODE):
            await until(lambda: served.exporter.counters["connections_ended"] > 3000, 120)
            assert (await in_thread(client.call, Command.ECHO, ECHO)).status == 0


async def test_a_connection_that_says_nothing_is_ended_in_time_and_costs_no_peer(served, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.2)
    with socket.create_connection((NODE, served.port)) as idle:
        await until(lambda: served.listener.waiting == 1)
        assert not served.exporter.peers
        idle.settimeout(20)
        assert await in_thread(idle.recv, 1) == b""
    assert served.exporter.counters["login_timeouts"] == 1
    assert served.listener.waiting == 0


async def test_one_byte_at_a_time_buys_no_time(served, monkeypatch):
    monkeypatch.setattr(limits, "UNAUTHENTICATED_TIMEOUT_S", 0.3)

    def trickle():
        with socket.create_connection((NODE, served.port)) as slow:
            slow.send(prefix(60_000))
            # These bytes take an hour. The connection breaks before.
            for _ in range(180_000):
                slow.send(b"\0")
                time.sleep(0.02)

    with trio.fail_after(60), pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
        await in_thread(trickle)
    assert served.exporter.counters["login_timeouts"] == 1


async def test_the_addresses_of_a_new_config_are_known(served):
    served.listener.know([STRANGER])
    for _ in range(limits.CONNECTIONS_NODE_MAX):
        socket.create_connection((NODE, served.port), source_address=(NODE, 0)).detach()
    await until(lambda: served.exporter.counters["connections_ended"])
    assert served.listener.waiting == limits.CONNECTIONS_STRANGER_MAX


async def test_without_a_descriptor_left_a_silent_connection_makes_room(served, monkeypatch):
    """The kernel refuses an accept(2). The exporter ends the connection of a stranger, and accepts the next one."""
    with socket.create_connection((NODE, served.port), source_address=(STRANGER, 0)) as stranger:
        await until(lambda: served.listener.waiting == 1)
        refuse_accepts(monkeypatch, 1)
        await in_thread(use, (NODE, served.port))
        stranger.settimeout(20)
        assert await in_thread(stranger.recv, 1) == b""
    assert served.exporter.counters["accept_failures"] == 1


async def test_without_a_descriptor_and_with_nobody_to_end_a_newcomer_is_closed(served, monkeypatch):
    with SocketInitiator((NODE, served.port)) as client:
        await in_thread(client.log_in, "n2")
        refused = refuse_accepts(monkeypatch, 1)
        with socket.create_connection((NODE, served.port)) as newcomer:
            newcomer.settimeout(20)
            assert await in_thread(newcomer.recv, 1) == b""
        assert (await in_thread(client.call, Command.ECHO, ECHO)).status == 0
    assert refused
    assert served.exporter.counters["connections_refused"] == 1
    await in_thread(use, (NODE, served.port))


def refuse_accepts(monkeypatch, times):
    """Let the next ``times`` calls of accept(2) fail with EMFILE. The returned list gets an entry for each."""
    refused = []
    accept = socket.socket.accept

    def refusing(listening):
        if len(refused) < times:
            refused.append(listening)
            raise OSError(24, os.strerror(24))
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", refusing)
    return refused


async def test_large_buffers_of_the_kernel_are_for_few_that_are_logged_in(served, monkeypatch):
    monkeypatch.setattr(limits, "UNIX_SOCKETS_LARGE_MAX", 2)
    sizes = []

    def note():
        sizes[:] = sorted(
            link._transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= limits.UNIX_SOCKET_BUFFER_BYTES
            for link in served.listener._links
        )

    clients = [SocketInitiator(str(served.path), timeout_s=60) for _ in range(4)]
    for client in clients:
        await in_thread(client.negotiate)
    note()
    assert sizes == [False] * 4
    for client in clients[:3]:
        await in_thread(client.set_up)
    note()
    assert sizes == [False, False, True, True]
    clients[0].socket.close()
    await until(lambda: len(served.listener._links) == 3)
    await in_thread(clients[3].set_up)
    note()
    assert sizes == [False, True, True]
    for client in clients:
        client.socket.close()
