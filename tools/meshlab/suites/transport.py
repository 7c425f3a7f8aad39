"""One test suite that every transport has to pass.

A transport joins the suite with a subclass of TransportSuite and a pytest fixture ``pair``. The fixture gives two
connected transports and a way to break their connection.

    class TestMemoryTransport(TransportSuite):
        @pytest.fixture
        def pair(self): return Pair(*memory_pair(), reset=...)

The suite checks the promises of meshfs/transport/base.py, on which both initiator and exporter rely.
"""

import random
import select
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
import trio
import trio.testing

from meshfs.transport.base import Memory, Transport

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: More bytes than any transport keeps in transit, so that a sender of so many must wait for its receiver.
_MUCH_BYTES: Final = 48 * MIB
#: How long a test waits for an event that must happen, and for an event that must not happen.
MUST_S: Final = 20
_MUST_NOT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends of one connection. ``reset`` breaks it as a dying host would, so that ``ours`` sees an error."""

    ours: Transport
    theirs: Transport
    reset: Callable[[], None]

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def is_readable(transport: Transport) -> bool:
    """Return whether the descriptor is readable now, as the reactor would see it."""
    poll = select.poll()
    poll.register(transport.fd, select.POLLIN)
    return bool(poll.poll(0))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(MUST_S):
        while not condition():  # noqa: ASYNC110 - the kernel sends no event for it
            await trio.sleep(0.001)


async def send_all(transport: Transport, parts: Sequence[Memory]) -> None:
    """Send all bytes of the parts, and continue after each partial send."""
    views = [memoryview(part) for part in parts]
    while views:
        try:
            sent = transport.send(views)
        except BlockingIOError:
            await transport.wait_writable()
            continue
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if views:
            views[0] = views[0][sent:]


async def receive_exactly(transport: Transport, count: int, sizes: Iterable[int] = ()) -> bytes:
    """Receive ``count`` bytes, into buffers of these sizes and then of 1 MiB. Return fewer only at the stream's end."""
    wanted = iter(sizes)
    memory = memoryview(bytearray(MIB))
    data = bytearray()
    while len(data) < count:
        room = memory[: min(next(wanted, MIB), count - len(data))]
        try:
            received = transport.receive_into(room)
        except BlockingIOError:
            await transport.wait_readable()
            continue
        if not received:
            break
        data += room[:received]
    return bytes(data)


def fill(transport: Transport) -> int:
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


class TransportSuite:
    """Tests of the promises of meshfs/transport/base.py."""

    async def test_it_says_what_it_is(self, pair: Pair) -> None:
        for end in (pair.ours, pair.theirs):
            assert end.kind
            assert end.local
            assert end.remote
            assert end.fd >= 0
        assert pair.ours.fd != pair.theirs.fd

    async def test_without_data_receiving_does_not_block(self, pair: Pair) -> None:
        with pytest.raises(BlockingIOError):
            pair.ours.receive_into(memoryview(bytearray(10)))
        assert not is_readable(pair.ours)
        with trio.move_on_after(_MUST_NOT_S) as scope:
            await pair.ours.wait_readable()
        assert scope.cancelled_caught

    async def test_one_byte_at_a_time_arrives_in_order(self, pair: Pair) -> None:
        data = random.Random(1).randbytes(500)
        with trio.fail_after(MUST_S):
            for value in data:
                await send_all(pair.ours, [bytes([value])])
                assert await receive_exactly(pair.theirs, 1) == bytes([value])

    async def test_all_kinds_of_memory_are_sent_as_one(self, pair: Pair) -> None:
        parts: list[Memory] = [b"bytes", b"", bytearray(b"bytearray"), memoryview(bytearray(b"..view.."))[2:6]]
        with trio.fail_after(MUST_S):
            assert pair.ours.send(parts) == 18
            assert await receive_exactly(pair.theirs, 18) == b"bytesbytearrayview"

    async def test_what_was_sent_may_be_overwritten(self, pair: Pair) -> None:
        memory = bytearray(b"before")
        assert pair.ours.send([memory]) == 6
        memory[:] = b"after!"
        with trio.fail_after(MUST_S):
            assert await receive_exactly(pair.theirs, 6) == b"before"

    async def test_many_parts_are_sent_in_one_call(self, pair: Pair) -> None:
        parts = [bytes([index % 256]) * 3 for index in range(1000)]
        with trio.fail_after(MUST_S):
            assert pair.ours.send(parts) == 3000
            assert await receive_exactly(pair.theirs, 3000) == b"".join(parts)

    async def test_a_small_memory_leaves_the_rest_for_later(self, pair: Pair) -> None:
        with trio.fail_after(MUST_S):
            await send_all(pair.ours, [b"0123456789"])
            await until(lambda: pair.theirs.pending() == 10)
            memory = memoryview(bytearray(4))
            assert pair.theirs.receive_into(memory) == 4
            assert bytes(memory) == b"0123"
            assert pair.theirs.pending() == 6
            assert is_readable(pair.theirs)
            assert await receive_exactly(pair.theirs, 6) == b"456789"
            assert pair.theirs.pending() == 0
            assert not is_readable(pair.theirs)

    async def test_messages_pass_whole_across_all_boundaries(self, pair: Pair) -> None:
        """Messages of all sizes go both ways at once, cut differently by the sender and by the receiver."""
        generator = random.Random(2)
        sizes = [generator.choice((1, 4, 68, 300, 4096, 70_000, MIB + 116)) for _ in range(60)]
        messages = [generator.randbytes(size) for size in sizes]
        whole = b"".join(messages)
        cuts = [generator.choice((1, 3, 4096, 65_532)) for _ in range(2000)]

        async def send(end: Transport) -> None:
            for message in messages:
                at = generator.randrange(len(message))
                await send_all(end, [message[:at], message[at:]])

        async def receive(end: Transport) -> None:
            assert await receive_exactly(end, len(whole), cuts) == whole

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                for end in (pair.ours, pair.theirs):
                    nursery.start_soon(send, end)
                    nursery.start_soon(receive, end)

    async def test_a_full_transport_waits_for_its_receiver(self, pair: Pair) -> None:
        """A full sender becomes writable after its receiver has received, and not before (backpressure)."""
        taken = fill(pair.ours)
        assert taken
        with trio.move_on_after(_MUST_NOT_S) as scope:
            await pair.ours.wait_writable()
        assert scope.cancelled_caught
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_exactly, pair.theirs, taken)
                await pair.ours.wait_writable()
                assert pair.ours.send([b"more"]) == 4
            assert await receive_exactly(pair.theirs, 4) == b"more"

    async def test_both_directions_are_full_at_once(self, pair: Pair) -> None:
        """If an end leaves data unreceived, it must still be able to send, and the other end to receive."""
        forth, back = fill(pair.ours), fill(pair.theirs)
        with trio.fail_after(MUST_S):
            assert len(await receive_exactly(pair.ours, back)) == back
            assert len(await receive_exactly(pair.theirs, forth)) == forth
            await send_all(pair.ours, [b"forth"])
            await send_all(pair.theirs, [b"back"])
            assert await receive_exactly(pair.ours, 4) == b"back"
            assert await receive_exactly(pair.theirs, 5) == b"forth"

    async def test_one_task_waits_in_each_direction(self, pair: Pair) -> None:
        taken = fill(pair.ours)
        woken: list[str] = []

        async def wait(how: str) -> None:
            await (pair.ours.wait_readable() if how == "readable" else pair.ours.wait_writable())
            woken.append(how)

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, "readable")
                nursery.start_soon(wait, "writable")
                await trio.testing.wait_all_tasks_blocked(_MUST_NOT_S)
                await send_all(pair.theirs, [b"x"])
                await until(lambda: woken == ["readable"])
                await receive_exactly(pair.theirs, taken)
                await until(lambda: woken == ["readable", "writable"])

    async def test_the_end_of_the_stream_comes_after_its_bytes(self, pair: Pair) -> None:
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [b"last words"])
            pair.theirs.close()
            assert await receive_exactly(pair.ours, 100) == b"last words"
            for _ in range(3):
                await pair.ours.wait_readable()
                assert is_readable(pair.ours)
                assert pair.ours.receive_into(memoryview(bytearray(10))) == 0

    async def test_the_end_of_the_stream_wakes_whoever_waits(self, pair: Pair) -> None:
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.ours.wait_readable)
                await trio.testing.wait_all_tasks_blocked(_MUST_NOT_S)
                pair.theirs.close()

    async def test_sending_to_an_end_that_is_gone_fails(self, pair: Pair) -> None:
        pair.theirs.close()
        await self._sending_fails(pair.ours)

    async def test_a_sender_that_waits_is_woken_when_the_other_end_goes(self, pair: Pair) -> None:
        fill(pair.ours)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.ours.wait_writable)
                await trio.testing.wait_all_tasks_blocked(_MUST_NOT_S)
                pair.theirs.close()
        await self._sending_fails(pair.ours)

    async def test_a_reset_fails_receiving_and_sending(self, pair: Pair) -> None:
        pair.reset()
        with trio.fail_after(MUST_S):
            await pair.ours.wait_readable()
        with pytest.raises(ConnectionError):
            await receive_exactly(pair.ours, MIB)
        await self._sending_fails(pair.ours)

    async def test_a_reset_wakes_a_sender_that_waits(self, pair: Pair) -> None:
        fill(pair.ours)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.ours.wait_writable)
                await trio.testing.wait_all_tasks_blocked(_MUST_NOT_S)
                pair.reset()
        await self._sending_fails(pair.ours)

    async def _sending_fails(self, transport: Transport) -> None:
        async def send() -> None:
            while True:
                await send_all(transport, [b"x"])
                await trio.sleep(0.001)

        with trio.fail_after(MUST_S), pytest.raises(ConnectionError):
            await send()

    async def test_expecting_much_does_not_lose_the_end_of_a_message(self, pair: Pair) -> None:
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
                        await pair.ours.wait_readable()
            pair.ours.expect(0)
            await send_all(pair.theirs, [b"x"])
            await pair.ours.wait_readable()

    async def test_what_is_expected_is_received_before_it_is_whole(self, pair: Pair) -> None:
        """``expect`` only saves wake-ups: bytes that have arrived can still be received and counted."""
        pair.ours.expect(1000)
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [bytes(10)])
            await until(lambda: pair.ours.pending() == 10)
            assert pair.ours.receive_into(memoryview(bytearray(100))) == 10
            await send_all(pair.theirs, [bytes(5)])
            await until(lambda: pair.ours.pending() == 5)
            pair.ours.expect(0)
            await pair.ours.wait_readable()
            assert is_readable(pair.ours)

    async def test_the_end_of_the_stream_wakes_whatever_is_expected(self, pair: Pair) -> None:
        pair.ours.expect(MIB)
        with trio.fail_after(MUST_S):
            await send_all(pair.theirs, [b"x"])
            pair.theirs.close()
            await pair.ours.wait_readable()
            assert is_readable(pair.ours)

    async def test_closing_twice_is_closing_once(self, pair: Pair) -> None:
        pair.ours.close()
        pair.ours.close()
        with trio.fail_after(MUST_S):
            assert await receive_exactly(pair.theirs, 1) == b""

    async def test_after_closing_nothing_is_sent_or_received(self, pair: Pair) -> None:
        pair.ours.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            pair.ours.send([b"x"])
        with pytest.raises(OSError, match="Bad file descriptor"):
            pair.ours.receive_into(memoryview(bytearray(1)))

    async def test_after_closing_nobody_waits(self, pair: Pair) -> None:
        """After the close, the kernel may give the descriptor's number to another connection."""
        pair.ours.close()
        with trio.fail_after(MUST_S):
            with pytest.raises(trio.ClosedResourceError):
                await pair.ours.wait_readable()
            with pytest.raises(trio.ClosedResourceError):
                await pair.ours.wait_writable()

    async def test_closing_wakes_those_that_wait(self, pair: Pair) -> None:
        fill(pair.ours)
        woken: list[str] = []

        async def wait(how: str) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await (pair.ours.wait_readable() if how == "readable" else pair.ours.wait_writable())
            woken.append(how)

        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, "readable")
                nursery.start_soon(wait, "writable")
                await trio.testing.wait_all_tasks_blocked(_MUST_NOT_S)
                pair.ours.close()
        assert sorted(woken) == ["readable", "writable"]
