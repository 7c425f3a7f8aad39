"""One test suite for the receiving side of every transport."""

import random
from typing import Final

import pytest
import trio

from meshfs.buffers import FRAMING_BYTES, BufferPool, Frame
from meshfs.errors import RemoteProtocolError
from meshfs.transport.base import EndOfStream, Inlet, OutQueue, Sent, Transport
from meshlab.suites.ends import KIB, MIB, MUST_S, Pair, receivable, room, until

#: Where the payload of a message begins, as in a WRITE.
PAYLOAD_OFFSET: Final = 112


def frame_of(message: bytes) -> bytearray:
    """Return a message as an out queue gets it: behind room for the framing, which holds any bytes."""
    return bytearray(b"\xee" * FRAMING_BYTES + message)


async def send_rest(queue: OutQueue) -> None:
    """Send everything that was added, and wait for room when the transport is full."""
    while queue.send() is Sent.FULL:
        await room(queue)


async def send_messages(queue: OutQueue, *messages: bytes) -> None:
    for message in messages:
        queue.add(frame_of(message))
        await send_rest(queue)


async def receive_messages(
    transport: Transport, inlet: Inlet, got: list[bytes], *, most_bytes: int | None = None
) -> None:
    """Receive once, as soon as there is something, and append copies of the messages that are whole."""
    try:
        frames = inlet.receive(most_bytes)
    except BlockingIOError:
        await receivable(transport)
        return
    got += [bytes(frame.view) for frame in frames]


async def receive_forever(transport: Transport, inlet: Inlet, got: list[bytes]) -> None:
    while True:
        await receive_messages(transport, inlet, got)


class InletSuite:
    """Tests the promises of `meshfs.transport.base.Inlet`."""

    async def test_messages_are_received_whole(self, pair: Pair[Transport]) -> None:
        generator = random.Random(4)
        sizes = [generator.choice((52, 64, 300, 4096, 40_000, MIB + 116)) for _ in range(80)]
        messages = [generator.randbytes(size) for size in sizes]
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, PAYLOAD_OFFSET, 2 * MIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_messages, pair.ours.out_queue(), *messages)
                while len(got) < len(messages):
                    await receive_messages(pair.theirs, inlet, got)
        assert got == messages
        assert inlet.received_bytes >= sum(sizes)
        inlet.close()
        assert pool.used_bytes == 0

    async def test_a_large_payload_lands_page_aligned_and_may_be_taken(self, pair: Pair[Transport]) -> None:
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, PAYLOAD_OFFSET, 2 * MIB)
        messages = [random.Random(8).randbytes(MIB + PAYLOAD_OFFSET), bytes(100)]
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_messages, pair.ours.out_queue(), *messages)
                frames: list[Frame] = []
                while not frames:
                    try:
                        frames = inlet.receive()
                    except BlockingIOError:
                        await receivable(pair.theirs)
                frame = frames[0]
                buffer = frame.take()
                assert buffer is not None
                assert (buffer.address + frame.start + PAYLOAD_OFFSET) % 4096 == 0
                got: list[bytes] = []
                while not got and len(frames) < 2:
                    await receive_messages(pair.theirs, inlet, got)
        assert bytes(frame.view) == messages[0]
        buffer.release()
        inlet.close()
        assert pool.used_bytes == 0

    async def test_a_receive_takes_no_more_than_it_may(self, pair: Pair[Transport]) -> None:
        pool = BufferPool()
        inlet = pair.theirs.inlet(pool, PAYLOAD_OFFSET, 2 * MIB)
        message = random.Random(5).randbytes(200 * KIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_messages, pair.ours.out_queue(), message)
                while not got:
                    before = inlet.received_bytes
                    await receive_messages(pair.theirs, inlet, got, most_bytes=16 * KIB)
                    assert inlet.received_bytes - before <= 16 * KIB
        assert got == [message]
        inlet.close()

    async def test_a_message_that_is_received_in_part_is_known(self, pair: Pair[Transport]) -> None:
        """Of a large message, what is missing can be told, so that the receiver is woken when it has come."""
        pool = BufferPool()
        inlet, queue = pair.theirs.inlet(pool, PAYLOAD_OFFSET, 2 * MIB), pair.ours.out_queue()
        message = random.Random(6).randbytes(100 * KIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            assert not inlet.missing_bytes
            assert not inlet.holds_large
            queue.add(frame_of(message))
            assert queue.send(10 * KIB) is Sent.SOME
            while not inlet.missing_bytes or pair.theirs.pending():
                await receive_messages(pair.theirs, inlet, got)
            assert 89 * KIB < inlet.missing_bytes < 92 * KIB
            assert queue.send(10 * KIB) is Sent.SOME
            while inlet.missing_bytes > 82 * KIB or pair.theirs.pending():
                await receive_messages(pair.theirs, inlet, got)
            assert inlet.large_progress is not None
            assert inlet.missing_bytes == 100 * KIB - inlet.large_progress[1]
            assert inlet.holds_large
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_rest, queue)
                while not got:
                    pair.theirs.expect(inlet.missing_bytes)
                    await receive_messages(pair.theirs, inlet, got)
            assert not inlet.missing_bytes
        assert got == [message]
        inlet.close()
        assert pool.used_bytes == 0

    async def test_what_has_come_is_pending(self, pair: Pair[Transport]) -> None:
        inlet = pair.theirs.inlet(BufferPool(), PAYLOAD_OFFSET, MIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            assert pair.theirs.pending() == 0
            await send_messages(pair.ours.out_queue(), bytes(100))
            await until(lambda: pair.theirs.pending() >= 100)
            while not got:
                await receive_messages(pair.theirs, inlet, got)
            assert pair.theirs.pending() == 0
        inlet.close()

    async def test_without_a_message_receiving_does_not_block(self, pair: Pair[Transport]) -> None:
        inlet = pair.ours.inlet(BufferPool(), PAYLOAD_OFFSET, MIB)
        with pytest.raises(BlockingIOError):
            inlet.receive()
        inlet.close()

    async def test_the_end_comes_after_the_last_message(self, pair: Pair[Transport]) -> None:
        inlet = pair.ours.inlet(BufferPool(), PAYLOAD_OFFSET, MIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            await send_messages(pair.theirs.out_queue(), bytes(100))
            pair.theirs.close()
            with pytest.raises(EndOfStream):
                await receive_forever(pair.ours, inlet, got)
        assert got == [bytes(100)]
        inlet.close()

    async def test_a_lost_connection_fails_receiving(self, pair: Pair[Transport]) -> None:
        inlet = pair.ours.inlet(BufferPool(), PAYLOAD_OFFSET, MIB)
        pair.reset()
        with trio.fail_after(MUST_S), pytest.raises(ConnectionError):
            await receive_forever(pair.ours, inlet, [])
        inlet.close()

    async def test_a_message_longer_than_accepted_breaks_the_protocol(self, pair: Pair[Transport]) -> None:
        pool = BufferPool()
        inlet = pair.ours.inlet(pool, PAYLOAD_OFFSET, 64 * KIB)
        queue = pair.theirs.out_queue()
        queue.add(frame_of(bytes(64 * KIB + 1)))
        queue.send()
        with trio.fail_after(MUST_S), pytest.raises(RemoteProtocolError):
            await receive_forever(pair.ours, inlet, [])
        inlet.close()
        assert pool.used_bytes == 0
