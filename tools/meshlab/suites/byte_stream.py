"""One test suite for every transport that carries a stream of bytes.

A transport joins the suite with a subclass of ByteStreamSuite and a pytest fixture ``pair``. The fixture gives two
connected transports and a way to break their connection.

    class TestMemoryBytes(ByteStreamSuite):
        @pytest.fixture
        def pair(self): return Pair(*memory_pair(), reset=...)

The suite checks the promises of meshfs/transport/byte_stream.py, on which inlets and out queues of streams rely.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import pytest
import trio
import trio.testing

from meshfs.transport.base import Memory, Transport
from meshfs.transport.byte_stream import ByteStream
from meshlab.suites.ends import KIB, MIB, MUST_NOT_S, MUST_S, Pair, fail, is_receivable, receivable, until, wake

#: More bytes than any transport keeps in transit, so that a sender of so many must wait for its receiver.
_MUCH_BYTES: Final = 48 * MIB


class StreamEnd(Transport, ByteStream, Protocol):
    """A transport that carries a stream."""


Ends = Pair[StreamEnd]


async def writable(stream: ByteStream) -> None:
    """Return when ``send`` is worth a try."""
    event = trio.Event()
    stream.when_writable(lambda: wake(event))
    await event.wait()


async def send_all(transport: StreamEnd, parts: Sequence[Memory]) -> None:
    """Send all bytes of the parts, and continue after each partial send."""
    views = [memoryview(part) for part in parts]
    while views:
        try:
            sent = transport.send(views)
        except BlockingIOError:
            await writable(transport)
            continue
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if views:
            views[0] = views[0][sent:]


async def receive_exactly(transport: StreamEnd, count: int, sizes: Iterable[int] = ()) -> bytes:
    """Receive ``count`` bytes, into buffers of these sizes and then of 1 MiB. Return fewer only at the stream's end."""
    wanted = iter(sizes)
    memory = memoryview(bytearray(MIB))
    data = bytearray()
    while len(data) < count:
        room = memory[: min(next(wanted, MIB), count - len(data))]
        try:
            received = transport.receive_into(room)
        except BlockingIOError:
            await receivable(transport)
            continue
        if not received:
            break
        data += room[:received]
    return bytes(data)


def fill(transport: StreamEnd) -> int:
    """Send until the transport takes nothing more, and return how many bytes it took."""
    taken = 0
    piece = bytes(256 * KIB)
    while True:
        try:
            sent = transport.send([piece])
        except BlockingIOError:
            return taken
        assert 0 < sent <= len(piece)
        taken += sent
        assert taken <= _MUCH_BYTES, "the transport takes data without bound"


class ByteStreamSuite:
    """Tests the promises of `meshfs.transport.byte_stream.ByteStream`."""

    async def test_without_data_receiving_does_not_block(self, pair: Ends) -> None:
        with pytest.raises(BlockingIOError):
            pair.ours.receive_into(memoryview(bytearray(10)))
        assert not await is_receivable(pair.ours)
        with trio.move_on_after(MUST_NOT_S) as scope:
            await receivable(pair.ours)
        assert scope.cancelled_caught

    async def test_one_byte_at_a_time_arrives_in_order(self, pair: Ends) -> None:
        data = random.Random(1).randbytes(500)
        with trio.fail_after(MUST_S):
            for value in data:
                await send_all(pair.ours, [bytes([value])])
                assert await receive_exactly(pair.theirs, 1) == bytes([value])

    async def test_all_kinds_of_memory_are_sent_as_one(self, pair: Ends) -> None:
        parts: list[Memory] = [b"bytes", b"", bytearray(b"bytearray"), memoryview(bytearray(b"..view.."))[2:6]]
        with trio.fail_after(MUST_S):
            assert pair.ours.send(parts) == 18
            assert await receive_exactly(pair.theirs, 18) == b"bytesbytearrayview"

    async def test_what_was_sent_may_be_overwritten(self, pair: Ends) -> None:
        memory = bytearray(b"before")
        assert pair.ours.send([memory]) == 6
        memory[:] = b"after!"
        with trio.fail_after(MUST_S):
            assert await receive_exactly(pair.theirs, 6) == b"before"

    async def test_many_parts_are_sent_in_one_call(self, pair: Ends) -> None:
        parts = [bytes([index % 256]) * 3 for index in range(1000)]
        with trio.fail_after(MUST_S):
            assert pair.ours.send(parts) == 3000
            assert await receive_exactly(pair.theirs, 3000) == b"".join(parts)

    async def test_a_small_memory_leaves_the_rest_for_later(self, pair: Ends) -> None:
        with trio.fail_after(MUST_S):
            await send_all(pair.ours, [b"0123456789"])
            await until(lambda: pair.theirs.pending() == 10)
            memory = memoryview(bytearray(4))
            assert pair.theirs.receive_into(memory) == 4
            assert bytes(memory) == b"0123"
            assert pair.theirs.pending() == 6
            assert await is_receivable(pair.theirs)
            assert await receive_exactly(pair.theirs, 6) == b"456789"
            assert pair.theirs.pending() == 0
            assert not await is_receivable(pair.theirs)

    async def test_messages_pass_whole_across_all_boundaries(self, pair: Ends) -> None:
        """Messages of all sizes go both ways at once, cut differently by the sender and by the receiver."""
        generator = random.Random(2)
        sizes = [generator.choice((1, 4, 68, 300, 4096, 70_000, MIB + 116)) for _ in range(60)]
        messages = [generator.randbytes(size) for size in sizes]
        whole = b"".join(messages)
        cuts = [generator.choice((1, 3, 4096, 65_532)) for _ in range(2000)]

        async def send(end: StreamEnd) -> None:
            for message in messages:
                at = generator.randrange(len(message))
                await send_all(end, [message[:at], message[at:]])

        async def receive(end: StreamEnd) -> None:
            assert await receive_exactly(end, len(whole), cuts) == whole

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                for end in (pair.ours, pair.theirs):
                    nursery.start_soon(send, end)
                    nursery.start_soon(receive, end)

    async def test_a_full_transport_waits_for_its_receiver(self, pair: Ends) -> None:
        """A full sender becomes writable after its receiver has received, and not before (backpressure)."""
        taken = fill(pair.ours)
        assert taken
        with trio.move_on_after(MUST_NOT_S) as scope:
            await writable(pair.ours)
        assert scope.cancelled_caught
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_exactly, pair.theirs, taken)
                await writable(pair.ours)
                assert pair.ours.send([b"more"]) == 4
            assert await receive_exactly(pair.theirs, 4) == b"more"

    async def test_both_directions_are_full_at_once(self, pair: Ends) -> None:
        """If an end leaves data unreceived, it must still be able to send, and the other end to receive."""
        forth, back = fill(pair.ours), fill(pair.theirs)
        with trio.fail_after(MUST_S):
            assert len(await receive_exactly(pair.ours, back)) == back
            assert len(await receive_exactly(pair.theirs, forth)) == forth
            await send_all(pair.ours, [b"forth"])
            await send_all(pair.theirs, [b"back"])
            assert await receive_exactly(pair.ours, 4) == b"back"
            assert await receive_exactly(pair.theirs, 5) == b"forth"

    async def test_one_task_waits_in_each_direction(self, pair: Ends) -> None:
        taken = fill(pair.ours)
        woken: list[str] = []

        async def wait(how: str) -> None:
            await (receivable(pair.ours) if how == "readable" else writable(pair.ours))
            woken.append(how)

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, "readable")
                nursery.start_soon(wait, "writable")
                await trio.testing.wait_all_tasks_blocked(MUST_NOT_S)
                await send_all(pair.theirs, [b"x"])
                await until(lambda: woken == ["readable"])
                await receive_exactly(pair.theirs, taken)
                await until(lambda: woken == ["readable", "writable"])

    async def test_the_end_of_the_stream_comes_after_its_bytes(self, pair: Ends) -> None:
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [b"last words"])
            pair.theirs.close()
            assert await receive_exactly(pair.ours, 100) == b"last words"
            for _ in range(3):
                await receivable(pair.ours)
                assert await is_receivable(pair.ours)
                assert pair.ours.receive_into(memoryview(bytearray(10))) == 0

    async def test_the_end_of_the_stream_wakes_whoever_waits(self, pair: Ends) -> None:
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receivable, pair.ours)
                await trio.testing.wait_all_tasks_blocked(MUST_NOT_S)
                pair.theirs.close()

    async def test_sending_to_an_end_that_is_gone_fails(self, pair: Ends) -> None:
        pair.theirs.close()
        await self._sending_fails(pair.ours)

    async def test_a_sender_that_waits_is_woken_when_the_other_end_goes(self, pair: Ends) -> None:
        fill(pair.ours)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writable, pair.ours)
                await trio.testing.wait_all_tasks_blocked(MUST_NOT_S)
                pair.theirs.close()
        await self._sending_fails(pair.ours)

    async def test_a_reset_fails_receiving_and_sending(self, pair: Ends) -> None:
        pair.reset()
        with trio.fail_after(MUST_S):
            await receivable(pair.ours)
        with pytest.raises(ConnectionError):
            await receive_exactly(pair.ours, MIB)
        await self._sending_fails(pair.ours)

    async def test_a_reset_wakes_a_sender_that_waits(self, pair: Ends) -> None:
        fill(pair.ours)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writable, pair.ours)
                await trio.testing.wait_all_tasks_blocked(MUST_NOT_S)
                pair.reset()
        await self._sending_fails(pair.ours)

    async def _sending_fails(self, transport: StreamEnd) -> None:
        async def send() -> None:
            while True:
                await send_all(transport, [b"x"])
                await trio.sleep(0.001)

        with trio.fail_after(MUST_S), pytest.raises(ConnectionError):
            await send()

    async def test_expecting_much_does_not_lose_the_end_of_a_message(self, pair: Ends) -> None:
        """A receiver that calls ``expect`` after each receive is woken for the last byte of every message."""
        length = 20 * MIB + 7
        data = random.Random(3).randbytes(MIB)

        async def send() -> None:
            for at in range(0, length, MIB):
                await send_all(pair.theirs, [data[: min(MIB, length - at)]])

        memory = memoryview(bytearray(MIB))
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                missing = length
                while missing:
                    pair.ours.expect(missing)
                    try:
                        missing -= pair.ours.receive_into(memory[: min(missing, MIB)])
                    except BlockingIOError:
                        await receivable(pair.ours)
            pair.ours.expect(0)
            await send_all(pair.theirs, [b"x"])
            await receivable(pair.ours)

    async def test_what_is_expected_is_received_before_it_is_whole(self, pair: Ends) -> None:
        """``expect`` only saves wake-ups: bytes that have arrived can still be received and counted."""
        pair.ours.expect(1000)
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [bytes(10)])
            await until(lambda: pair.ours.pending() == 10)
            assert pair.ours.receive_into(memoryview(bytearray(100))) == 10
            await send_all(pair.theirs, [bytes(5)])
            await until(lambda: pair.ours.pending() == 5)
            pair.ours.expect(0)
            await receivable(pair.ours)
            assert await is_receivable(pair.ours)

    async def test_the_end_of_the_stream_wakes_whatever_is_expected(self, pair: Ends) -> None:
        pair.ours.expect(MIB)
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [b"x"])
            pair.theirs.close()
            await receivable(pair.ours)
            assert await is_receivable(pair.ours)

    async def test_closing_twice_is_closing_once(self, pair: Ends) -> None:
        pair.ours.close()
        pair.ours.close()
        with trio.fail_after(MUST_S):
            assert await receive_exactly(pair.theirs, 1) == b""

    async def test_after_closing_nothing_is_sent_or_received(self, pair: Ends) -> None:
        pair.ours.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            pair.ours.send([b"x"])
        with pytest.raises(OSError, match="Bad file descriptor"):
            pair.ours.receive_into(memoryview(bytearray(1)))

    async def test_after_closing_nobody_is_called(self, pair: Ends) -> None:
        """After the close, the kernel may give the descriptor's number to another connection."""
        called: list[str] = []
        fill(pair.ours)
        pair.ours.watch(lambda: called.append("watch"), fail)
        pair.ours.when_writable(lambda: called.append("when_writable"))
        pair.ours.close()
        pair.ours.watch(lambda: called.append("watch after the close"), fail)
        pair.ours.when_writable(lambda: called.append("when_writable after the close"))
        pair.ours.unwatch()
        pair.theirs.close()
        await trio.sleep(MUST_NOT_S)
        assert called == []
