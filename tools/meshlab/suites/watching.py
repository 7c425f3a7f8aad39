"""One test suite for the callbacks of every transport."""

import trio

from meshfs.buffers import BufferPool
from meshfs.transport.base import Transport
from meshlab.suites.ends import MIB, MUST_NOT_S, MUST_S, Pair, fail, is_receivable, until
from meshlab.suites.inlet import PAYLOAD_OFFSET, receive_messages, send_messages, send_rest
from meshlab.suites.out_queue import fill, receive


class WatchingSuite:
    """Tests the promises of `meshfs.transport.base.Transport` about callbacks."""

    async def test_it_says_what_it_is(self, pair: Pair[Transport]) -> None:
        for end in (pair.ours, pair.theirs):
            assert end.kind
            assert end.local
            assert end.remote

    async def test_a_watcher_is_called_again_and_again_while_there_is_something(self, pair: Pair[Transport]) -> None:
        calls = 0

        def called() -> None:
            nonlocal calls
            calls += 1

        pair.ours.watch(called, fail)
        await trio.sleep(MUST_NOT_S)
        assert not calls
        with trio.fail_after(MUST_S):
            await send_messages(pair.theirs.out_queue(), bytes(100))
            await until(lambda: calls > 3)
        pair.ours.unwatch()
        pair.ours.unwatch()
        before = calls
        await trio.sleep(MUST_NOT_S)
        assert calls == before

    async def test_a_watcher_is_not_called_when_all_is_received(self, pair: Pair[Transport]) -> None:
        inlet = pair.ours.inlet(BufferPool(), PAYLOAD_OFFSET, MIB)
        got: list[bytes] = []
        with trio.fail_after(MUST_S):
            await send_messages(pair.theirs.out_queue(), bytes(100), bytes(200))
            while len(got) < 2:
                await receive_messages(pair.ours, inlet, got)
        assert not await is_receivable(pair.ours)
        inlet.close()

    async def test_the_end_of_the_connection_calls_the_watcher(self, pair: Pair[Transport]) -> None:
        pair.ours.expect(MIB)
        pair.theirs.close()
        assert await is_receivable(pair.ours)

    async def test_a_lost_connection_calls_the_watcher(self, pair: Pair[Transport]) -> None:
        pair.reset()
        assert await is_receivable(pair.ours)

    async def test_a_watcher_that_fails_is_told(self, pair: Pair[Transport]) -> None:
        errors: list[Exception] = []

        def failing() -> None:
            raise RuntimeError("a fault of the suite")

        def take(error: Exception) -> None:
            errors.append(error)
            pair.ours.unwatch()

        pair.ours.watch(failing, take)
        with trio.fail_after(MUST_S):
            await send_messages(pair.theirs.out_queue(), bytes(100))
            await until(lambda: bool(errors))
        assert [type(error) for error in errors] == [RuntimeError]

    async def test_a_sender_that_fails_is_told(self, pair: Pair[Transport]) -> None:
        errors: list[Exception] = []

        def failing() -> None:
            raise RuntimeError("a fault of the suite")

        queue = pair.ours.out_queue()
        pair.ours.watch(lambda: None, errors.append)
        fill(queue)
        queue.when_room(failing)
        pair.theirs.close()
        await until(lambda: bool(errors))
        assert [type(error) for error in errors] == [RuntimeError]

    async def test_after_closing_nobody_is_called(self, pair: Pair[Transport]) -> None:
        called: list[str] = []
        queue = pair.ours.out_queue()
        fill(queue)
        pair.ours.watch(lambda: called.append("watch"), fail)
        queue.when_room(lambda: called.append("when_room"))
        pair.ours.close()
        pair.ours.close()
        pair.ours.watch(lambda: called.append("watch after the close"), fail)
        pair.ours.unwatch()
        pair.theirs.close()
        await trio.sleep(MUST_NOT_S)
        assert called == []

    async def test_both_directions_are_full_at_once(self, pair: Pair[Transport]) -> None:
        """If an end leaves data unreceived, it must still be able to send, and the other end to receive."""
        forth, back = pair.ours.out_queue(), pair.theirs.out_queue()
        counts = fill(forth), fill(back)
        with trio.fail_after(MUST_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_rest, forth)
                nursery.start_soon(send_rest, back)
                nursery.start_soon(receive, pair.theirs, counts[0])
                nursery.start_soon(receive, pair.ours, counts[1])
