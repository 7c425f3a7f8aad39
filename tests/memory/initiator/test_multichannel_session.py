"""What belongs to a session and not to a channel: the mount's queries while the session lives, and its end."""

import functools
import logging
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.exporter.commands.table import HANDLERS
from meshfs.exporter.exchange.request import Request
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote import joining, news
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.credentials import Credentials
from meshfs.initiator.session.negotiation import Policy
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import TreeConnect
from meshfs.limits import MIB
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.smb.auth import Login
from meshfs.smb.constants import Command, NtStatus
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.fixed_ways import MadeUpWays
from support.pairs import SIZE, pair_of
from support.waiting import until

# --- as long as a session lives --------------------------------------------------------------


async def test_changes_of_disks_arrive_whichever_channel_was_lost(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 3) as pair:
        session = pair.session.session
        exporter = pair.exporter.exporter
        assert exporter is not None
        [disk] = exporter.disks.all()
        for round_ in range(6):
            await until(lambda: _watching(pair) is not None)
            watching = _watching(pair)
            assert watching is not None
            await trio.sleep(0.02)
            watching.fail("cable pulled")
            await until(lambda: len(pair.session.channels) == 3)
            pair.exporter.access = access = (Access.READ_ONLY, Access.READ_WRITE)[round_ % 2]
            exporter.disks.modified(disk)
            await until(lambda access=access: pair.session.disks[0].access is access)
        assert pair.session.session is session


def _watching(pair: Pair) -> Channel | None:
    """Return the channel on which a CHANGE_NOTIFY waits at the exporter, or None."""
    return next(
        (
            channel
            for channel in pair.session.channels
            if any(slot.command == Command.CHANGE_NOTIFY for slot in channel.in_flight())
        ),
        None,
    )


async def test_a_question_that_was_overtaken_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that was sent before a channel was lost may arrive behind a later one. Then it is refused once."""
    monkeypatch.setattr(limits, "DISKS_REFRESH_S", 0.05)
    refused = 0
    handler, needs = HANDLERS[Command.IOCTL]

    def late_once(request: Request) -> None:
        nonlocal refused
        refused += 1
        if refused == 2:
            raise StatusError(NtStatus.FILE_NOT_AVAILABLE, "late")
        handler(request)

    async with pair_of(tmp_path, 2) as pair:
        session = pair.session.session
        monkeypatch.setitem(HANDLERS, Command.IOCTL, (late_once, needs))
        await until(lambda: refused >= 4)
        assert pair.session.session is session
        assert len(pair.session.channels) == 2


async def test_a_malformed_list_of_interfaces_disturbs_no_io(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def nonsense(channel: Channel, tree: TreeConnect) -> tuple[Remote, ...]:
        raise RemoteProtocolError("a network interface reaches outside the output")

    monkeypatch.setattr(news, "query_interfaces", nonsense)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (), (Remote("there"),), asks=True)
    async with mesh_pair(tmp_path, SIZE, ways=ways) as pair:
        await until(lambda: "reaches outside" in caplog.text)
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await handle.write(0, b"undisturbed") == 11


async def test_a_session_that_ends_with_its_login_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel is lost at the moment in which the login is done."""
    lost = 0
    connected = RemoteExporter.connected

    def and_lost(self: RemoteExporter, session: InitiatorSession, disks: tuple[DiskInfo, ...]) -> None:
        nonlocal lost
        connected(self, session, disks)
        lost += 1
        if lost <= 3:
            session.channels[0].fail("cable pulled")

    monkeypatch.setattr(RemoteExporter, "connected", and_lost)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (), (Remote("there"),), asks=True)
    async with mesh_pair(tmp_path, SIZE, ways=ways) as pair:
        await until(lambda: pair.session.state is ExporterState.CONNECTED and lost == 4)


async def test_a_query_of_the_disks_when_the_session_ends_does_no_harm(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 1) as pair:
        await trio.sleep(0.05)
        for _ in range(3):
            session = pair.session.session
            pair.session.news.ask_disks()
            pair.session.news.ask_addresses()
            for channel in pair.session.channels:
                channel.fail("cable pulled")
            await until(lambda session=session: pair.session.session not in (None, session))
            await trio.sleep(0.05)


# --- the end of the session ------------------------------------------------------------------


@pytest.mark.parametrize("status", [NtStatus.NETWORK_SESSION_EXPIRED, NtStatus.NETWORK_NAME_DELETED])
async def test_a_session_the_exporter_ended_ends_on_all_channels_at_once(tmp_path: Path, status: NtStatus) -> None:
    ended = False
    write, needs = HANDLERS[Command.WRITE]

    def end_once(request: Request) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise StatusError(status, "ended")
        write(request)

    async with pair_of(tmp_path, 4) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        old = pair.session.session
        assert old is not None
        channels = list(old.channels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(HANDLERS, Command.WRITE, (end_once, needs))
            assert await handle.write(0, b"again") == 5
        assert "ended our session" in old.why
        assert {channel.why for channel in channels} == {old.why}
        await until(lambda: len(pair.session.channels) == 4)


async def test_a_session_that_the_exporter_forgot_is_replaced(tmp_path: Path) -> None:
    """The exporter has no key left to sign the answer with. Each channel that gets such an answer ends."""
    async with pair_of(tmp_path, 4) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        old, exporter = pair.session.session, pair.exporter.exporter
        assert exporter is not None
        for session in list(exporter.sessions.values()):
            exporter.sessions.end(session, lambda: None)
        assert await handle.write(0, b"again") == 5
        assert pair.session.session is not old
        await until(lambda: len(pair.session.channels) == 4)


async def test_the_session_ends_with_its_last_channel_and_the_next_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[int] = []
    log_in = joining.log_in

    async def noted(
        channel: Channel,
        policy: Policy,
        guid: bytes,
        login: Login,
        previous_session_id: int = 0,
        *,
        to_be_bound: bool = False,
    ) -> Credentials:
        named.append(previous_session_id)
        return await log_in(channel, policy, guid, login, previous_session_id, to_be_bound=to_be_bound)

    monkeypatch.setattr(joining, "log_in", noted)
    async with pair_of(tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk, first = pair.exporter.disk, pair.session.session
        assert first is not None
        for count in (2, 1):
            # Other channels replace it soon, but not within these few steps.
            first.channels[0].fail("cable pulled")
            assert len(first.channels) == count
            assert not first.why
        assert first.sequence == 2
        disk.stall(lambda request: request.op == Op.WRITE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"goes again")
            await until(lambda: disk.stalled == 1)
            for channel in list(first.channels):
                channel.fail("the last cables pulled")
            assert first.why == "the last cables pulled"
            assert pair.session.state is ExporterState.DOWN
            await trio.sleep(0.1)
            assert disk.stalled == 1
            disk.release()
        await until(lambda: len(pair.session.channels) == 3)
        assert named[0] == 0
        assert set(named[1:]) == {first.credentials.session_id}
        assert bytes(disk.data[:10]) == b"goes again"
        exporter = pair.exporter.exporter
        assert exporter is not None
        assert len(exporter.sessions) == 1


# --- loads -----------------------------------------------------------------------------------


async def test_requests_given_up_before_they_were_sent_are_no_load(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk, session = pair.exporter.disk, pair.session.session
        assert session is not None
        session.split = lambda size, now: []
        disk.stall()
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(handle.read, number % 8 * MIB, MIB)
        assert all(channel.outstanding for channel in session.channels)
        disk.release()
        await until(lambda: not any(channel.outstanding for channel in session.channels))
        assert [channel.load.outstanding_bytes for channel in session.channels] == [0, 0]
