"""The out queue against a model: whatever the stream takes, each byte leaves once, and the figures are exact."""

import random
from collections.abc import Callable, Sequence

import pytest

from meshfs.buffers import FRAMING_BYTES, BufferPool
from meshfs.transport import out_queue
from meshfs.transport.base import Memory
from meshfs.transport.out_queue import StreamOutQueue

_FRAME_MAX_BYTES = 20
_DATA_MAX_BYTES = 30


class CapriciousStream:
    """Takes all, a part or nothing of what it gets."""

    def __init__(self, dice: random.Random) -> None:
        self.taken = bytearray()
        self._dice = dice
        self._on_room: Callable[[], None] | None = None
        self.send: Callable[[Sequence[Memory]], int] = self._take
        self.receive_into: Callable[[memoryview], int] = lambda _: 0

    def _take(self, parts: Sequence[Memory]) -> int:
        offered = b"".join(parts)
        count = self._dice.choice([len(offered), self._dice.randint(0, len(offered))])
        if not count:
            raise BlockingIOError
        self.taken += offered[:count]
        return count

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._on_room = callback

    def make_room(self) -> None:
        callback, self._on_room = self._on_room, None
        if callback is not None:
            callback()


def add(queue: StreamOutQueue, pool: BufferPool, dice: random.Random) -> tuple[bytes, bytearray]:
    """Add a message. Return its bytes on the wire, and the caller's memory that it lends to the queue, if any."""
    body, lent = dice.randbytes(dice.randint(0, _FRAME_MAX_BYTES)), bytearray()
    if dice.random() < 0.5:
        lent += dice.randbytes(dice.randint(0, _DATA_MAX_BYTES))
        data = memoryview(lent) if dice.random() < 0.5 else bytes(lent)
        queue.add(bytearray(FRAMING_BYTES) + body, data)
    else:
        buffer = pool.acquire(1) if dice.random() < 0.5 else None
        queue.add(memoryview(bytearray(FRAMING_BYTES) + body), None, buffer)
    message = body + lent
    return len(message).to_bytes(FRAMING_BYTES, "big") + message, lent


def check_figures(queue: StreamOutQueue, stream: CapriciousStream, wire: bytearray) -> None:
    assert queue.sent_bytes == len(stream.taken)
    assert queue.unsent_bytes == len(wire) - len(stream.taken)
    assert bool(len(queue)) == bool(queue.unsent_bytes)
    assert queue.unpooled_bytes <= queue.unsent_bytes + len(queue) * 200


@pytest.mark.parametrize("seed", range(300))
def test_each_byte_leaves_once_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice, pool, wire = random.Random(seed), BufferPool(), bytearray()
    monkeypatch.setattr(out_queue, "_IOV_MAX", dice.choice([2, 3, 1024]))
    stream = CapriciousStream(dice)
    queue = StreamOutQueue(stream)
    for _ in range(dice.randint(1, 40)):
        message, lent = add(queue, pool, dice)
        wire += message
        if dice.random() < 0.3:
            queue.when_room(lambda: None)
        queue.send(dice.choice([None, 1, 7, 50]))
        # The call has returned, so the caller may use its memory for something else.
        lent[:] = bytes(len(lent))
        check_figures(queue, stream, wire)
        if dice.random() < 0.7:
            stream.make_room()
    stream.make_room()
    while queue.unsent_bytes:
        queue.send()
    check_figures(queue, stream, wire)
    assert stream.taken == wire
    assert not queue.unpooled_bytes
    assert not pool.used_bytes, "every buffer was released"
