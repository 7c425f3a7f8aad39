"""One test suite for the sending side of every transport."""

import random

import pytest
import trio

from meshfs.buffers import FRAMING_BYTES, HEADROOM_BYTES, BufferPool
from meshfs.transport.base import OutQueue, Sent, Transport
from meshlab.suites.ends import KIB, MIB, MUST_NOT_S, MUST_S, Pair, room, until
from meshlab.suites.inlet import PAYLOAD_OFFSET, frame_of, receive_messages, send_rest

#: More than any transport keeps in transit.
_MUCH_BYTES = 48 * MIB


def fill(queue: OutQueue) -> int:
    """Add and send messages until the transport is full. Return how many there are."""
    count = 0
    while True:
        queue.add(frame_of(bytes(256 * KIB)))
        count += 1
        if queue.send() is Sent.FULL:
            return count
        assert queue.sent_bytes <= _MUCH_BYTES, "the transport takes data without bound"


async def receive(transport: Transport, count: int, most_bytes: int = 8 * MIB) -> list[bytes]:
    """Receive ``count`` messages, and return copies of them."""
    pool = BufferPool()
    inlet = transport.inlet(pool, PAYLOAD_OFFSET, most_bytes)
    got: list[bytes] = []
    while len(got) < count:
        await receive_messages(transport, inlet, got)
    inlet.close()
    return got


class OutQueueSuite:
    """Tests the promises of `meshfs.transport.base.OutQueue`."""

    async def test_messages_leave_in_their_order(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        generator = random.Random(1)
        messages = [generator.randbytes(generator.choice((52, 80, 4096))) for _ in range(20)]
        for index, message in enumerate(messages):
            assert queue.add(frame_of(message)) == index + 1
        assert len(queue) == 20
        assert queue.sent_bytes == 0
        assert sum(map(len, messages)) <= queue.unsent_bytes <= queue.unpooled_bytes
        unsent = queue.unsent_bytes
        with trio.fail_after(MUST_S):
            await send_rest(queue)
            assert (len(queue), queue.unsent_bytes, queue.unpooled_bytes) == (0, 0, 0)
            assert queue.sent_bytes == unsent
            assert await receive(pair.theirs, 20) == messages

    @pytest.mark.parametrize("size", [1, 100, MIB])
    async def test_data_follows_its_frame(self, pair: Pair[Transport], size: int) -> None:
        queue = pair.ours.out_queue()
        head, data = bytes(range(PAYLOAD_OFFSET)), random.Random(2).randbytes(size)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                queue.add(frame_of(head), memoryview(data))
                queue.add(frame_of(bytes(64)))
                nursery.start_soon(send_rest, queue)
                assert await receive(pair.theirs, 2) == [head + data, bytes(64)]

    async def test_lent_data_may_change_after_the_next_send(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        count = fill(queue)
        data = bytearray(b"before" * 1000)
        queue.add(frame_of(bytes(PAYLOAD_OFFSET)), memoryview(data))
        assert queue.send() is Sent.FULL
        data[:] = b"after!" * 1000
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_rest, queue)
                got = await receive(pair.theirs, count + 1)
        assert got[-1] == bytes(PAYLOAD_OFFSET) + b"before" * 1000

    async def test_a_full_transport_calls_back_when_its_receiver_has_received(self, pair: Pair[Transport]) -> None:
        """A full transport has room after its receiver has received, and not before (backpressure)."""
        queue = pair.ours.out_queue()
        count = fill(queue)
        called: list[bool] = []
        queue.when_room(lambda: called.append(True))
        await trio.sleep(MUST_NOT_S)
        assert not called
        # Nothing is sent while somebody waits for room, not even where there is some.
        assert queue.send() is Sent.FULL
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, pair.theirs, count)
                await until(lambda: bool(called))
                await send_rest(queue)
        assert called == [True]

    async def test_a_bound_cuts_a_message(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        message = random.Random(3).randbytes(300 * KIB)
        queue.add(frame_of(message))

        async def send_in_pieces() -> None:
            while True:
                before = queue.sent_bytes
                sent = queue.send(16 * KIB)
                assert queue.sent_bytes - before <= 16 * KIB
                if sent is Sent.ALL:
                    return
                assert len(queue)
                if sent is Sent.FULL:
                    await room(queue)

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_in_pieces)
                assert await receive(pair.theirs, 1) == [message]

    async def test_a_buffer_is_released_when_its_message_is_sent(self, pair: Pair[Transport]) -> None:
        queue, pool = pair.ours.out_queue(), BufferPool()
        for size in (100, 1000):
            buffer = pool.acquire(size)
            frame = buffer.view[HEADROOM_BYTES - FRAMING_BYTES - 80 : HEADROOM_BYTES + size]
            queue.add(frame, None, buffer)
        assert queue.unpooled_bytes == 0
        assert queue.unsent_bytes >= 1100
        with trio.fail_after(MUST_S):
            await send_rest(queue)
            assert pool.used_bytes == 0
            assert [len(message) for message in await receive(pair.theirs, 2)] == [180, 1080]

    async def test_what_is_dropped_is_released_and_calls_nobody(self, pair: Pair[Transport]) -> None:
        queue, pool = pair.ours.out_queue(), BufferPool()
        called: list[bool] = []
        fill(queue)
        buffer = pool.acquire(2000)
        queue.add(buffer.view[:2000], None, buffer)
        assert queue.send() is Sent.FULL
        queue.when_room(lambda: called.append(True))
        queue.drop()
        assert pool.used_bytes == 0
        assert (len(queue), queue.unsent_bytes, queue.unpooled_bytes) == (0, 0, 0)
        assert queue.send() is Sent.ALL
        pair.theirs.close()
        await trio.sleep(MUST_NOT_S)
        assert not called

    async def test_a_lost_connection_fails_sending(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        pair.reset()
        await self._adding_fails(queue)

    async def test_sending_to_an_end_that_is_gone_fails(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        pair.theirs.close()
        await self._adding_fails(queue)

    async def test_a_sender_that_waits_is_called_when_the_other_end_goes(self, pair: Pair[Transport]) -> None:
        queue = pair.ours.out_queue()
        fill(queue)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room, queue)
                await trio.sleep(MUST_NOT_S)
                pair.theirs.close()
        await self._adding_fails(queue)

    async def _adding_fails(self, queue: OutQueue) -> None:
        with trio.fail_after(MUST_S), pytest.raises(ConnectionError):  # noqa: PT012 - a socket may learn it by sending
            while True:
                queue.add(frame_of(bytes(64)))
                queue.send()
                await trio.sleep(0.001)
