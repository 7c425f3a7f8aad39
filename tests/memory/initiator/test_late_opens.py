"""An open whose answer comes after the mount gave up does not stay until the session ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshfs import limits
from meshfs.initiator.session.commands import RemoteOpen
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import TreeConnect
from meshfs.limits import KIB
from meshfs.model import IoClass
from meshfs.smb.connection import Role
from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest, FileId
from meshfs.smb.states import SESSION, SmbEvent, StateMachine
from meshlab.fakes.mesh_pair import DISK, Pair, mesh_pair
from meshlab.smb.scripted_exporter import Request, ScriptedExporter, scripted_channel
from meshlab.smb.stalling import Relays
from support.waiting import until

IO_TIMEOUT_S = 0.3
TIMEOUT_S = 30


def relays(folder: Path, nursery: trio.Nursery) -> Relays:
    async def connect() -> trio.SocketStream:
        return await trio.open_unix_socket(folder / "exporter.sock")

    return Relays(connect, nursery)


def names(pair: Pair) -> list[str]:
    """Return the names of the files that the exporter has open for the mount, without the roots of shares."""
    assert pair.exporter.exporter is not None
    (session,) = pair.exporter.exporter.sessions.values()
    return [opened.name for opened in session.opens.values() if opened.name]


async def open_in_vain(pair: Pair, path: Relays, *, requests: bool) -> None:
    """Open the disk while requests or replies are held back, until the mount gives up."""
    (relay,) = path.alive
    relay.hold(requests=requests, replies=not requests)
    with pytest.raises(TimeoutError):
        await pair.port.open(IoClass.APP, writable=True)
    (channel,) = pair.session.channels
    await until(lambda: any(slot.command == Command.CREATE and not slot.wanted for slot in channel.in_flight()))


@pytest.mark.parametrize("held", ["request", "reply"])
async def test_an_open_that_is_answered_late_is_closed(tmp_path: Path, held: str) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            path = relays(tmp_path, nursery)
            async with mesh_pair(tmp_path, 64 * KIB, io_timeout_s=IO_TIMEOUT_S, dialers=[path.dial]) as pair:
                session, exporter = pair.session.session, pair.exporter.exporter
                assert session is not None
                assert exporter is not None
                made: list[str] = []
                new_file_id = exporter.new_file_id

                def counted() -> int:
                    made.append("open")
                    return new_file_id()

                exporter.new_file_id = counted  # type: ignore[method-assign]
                await open_in_vain(pair, path, requests=held == "request")
                path.alive[0].release()
                handle = await pair.port.open(IoClass.APP, writable=True)
                await until(lambda: names(pair).count(DISK) == 1)
                assert len(made) > 1
                assert pair.session.session is session
                assert await handle.write(0, bytes(512)) == 512
                await handle.close()
                await until(lambda: names(pair) == [])
            nursery.cancel_scope.cancel()


async def test_a_refusal_that_comes_late_changes_nothing(tmp_path: Path) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            path = relays(tmp_path, nursery)
            async with mesh_pair(tmp_path, 64 * KIB, io_timeout_s=IO_TIMEOUT_S, dialers=[path.dial]) as pair:
                session = pair.session.session
                assert session is not None
                await open_in_vain(pair, path, requests=True)
                await pair.exporter.withdraw()
                path.alive[0].release()
                (channel,) = session.channels
                await until(lambda: channel.outstanding == 0 and not pair.port.answers.held)
                assert pair.session.session is session
                assert not channel.why
                assert names(pair) == []
            nursery.cancel_scope.cancel()


async def test_a_close_that_is_never_answered_ends_at_the_bound(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The exporter answers everything but CLOSE. The open stays there, and the channel and the session go on."""

    def script(exporter: ScriptedExporter, request: Request) -> None:
        if request.command not in (Command.CLOSE, Command.CANCEL):
            exporter.answer(request)

    machine = StateMachine(SESSION, Role.INITIATOR)
    machine.happened(SmbEvent.SETUP)
    machine.happened(SmbEvent.GRANTED)
    credentials: Any = SimpleNamespace(machine=machine, security=SimpleNamespace(opener=None))
    file = RemoteOpen(TreeConnect(5, "disks"), FileId(1, 2), 0)
    async with scripted_channel(script) as (channel, exporter):
        session = InitiatorSession(credentials, {}, file, lambda *_: None)
        session.add(channel)
        # The reply grants the credit that the probes of a silent exporter need.
        await channel.answer(channel.start_request(Command.ECHO, EchoRequest().pack()))
        start_s = trio.current_time()
        await session.close_late(file, start_s + 30)
        assert 30 <= trio.current_time() - start_s <= 31
        await trio.sleep(limits.CHANNEL_TICK_S)
        commands = [request.command for request in exporter.requests if request.command != Command.ECHO]
        assert commands == [Command.CLOSE, Command.CANCEL]
        assert not session.why
        assert "may stay open there" in caplog.text
