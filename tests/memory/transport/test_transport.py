"""The conformance suites of transports, on TCP, on Unix sockets, and on memory."""

import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs.transport.listening import listen_tcp, listen_unix
from meshfs.transport.stream import StreamTransport, connect_tcp, connect_unix
from meshlab.fakes.memory_transport import memory_pair
from meshlab.suites.inlet import InletSuite
from meshlab.suites.transport import Pair, TransportSuite


async def accept(listening: socket.socket) -> socket.socket:
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(listening)
    return listening.accept()[0]


class TestTcp(TransportSuite, InletSuite):
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        with listen_tcp("127.0.0.1", 0) as listening:
            ours = await connect_tcp("127.0.0.1", listening.getsockname()[1])
            accepted = await accept(listening)
        theirs = StreamTransport(accepted)

        def reset() -> None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()

        pair = Pair(ours, theirs, reset)
        yield pair
        pair.close()


class TestUnix(TransportSuite, InletSuite):
    @pytest.fixture
    async def pair(self, tmp_path: Path) -> AsyncIterator[Pair]:
        with listen_unix(tmp_path / "socket") as listening:
            ours = await connect_unix(tmp_path / "socket")
            theirs = StreamTransport(await accept(listening))

        def reset() -> None:
            # A Unix socket that is closed with data unread resets its peer (unix(7)).
            if not theirs.pending():
                ours.send([b"unread"])
            theirs.close()

        pair = Pair(ours, theirs, reset)
        yield pair
        pair.close()


class TestMemory(TransportSuite, InletSuite):
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        ours, theirs = memory_pair()
        pair = Pair(ours, theirs, ours.reset)
        yield pair
        pair.close()
