"""The queue of what waits to be sent: its order, its bounds, and when pooled memory is released."""

import random
from collections.abc import AsyncIterator, Sequence

import pytest

from meshfs.buffers import Buffer, BufferPool
from meshfs.transport.base import Memory
from meshfs.transport.out_queue import OutQueue, Sent
from meshlab.fakes.memory_transport import MemoryTransport, memory_pair


class Sink:
    """The receiving end of a transport, and how large each call of ``send`` was."""

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


def queue_of(sink: Sink, *parts: tuple[Memory, Buffer | None]) -> OutQueue:
    return OutQueue(sink.ours, list(parts))


async def test_all_parts_leave_in_one_call(sink: Sink) -> None:
    queue = queue_of(sink, (b"one", None), (bytearray(b"two"), None), (memoryview(b"three"), None))
    assert queue.send_some() is Sent.ALL
    assert sink.receive() == b"onetwothree"
    assert sink.calls == [(3, 11)]
    assert queue.waiting == []
    assert queue.sent_bytes == 11


async def test_the_rest_of_a_part_stays_at_the_head(sink: Sink) -> None:
    data = random.Random(1).randbytes(2500)
    queue = queue_of(sink, (data[:100], None), (data[100:2400], None), (data[2400:], None))
    assert queue.send_some() is Sent.FULL
    assert queue.sent_bytes == 1000
    received = sink.receive()
    queue.send_once()
    received += sink.receive()
    assert len(received) == 2000
    assert queue.send_some() is Sent.ALL
    assert received + sink.receive() == data


async def test_a_bound_cuts_the_last_part(sink: Sink) -> None:
    data = random.Random(2).randbytes(700)
    queue = queue_of(sink, (data[:300], None), (data[300:], None))
    assert queue.send_some(500) is Sent.SOME
    assert sink.receive() == data[:500]
    assert queue.send_some(200) is Sent.ALL
    assert sink.receive() == data[500:]


async def test_a_call_has_no_more_parts_than_the_kernel_takes(sink: Sink) -> None:
    for bound in (10_000, None):
        queue = queue_of(sink, *[(bytes([index % 251]), None) for index in range(1500)])
        sink.calls.clear()
        data = b""
        while queue.waiting:
            if bound is None:
                queue.send_some()
            else:
                queue.send_some(bound)
            data += sink.receive()
        assert max(parts for parts, _ in sink.calls) <= 1024
        assert data == bytes(index % 251 for index in range(1500))


async def test_a_buffer_is_released_when_its_part_is_sent_whole(sink: Sink) -> None:
    pool = BufferPool()
    buffers = [pool.acquire(700) for _ in range(2)]
    queue = queue_of(sink, *[(buffer.view[:700], buffer) for buffer in buffers])
    whole = pool.used_bytes
    assert queue.send_some() is Sent.FULL
    assert 0 < pool.used_bytes < whole
    sink.receive()
    assert queue.send_some() is Sent.ALL
    assert pool.used_bytes == 0


async def test_dropped_frames_are_not_sent_and_their_buffers_are_released(sink: Sink) -> None:
    pool = BufferPool()
    buffer = pool.acquire(2000)
    queue = queue_of(sink, (buffer.view[:2000], buffer), (b"more", None))
    assert queue.send_some() is Sent.FULL
    queue.drop()
    assert pool.used_bytes == 0
    sink.receive()
    assert queue.send_some() is Sent.ALL
    assert sink.receive() == b""


async def test_a_lost_connection_raises_and_nothing_is_taken_off(sink: Sink) -> None:
    queue = queue_of(sink, (b"one", None))
    sink.ours.reset()
    with pytest.raises(ConnectionResetError):
        queue.send_some()
    assert queue.waiting == [(b"one", None)]
