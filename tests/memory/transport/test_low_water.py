"""SO_RCVLOWAT: the reader sleeps through the pieces of a message, and wakes for everything else."""

import select
import socket
from collections.abc import Iterator

import pytest

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.initiator.channel.channel import Channel
from meshfs.transport.stream import LowWater, StreamTransport
from support.waiting import until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def tcp() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            yield ours, theirs


def readable(sock: socket.socket, wait_ms: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(wait_ms))


def test_less_than_expected_wakes_nobody(tcp: Pair) -> None:
    ours, theirs = tcp
    mark = LowWater(ours)
    mark.expect(1000)
    theirs.send(bytes(999))
    assert not readable(ours, 50)
    theirs.send(bytes(1))
    assert readable(ours, 5000)


def test_with_nothing_expected_a_byte_counts(tcp: Pair) -> None:
    ours, theirs = tcp
    mark = LowWater(ours)
    mark.expect(1000)
    theirs.send(bytes(10))
    assert not readable(ours, 50)
    mark.expect(0)
    assert readable(ours, 5000)


def test_the_end_of_the_stream_always_wakes(tcp: Pair) -> None:
    ours, theirs = tcp
    LowWater(ours).expect(1 << 30)
    theirs.send(bytes(10))
    theirs.close()
    assert readable(ours, 5000)


def test_a_message_of_any_size_gets_through(tcp: Pair) -> None:
    """The mark is bounded, however many bytes are missing, because more might never fit into the receive buffer."""
    ours, theirs = tcp
    mark = LowWater(ours)
    theirs.setblocking(False)
    missing = limits.IO_SIZE_MAX_BYTES
    unsent = missing
    memory = bytearray(1 << 20)
    while missing:
        mark.expect(missing)
        if unsent:
            try:
                unsent -= theirs.send(bytes(min(unsent, 1 << 20)))
            except BlockingIOError:
                assert readable(ours, 5000), f"{missing} bytes are missing, and the reader is not woken"
        if not unsent or readable(ours, 0):
            assert readable(ours, 5000)
            missing -= ours.recv_into(memory)
    mark.expect(0)
    theirs.send(b"x")
    assert readable(ours, 5000)


def test_unix_sockets_are_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        LowWater(ours).expect(1000)
        theirs.send(b"x")
        assert readable(ours, 5000)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_bytes_that_wake_nobody_are_a_sign_of_life_once(tcp: Pair) -> None:
    """A link may be lost in the middle of a large message. Its early bytes must not count later as a sign of life."""
    ours, theirs = tcp
    enough = limits.CHANNEL_PROGRESS_MIN_BYTES
    channel = Channel(StreamTransport(ours), BufferPool())
    try:
        channel.transport.expect(limits.LOW_WATER_MAX_BYTES)
        assert not channel.liveness.take_signs_of_life(1.0)
        theirs.send(bytes(enough))
        await until(lambda: channel.transport.pending() == enough)
        assert not readable(ours, 50)
        assert channel.liveness.take_signs_of_life(2.0)
        assert not channel.liveness.take_signs_of_life(3.0)
        assert channel.probe.send()
        assert not readable(ours, 50)
        assert not channel.liveness.take_signs_of_life(4.0)
        theirs.send(bytes(enough - 1))
        await until(lambda: channel.transport.pending() == 2 * enough - 1)
        assert not channel.liveness.take_signs_of_life(5.0), (
            "an answer to a probe is as small, and may be all that comes"
        )
        theirs.send(bytes(1))
        await until(lambda: channel.transport.pending() == 2 * enough)
        assert channel.liveness.take_signs_of_life(6.0)
        assert channel.heard_s == 6.0
    finally:
        channel._received.close()
