"""A channel measures with ECHO how long requests are on the way, and gives its classes credits accordingly."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshfs import limits
from meshfs.initiator.channel.channel import Channel
from meshfs.model import IoClass
from meshfs.smb.constants import Command
from meshfs.smb.messages import FileId
from meshlab.smb.scripted_exporter import Request, ScriptedExporter, scripted_channel

FILE = FileId(1, 2)
LENGTH = 4096


def hold(exporter: ScriptedExporter, request: Request) -> None:
    """Answer nothing until the test does."""


def echoes(exporter: ScriptedExporter) -> list[Request]:
    return [request for request in exporter.requests if request.command == Command.ECHO]


async def settle() -> None:
    """Wait until all has happened that can happen without time passing."""
    await wait_all_tasks_blocked(0.02)


async def read(channel: Channel, io_class: IoClass) -> None:
    await channel.start_read(5, FILE, 0, LENGTH, 1e9, channel.lane(io_class))


async def test_a_busy_channel_measures_and_follows(mock_clock: MockClock) -> None:
    async with scripted_channel(hold) as (channel, exporter), trio.open_nursery() as nursery:
        channel.credits.grant(limits.CREDITS_MAX)
        channel.probe.delay.next_s = trio.current_time()
        for _ in range(40):
            nursery.start_soon(read, channel, IoClass.APP)
        await settle()
        # The channel measures once a reply has come.
        assert echoes(exporter) == []
        reads = list(exporter.requests)
        exporter.answer(reads.pop())
        await settle()
        assert len(echoes(exporter)) == 1
        mock_clock.jump(0.001)
        exporter.answer(echoes(exporter)[-1])
        await settle()
        assert channel.probe.delay.app_credits == limits.WINDOW_ROOM_MAX_CREDITS
        # At most one ECHO is sent each WINDOW_ECHO_EVERY_S, and never two at a time.
        exporter.answer(reads.pop())
        await settle()
        assert len(echoes(exporter)) == 1
        mock_clock.jump(limits.WINDOW_ECHO_EVERY_S)
        for _ in range(2):
            exporter.answer(reads.pop())
            await settle()
        assert len(echoes(exporter)) == 2
        # The reply is late, so requests queue on the way. The system class gives way first.
        mock_clock.jump(limits.WINDOW_DELAY_S * 0.9)
        exporter.answer(echoes(exporter)[-1])
        await settle()
        assert channel.probe.delay.app_credits == limits.WINDOW_ROOM_MAX_CREDITS
        assert channel.probe.delay.system_credits < limits.WINDOW_ROOM_MAX_CREDITS
        app, system = channel.lane(IoClass.APP).of_class, channel.lane(IoClass.SYSTEM).of_class
        assert system.kept > app.kept
        for request in reads:
            exporter.answer(request)


async def test_no_credit_is_used_for_an_echo_that_a_request_may_need(mock_clock: MockClock) -> None:
    async with scripted_channel(hold) as (channel, exporter), trio.open_nursery() as nursery:
        channel.credits.grant(8)
        channel.probe.delay.next_s = trio.current_time()
        for _ in range(6):
            nursery.start_soon(read, channel, IoClass.APP)
        await settle()
        reads = list(exporter.requests)
        exporter.say(exporter.frame(reads[0], bytes(16), status=0xC00000BB, credits=1))
        nursery.cancel_scope.cancel()
        await settle()
        assert echoes(exporter) == []


async def test_a_request_at_a_time_is_not_measured_more_than_once(mock_clock: MockClock) -> None:
    async with scripted_channel(lambda exporter, request: exporter.answer(request)) as (channel, exporter):
        channel.credits.grant(limits.CREDITS_MAX)
        channel.probe.delay.next_s = trio.current_time()
        for _ in range(10):
            await read(channel, IoClass.APP)
            mock_clock.jump(limits.WINDOW_ECHO_EVERY_S)
        await settle()
        assert len(echoes(exporter)) == 1
