"""The conformance suites of transports: on TCP, on Unix sockets, on memory, and on one that carries no stream."""

import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs.transport.base import Transport
from meshfs.transport.listening import listen_tcp, listen_unix
from meshfs.transport.stream import StreamTransport, connect_tcp, connect_unix
from meshlab.fakes.fragment_transport import fragment_pair
from meshlab.fakes.memory_transport import memory_pair
from meshlab.suites.byte_stream import ByteStreamSuite, StreamEnd
from meshlab.suites.ends import Pair
from meshlab.suites.inlet import InletSuite
from meshlab.suites.out_queue import OutQueueSuite
from meshlab.suites.watching import WatchingSuite


async def accept(listening: socket.socket) -> socket.socket:
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(listening)
    return listening.accept()[0]


class MessageSuites(InletSuite, OutQueueSuite, WatchingSuite):
    """What every transport must do."""


class OverTcp:
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair[StreamEnd]]:
        with listen_tcp("127.0.0.1", 0) as listening:
            ours = await connect_tcp("127.0.0.1", listening.getsockname()[1])
            accepted = await accept(listening)
        theirs = StreamTransport(accepted)

        def reset() -> None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()

        pair = Pair[StreamEnd](ours, theirs, reset)
        yield pair
        pair.close()


class OverUnix:
    @pytest.fixture
    async def pair(self, tmp_path: Path) -> AsyncIterator[Pair[StreamEnd]]:
        with listen_unix(tmp_path / "socket") as listening:
            ours = await connect_unix(tmp_path / "socket")
            theirs = StreamTransport(await accept(listening))

        def reset() -> None:
            # A Unix socket that is closed with unread data resets its peer (unix(7)).
            if not theirs.pending():
                ours.send([b"unread"])
            theirs.close()

        pair = Pair[StreamEnd](ours, theirs, reset)
        yield pair
        pair.close()


class OverMemory:
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair[StreamEnd]]:
        ours, theirs = memory_pair()
        pair = Pair[StreamEnd](ours, theirs, ours.reset)
        yield pair
        pair.close()


class TestFragmentMessages(MessageSuites):
    """No length prefix, no stream, no descriptor: what SMB Direct will be like."""

    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair[Transport]]:
        ours, theirs = fragment_pair()
        pair = Pair[Transport](ours, theirs, ours.reset)
        yield pair
        pair.close()


class TestTcpBytes(OverTcp, ByteStreamSuite):
    pass


class TestTcpMessages(OverTcp, MessageSuites):
    pass


class TestUnixBytes(OverUnix, ByteStreamSuite):
    pass


class TestUnixMessages(OverUnix, MessageSuites):
    pass


class TestMemoryBytes(OverMemory, ByteStreamSuite):
    pass


class TestMemoryMessages(OverMemory, MessageSuites):
    pass
