"""A channel against an exporter that falls silent, is slow, or grants few credits."""

import errno

import pytest
import trio
from trio.lowlevel import checkpoint

from meshfs import limits
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.limits import KIB, MIB
from meshfs.smb.constants import Command, Flags, NtStatus
from meshfs.smb.messages import ErrorResponse
from meshlab.smb.scripted_exporter import (
    Request,
    Script,
    ScriptedExporter,
    content,
    read_body,
    scripted_channel,
)
from support.scripted_calls import read, write


def honest(exporter: ScriptedExporter, request: Request) -> None:
    exporter.answer(request)


def silent(exporter: ScriptedExporter, request: Request) -> None:
    """Answer nothing."""


@pytest.mark.parametrize("sealed", [False, True], ids=["signed", "sealed"])
@pytest.mark.parametrize("length", [1, 512, 32 * KIB, 40 * KIB, 200 * KIB])
async def test_honest_answers_arrive(sealed: bool, length: int) -> None:
    async with scripted_channel(honest, sealed=sealed) as (channel, _):
        for offset in (0, 77):
            assert await read(channel, offset, length) == content(offset, length)
            assert await write(channel, offset, memoryview(bytearray(length))) == length


def _pending(exporter: ScriptedExporter, request: Request, *, flags: int = Flags.ASYNC_COMMAND) -> bytes:
    error = ErrorResponse().pack()
    return exporter.frame(request, error, status=NtStatus.PENDING, flags=flags, async_id=9, protect=False)


async def test_a_frame_in_small_pieces_is_one_reply() -> None:
    async def dribble(exporter: ScriptedExporter, frame: bytes) -> None:
        for index in range(len(frame)):
            exporter.say(frame[index : index + 1])
            await checkpoint()

    frames: list[bytes] = []
    script: Script = lambda e, r: frames.append(e.frame(r, read_body(content(7, 100))))  # noqa: E731
    async with scripted_channel(script) as (channel, exporter), trio.open_nursery() as nursery:

        async def later() -> None:
            while not frames:  # noqa: ASYNC110
                await trio.sleep(0.001)
            await dribble(exporter, frames[0])

        nursery.start_soon(later)
        assert await read(channel, 7, 100) == content(7, 100)


async def test_a_connection_closed_by_the_exporter_is_a_lost_channel() -> None:
    script: Script = lambda e, r: e.transport.close()  # noqa: E731
    async with scripted_channel(script) as (channel, _):
        with pytest.raises(ChannelLost):
            await read(channel, 0, 100)


# --- interim replies and errors -------------------------------------------------------------


async def test_an_interim_reply_is_waited_out() -> None:
    def script(exporter: ScriptedExporter, request: Request) -> None:
        exporter.say(_pending(exporter, request))
        data = read_body(content(0, 100))
        exporter.say(exporter.frame(request, data, flags=Flags.ASYNC_COMMAND, async_id=9, credits=0))

    async with scripted_channel(script) as (channel, _):
        assert await read(channel, 0, 100) == content(0, 100)


async def test_an_error_status_is_the_callers_and_the_channel_lives() -> None:
    def script(exporter: ScriptedExporter, request: Request) -> None:
        exporter.say(exporter.frame(request, ErrorResponse().pack(), status=NtStatus.IO_DEVICE_ERROR))

    async with scripted_channel(script) as (channel, _):
        for call in (read(channel, 0, 100), write(channel, 0, bytes(100))):
            with pytest.raises(StatusError) as caught:
                await call
            assert caught.value.status == NtStatus.IO_DEVICE_ERROR
        assert not channel.why


# --- time -----------------------------------------------------------------------------------


async def test_silence_is_probed_and_then_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_channel(honest) as (channel, exporter):
        await read(channel, 0, 1)
        exporter.script = silent
        exporter.requests.clear()
        start = trio.current_time()
        with pytest.raises(ChannelLost, match="silent"):
            await read(channel, 0, 100)
        waited_s = trio.current_time() - start
        assert limits.CHANNEL_SILENCE_MAX_S <= waited_s <= limits.CHANNEL_SILENCE_MAX_S + 1
        assert [request.command for request in exporter.requests] == [Command.READ, Command.ECHO]


async def test_silence_that_could_not_be_probed_ends_at_the_first_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_channel(silent) as (channel, exporter):
        with pytest.raises(TimeoutError):
            await read(channel, 0, 100, timeout_s=20)
        await trio.sleep(limits.CHANNEL_TICK_S)
        assert channel.why.startswith("silent")
        assert [request.command for request in exporter.requests] == [Command.READ, Command.CANCEL]


async def test_a_request_is_cancelled_once(autojump_clock: trio.testing.MockClock) -> None:
    """A second CANCEL would be signed under the same nonce, and would differ if the request is asynchronous by then."""

    def script(exporter: ScriptedExporter, request: Request) -> None:
        if request.command == Command.CANCEL:
            # The exporter answers the CANCEL with an interim reply of the request.
            [asked] = [each for each in exporter.requests if each.command == Command.READ]
            exporter.say(
                exporter.frame(
                    asked, ErrorResponse().pack(), status=NtStatus.PENDING, flags=2, async_id=7, protect=False
                )
            )
        elif request.command == Command.ECHO:
            exporter.answer(request)

    async with scripted_channel(script) as (channel, exporter):
        with pytest.raises(TimeoutError):
            await read(channel, 0, 100, timeout_s=1)
        await trio.sleep(20)
        assert not channel.why
        assert [request.command for request in exporter.requests].count(Command.CANCEL) == 1


async def test_a_slow_disk_is_not_a_silent_exporter(autojump_clock: trio.testing.MockClock) -> None:
    """Probes are answered, so the call waits until its own deadline, and is cancelled then."""

    def script(exporter: ScriptedExporter, request: Request) -> None:
        if request.command == Command.ECHO:
            exporter.answer(request)

    async with scripted_channel(honest) as (channel, exporter):
        await read(channel, 0, 1)
        exporter.script = script
        exporter.requests.clear()
        start = trio.current_time()
        with pytest.raises(TimeoutError) as caught:
            await read(channel, 0, 100, timeout_s=30)
        assert caught.value.errno == errno.ETIMEDOUT
        assert 30 <= trio.current_time() - start <= 31
        assert not channel.why
        await trio.sleep(0.01)
        assert Command.CANCEL in [request.command for request in exporter.requests]
        # The late reply belongs to a known request, and nobody gets it.
        exporter.answer(exporter.requests[0])
        exporter.script = honest
        assert await read(channel, 7, 10) == content(7, 10)


async def test_an_idle_exporter_is_probed(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_channel(silent) as (channel, _):
        with trio.fail_after(limits.CHANNEL_IDLE_PROBE_S + limits.CHANNEL_SILENCE_MAX_S + 2):
            while not channel.closed:  # noqa: ASYNC110
                await trio.sleep(0.1)
    async with scripted_channel(honest) as (channel, _):
        await trio.sleep(600)
        assert not channel.closed


@pytest.mark.parametrize("heard_before_s", [0.1 * step for step in range(12)])
async def test_a_dead_channel_is_found_with_the_help_of_an_idle_one(
    autojump_clock: trio.testing.MockClock, heard_before_s: float
) -> None:
    """It does not matter when the idle channel last received something. It is probed only once."""
    async with scripted_channel(honest) as (dead, gone), scripted_channel(honest) as (other, exporter):
        dead.liveness.join(lambda: [other.liveness])
        other.liveness.join(lambda: [dead.liveness])
        await read(dead, 0, 1)
        gone.script = silent
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_loss, dead)
            await trio.sleep(heard_before_s)
            await read(other, 0, 1)
        assert trio.current_time() - start <= limits.CHANNEL_DEAD_AFTER_S + 2 * limits.CHANNEL_TICK_S
        assert [request.command for request in exporter.requests].count(Command.ECHO) <= 1


async def _expect_loss(channel: Channel) -> None:
    with trio.fail_after(2 * limits.CHANNEL_SILENCE_MAX_S), pytest.raises(ChannelLost, match="silent"):
        await read(channel, 0, 1)


async def test_all_credits_in_use_by_slow_requests_leave_one_to_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def script(exporter: ScriptedExporter, request: Request) -> None:
        if request.command == Command.ECHO or not ready:
            exporter.say(exporter.frame(request, bytes(4) if ready else read_body(b"x"), credits=8 if not ready else 1))

    ready = False
    async with scripted_channel(script) as (channel, _):
        assert await read(channel, 0, 1) == b"x"
        ready = True
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(_expect_timeout, channel)
        assert not channel.why


async def _expect_timeout(channel: Channel) -> None:
    with pytest.raises(TimeoutError):
        await read(channel, 0, 1, timeout_s=20)


# --- credits --------------------------------------------------------------------------------


async def test_callers_without_credits_wait_their_turn() -> None:
    """With one credit at a time, all calls are served in their order."""
    order: list[int] = []
    script: Script = lambda e, r: e.say(e.frame(r, read_body(b"x"), credits=1))  # noqa: E731

    async with scripted_channel(script) as (channel, exporter), trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            assert await read(channel, number, 1) == b"x"
            order.append(number)

        for number in range(20):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(20))
    assert [request.message_id for request in exporter.requests] == list(range(20))


async def test_large_requests_charge_for_their_size_and_do_not_starve() -> None:
    async with scripted_channel(honest) as (channel, exporter):
        assert await read(channel, 0, 1) == content(0, 1)
        async with trio.open_nursery() as nursery:
            for size in (130 * KIB, 1, 65 * KIB, 64 * KIB, 1):
                nursery.start_soon(read, channel, 0, size)
    charges = sorted((request.credit_charge, request.message_id) for request in exporter.requests)
    assert [charge for charge, _ in charges] == [1, 1, 1, 1, 2, 3]


async def test_a_caller_that_waits_for_credits_may_give_up(autojump_clock: trio.testing.MockClock) -> None:
    """A call that is cancelled or times out before it has a credit is never sent, and the calls behind it go on."""
    held: list[Request] = []
    script: Script = lambda e, r: held.append(r)  # noqa: E731

    async with scripted_channel(script) as (channel, exporter), trio.open_nursery() as nursery:
        nursery.start_soon(read, channel, 0, 1)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            await read(channel, 1, 1)
        with pytest.raises(TimeoutError):
            await write(channel, 2, b"x", timeout_s=0.5)
        nursery.start_soon(read, channel, 3, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(held) == 1
        exporter.script = honest
        exporter.answer(held[0])
    assert [request.message_id for request in exporter.requests] == [0, 1]


# --- sending --------------------------------------------------------------------------------


async def test_data_that_the_socket_does_not_take_is_sent_later_in_order() -> None:
    """The writes are more than the socket holds. The memory of a cancelled caller may change before it is sent."""
    async with scripted_channel(honest) as (channel, exporter):
        for _ in range(4):
            await read(channel, 0, 1)
        memory = bytearray(MIB)
        count = 12
        async with trio.open_nursery() as nursery:

            async def impatient() -> None:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await write(channel, 0, memoryview(memory))
                memory[:] = b"\xff" * MIB

            for number in range(count):
                nursery.start_soon(write, channel, number * MIB, bytes([number]) * MIB)
                nursery.start_soon(impatient)
        assert await read(channel, 5, 50) == content(5, 50)
        assert not channel.why
        writes = [request for request in exporter.requests if request.command == Command.WRITE]
        assert len(writes) >= count
        ids = [request.message_id for request in exporter.requests]
        assert ids == sorted(ids)


async def test_lent_memory_outlives_every_batch_of_the_turn_it_came_in() -> None:
    """The reader runs in a turn of trio. Batches that arrive before that turn must not reuse the memory lent to it."""
    held: list[Request] = []
    script: Script = lambda e, r: held.append(r)  # noqa: E731
    size = 400 * KIB
    async with scripted_channel(honest) as (channel, exporter):
        for _ in range(3):
            assert await read(channel, 0, 1) == content(0, 1)
        exporter.script = script
        results: list[bytes] = []

        async def one(offset: int) -> None:
            results.append(await read(channel, offset, size))

        async with trio.open_nursery() as nursery:
            for offset in (7, 77):
                nursery.start_soon(one, offset)
            await until_held(held, 2)
            # Both replies come in batches of one turn. The test calls the callback as rounds of the reactor do, and no
            # task runs between the calls.
            for request in held:
                exporter.answer(request)
                for _ in range(6):
                    channel._inbox.readable()
        assert sorted(results) == sorted([content(7, size), content(77, size)])


async def until_held(held: list[Request], count: int) -> None:
    with trio.fail_after(5):
        while len(held) < count:  # noqa: ASYNC110 - filled by the script
            await trio.sleep(0.001)
