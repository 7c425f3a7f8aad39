"""The out queue of a stream: what the stream gets in one call, and what is kept. `OutQueueSuite` has the rest."""

import random
from collections.abc import AsyncIterator, Sequence

import pytest

from meshfs.buffers import FRAMING_BYTES, BufferPool
from meshfs.transport.base import Memory, Sent
from meshfs.transport.out_queue import StreamOutQueue
from meshlab.fakes.memory_transport import MemoryTransport, memory_pair


class Sink:
    """The receiving end of a stream, and how large each call of ``send`` was."""

    def __init__(self, capacity_bytes: int) -> None:
        self.ours, self.theirs = memory_pair(capacity_bytes)
        self.calls: list[tuple[int, int]] = []
        self._send = self.ours.send
        self.ours.send = self._noting

    def _noting(self, parts: Sequence[Memory]) -> int:
        self.calls.append((len(parts), sum(map(len, parts))))
        return self._send(parts)

    def receive(self) -> bytes:
        return take(self.theirs)


def take(transport: MemoryTransport) -> bytes:
    data = b""
    memory = memoryview(bytearray(1 << 16))
    while transport.pending():
        data += memory[: transport.receive_into(memory)]
    return data


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink(1000)
    yield sink
    sink.ours.close()
    sink.theirs.close()


def queue_of(sink: Sink, *messages: bytes) -> StreamOutQueue:
    queue = StreamOutQueue(sink.ours)
    for message in messages:
        queue.add(bytearray(FRAMING_BYTES) + message)
    return queue


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


async def test_all_messages_leave_in_one_call_each_behind_its_length(sink: Sink) -> None:
    queue = queue_of(sink, b"one")
    frame = bytearray(b"\xee\xee\xee\xeethree")
    queue.add(memoryview(frame))
    queue.add(bytearray(b"\xee" * 4 + b"head"), b"and data")
    assert queue.send() is Sent.ALL
    assert sink.receive() == framed(b"one") + framed(b"three") + framed(b"headand data")
    assert sink.calls == [(4, 7 + 9 + 16)]
    assert len(queue) == 0
    assert queue.sent_bytes == 32


async def test_the_rest_of_a_message_stays_at_the_head(sink: Sink) -> None:
    data = random.Random(1).randbytes(2488)
    queue = queue_of(sink, data[:100], data[100:2400], data[2400:])
    assert queue.send() is Sent.FULL
    assert queue.sent_bytes == 1000
    assert len(sink.calls) == 1
    assert len(queue) == 2
    assert queue.unsent_bytes == 1500
    received = sink.receive()
    assert queue.send() is Sent.FULL
    received += sink.receive()
    assert len(received) == 2000
    assert queue.send() is Sent.ALL
    assert received + sink.receive() == framed(data[:100]) + framed(data[100:2400]) + framed(data[2400:])


async def test_a_bound_cuts_the_last_part(sink: Sink) -> None:
    data = random.Random(2).randbytes(692)
    queue = queue_of(sink, data[:300], data[300:])
    whole = framed(data[:300]) + framed(data[300:])
    assert queue.send(500) is Sent.SOME
    assert sink.receive() == whole[:500]
    assert queue.send(200) is Sent.ALL
    assert sink.receive() == whole[500:]


async def test_a_call_has_no_more_parts_than_the_kernel_takes(sink: Sink) -> None:
    for bound in (10_000, None):
        messages = [bytes([index % 251]) for index in range(1500)]
        queue = queue_of(sink, *messages)
        sink.calls.clear()
        data = b""
        while len(queue):
            queue.send(bound)
            data += sink.receive()
        assert max(parts for parts, _ in sink.calls) <= 1024
        assert data == b"".join(map(framed, messages))


async def test_a_buffer_is_released_when_its_message_is_sent_whole(sink: Sink) -> None:
    pool = BufferPool()
    queue = queue_of(sink)
    for _ in range(2):
        buffer = pool.acquire(700)
        queue.add(buffer.view[:700], None, buffer)
    whole = pool.used_bytes
    assert queue.send() is Sent.FULL
    assert 0 < pool.used_bytes < whole
    sink.receive()
    assert queue.send() is Sent.ALL
    assert pool.used_bytes == 0


async def test_only_memory_outside_of_the_pool_counts_as_unpooled(sink: Sink) -> None:
    pool = BufferPool()
    buffer = pool.acquire(2000)
    queue = queue_of(sink, bytes(596))
    alone = queue.unpooled_bytes
    assert 600 < alone < 1000
    queue.add(buffer.view[:2000], None, buffer)
    queue.add(bytearray(600), memoryview(bytearray(700)))
    assert 1300 < queue.unpooled_bytes - alone < 2000
    taken = []
    while queue.send() is Sent.FULL:
        sink.receive()
        taken.append((queue.unsent_bytes, queue.unpooled_bytes))
    assert [unsent for unsent, _ in taken] == [2900, 1900, 900]
    assert taken[0][1] == taken[1][1]
    assert 900 < taken[2][1] < 1500
    assert queue.unpooled_bytes == 0


async def test_unsent_data_of_a_caller_is_copied_and_nothing_else(sink: Sink) -> None:
    frame, lent, own = bytearray(600), bytearray(b"lent" * 500), b"kept" * 500
    queue = queue_of(sink)
    queue.add(frame, memoryview(lent)[4:])
    queue.add(bytearray(4), memoryview(own)[4:])
    assert queue.send() is Sent.FULL
    lent[:] = b"away" * 500
    data = sink.receive()
    while queue.send() is Sent.FULL:
        data += sink.receive()
    assert data + sink.receive() == bytes(frame) + b"lent" * 499 + framed(b"kept" * 499)


async def test_a_lost_connection_raises_and_nothing_is_taken_off(sink: Sink) -> None:
    queue = queue_of(sink, b"one")
    sink.ours.reset()
    with pytest.raises(ConnectionResetError):
        queue.send()
    assert len(queue) == 1
