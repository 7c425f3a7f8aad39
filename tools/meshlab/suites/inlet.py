"""What every transport must do with whole messages; one suite, run beside that of transport.py."""

import random
from typing import Final

import pytest
import trio

from meshfs.buffers import BufferPool
from meshfs.errors import RemoteProtocolError
from meshfs.transport.base import EndOfStream, Inlet, Transport
from meshlab.suites.transport import KIB, MIB, MUST_S, Pair, send_all

#: Where the payload of a message begins, as in a WRITE.
_PAYLOAD_OFFSET: Final = 112


def framed(message: bytes) -> bytes:
    """Return a message as it is handed to ``send``: with its length in front (MS-SMB2 2.1)."""
    return len(message).to_bytes(4, "big") + message


async def receive_messages(
    transport: Transport, inlet: Inlet, got: list[bytes], *, most_bytes: int | None = None
) -> None:
    """Receive once, as soon as there is something, and append copies of the messages that are whole."""
    try:
        frames = inlet.receive(most_bytes)
    except BlockingIOError:
        await transport.wait_readable()
        return
    got += [bytes(frame.view) for frame in frames]


async def receive_forever(transport: Transport, inlet: Inlet, got: list[bytes]) -> None:
    while True:
        await receive_messages(transport, inlet, got)


class InletSuite:
    """The promises of `meshfs.transport.base.Inlet`."""

    async def test_messages_are_received_whole(self, pair: Pair) -> None:
        generator = random.Random(4)
        sizes = [generator.choice((52, 64, 300, 4096, 40_000, MIB + 116)) for _ in range(80)]
        messages = [generator.randbytes(size) for size in sizes]
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, _PAYLOAD_OFFSET, 2 * MIB)

        async def send() -> None:
            for message in messages:
                await send_all(pair.ours, [framed(message)])

        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(got) < len(messages):
                    await receive_messages(pair.theirs, inlet, got)
        assert got == messages
        assert inlet.received_bytes >= sum(sizes)
        inlet.close()
        assert pool.used_bytes == 0

    async def test_a_receive_takes_no_more_than_it_may(self, pair: Pair) -> None:
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, _PAYLOAD_OFFSET, 2 * MIB)
        message = random.Random(5).randbytes(200 * KIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, pair.ours, [framed(message)])
                while not got:
                    before = inlet.received_bytes
                    await receive_messages(pair.theirs, inlet, got, most_bytes=16 * KIB)
                    assert inlet.received_bytes - before <= 16 * KIB
        assert got == [message]
        inlet.close()

    async def test_a_message_that_is_received_in_part_is_known(self, pair: Pair) -> None:
        """Of a large message, what is missing can be told, so that the receiver is woken when it has come."""
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, _PAYLOAD_OFFSET, 2 * MIB)
        message = random.Random(6).randbytes(100 * KIB)
        frame = framed(message)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            assert not inlet.missing_bytes
            await send_all(pair.ours, [frame[: 10 * KIB]])
            while not inlet.missing_bytes or pair.theirs.pending():
                await receive_messages(pair.theirs, inlet, got)
            assert 0 < inlet.missing_bytes <= len(frame) - 10 * KIB
            await send_all(pair.ours, [frame[10 * KIB :]])
            while not got:
                pair.theirs.expect(inlet.missing_bytes)
                await receive_messages(pair.theirs, inlet, got)
            assert not inlet.missing_bytes
        assert got == [message]
        inlet.close()
        assert pool.used_bytes == 0

    async def test_without_a_message_receiving_does_not_block(self, pair: Pair) -> None:
        inlet = pair.ours.inlet(BufferPool(), _PAYLOAD_OFFSET, MIB)
        with pytest.raises(BlockingIOError):
            inlet.receive()
        inlet.close()

    async def test_the_end_of_the_stream_comes_after_the_last_message(self, pair: Pair) -> None:
        inlet = pair.ours.inlet(BufferPool(), _PAYLOAD_OFFSET, MIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [framed(bytes(100))])
            pair.theirs.close()
            with pytest.raises(EndOfStream):
                await receive_forever(pair.ours, inlet, got)
        assert got == [bytes(100)]
        inlet.close()

    async def test_a_message_longer_than_accepted_breaks_the_protocol(self, pair: Pair) -> None:
        pool = BufferPool()
        inlet = pair.ours.inlet(pool, _PAYLOAD_OFFSET, 64 * KIB)
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [framed(bytes(64 * KIB + 1))])
            with pytest.raises(RemoteProtocolError):
                await receive_forever(pair.ours, inlet, [])
        inlet.close()
        assert pool.used_bytes == 0
