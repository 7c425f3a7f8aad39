"""The states of a session at both ends: what happens at one end of a login or a bind happens at the other one too."""

import functools
from pathlib import Path

import pytest

from meshfs.errors import ChannelLost, LocalProtocolError, RemoteProtocolError, StatusError
from meshfs.exporter.commands.table import HANDLERS
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state import bind, session
from meshfs.initiator.session.negotiation import Policy, negotiate
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshfs.smb import states
from meshfs.smb.connection import Role
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.states import SESSION, ConnectionState, SessionState, SmbEvent
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.sessions import exporter_at, make_session
from support.waiting import until

LOGIN = [SmbEvent.SETUP, SmbEvent.MORE, SmbEvent.SETUP, SmbEvent.GRANTED]


class Record:
    """What happened to the sessions at each end, in order. A REQUEST is not kept: only one end counts the first one."""

    def __init__(self) -> None:
        self.events: dict[Role, list[SmbEvent]] = {role: [] for role in Role}

    def __call__(self, table: object, state: SessionState, event: SmbEvent, role: Role) -> SessionState:
        after = next_state(table, state, event, role)  # type: ignore[type-var, arg-type]
        if table is SESSION and event is not SmbEvent.REQUEST:
            self.events[role].append(event)
        return after  # type: ignore[return-value]

    def at_both(self) -> list[SmbEvent]:
        assert self.events[Role.INITIATOR] == self.events[Role.EXPORTER]
        return self.events[Role.INITIATOR]


next_state = states.next_state


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    made = Record()
    for module in (states, bind, session):
        monkeypatch.setattr(module, "next_state", made)
    return made


def machine_of(pair: Pair) -> states.StateMachine[SessionState]:
    assert pair.session.session is not None
    return pair.session.session.machine


async def test_a_login_a_bind_and_the_loss(tmp_path: Path, record: Record) -> None:
    dialers = [functools.partial(connect_unix, tmp_path / "exporter.sock")] * 2
    async with mesh_pair(tmp_path, MIB, dialers=dialers) as pair:
        await until(lambda: len(pair.session.channels) == 2)
        assert record.at_both() == [*LOGIN, *LOGIN]
        machine, channels = machine_of(pair), pair.session.channels
        assert machine.state is SessionState.VALID
        assert {channel.machine.state for channel in channels} == {ConnectionState.READY}
        await pair.exporter.stop()
        await until(lambda: pair.session.session is None)
        assert machine.state is SessionState.ENDED
        assert {channel.machine.state for channel in channels} == {ConnectionState.CLOSED}
        assert record.at_both() == [*LOGIN, *LOGIN, SmbEvent.LOST]


async def test_a_wrong_password(tmp_path: Path, record: Record) -> None:
    async with exporter_at(tmp_path / "exporter.sock") as (exporter, nursery):
        remote = make_session([functools.partial(connect_unix, exporter.path)], password="wrong")
        nursery.start_soon(remote.run)
        await until(lambda: remote.failures > 0)
        assert record.at_both()[:4] == [SmbEvent.SETUP, SmbEvent.MORE, SmbEvent.SETUP, SmbEvent.DENIED]


async def test_a_session_that_expires(tmp_path: Path, record: Record) -> None:
    """The exporter says so in an answer. The initiator does not re-authenticate, but logs in again."""
    write, needs = HANDLERS[Command.WRITE]
    answers = [NtStatus.NETWORK_SESSION_EXPIRED]

    def expire_once(request: Request) -> None:
        if answers:
            raise StatusError(answers.pop(), "expired")
        write(request)

    async with mesh_pair(tmp_path, MIB) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        machine = machine_of(pair)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(HANDLERS, Command.WRITE, (expire_once, needs))
            assert await handle.write(0, b"again") == 5
        assert machine.state is SessionState.ENDED
        assert machine_of(pair).state is SessionState.VALID
        assert record.events[Role.INITIATOR] == [*LOGIN, SmbEvent.EXPIRE, SmbEvent.LOST, *LOGIN]
        await handle.close()


async def test_a_channel_that_ended_before_its_negotiation_is_a_lost_one(tmp_path: Path) -> None:
    """The task of a login may run after its channel has ended. That is a lost connection, and no mistake of ours."""
    async with mesh_pair(tmp_path, MIB) as pair:
        (channel,) = pair.session.channels
        channel.fail("cable pulled")
        with pytest.raises(ChannelLost, match=r"^cable pulled$"):
            await negotiate(channel, Policy(), bytes(16))


async def test_an_event_that_is_not_allowed(tmp_path: Path) -> None:
    """The initiator's own mistake, and an exporter's, are errors that name the state and the event.

    What happens to a channel or a session after its loss is no mistake.
    """
    async with mesh_pair(tmp_path, MIB) as pair:
        session, (channel,) = pair.session.session, pair.session.channels
        assert session is not None
        with pytest.raises(LocalProtocolError, match=r"^NEGOTIATE is not allowed in state READY$"):
            await negotiate(channel, Policy(), bytes(16))
        with pytest.raises(RemoteProtocolError, match=r"^GRANTED is not allowed in state VALID$"):
            session.machine.happened(SmbEvent.GRANTED)
        session.fail("cable pulled")
        session.ended_by(NtStatus.NETWORK_SESSION_EXPIRED)
        assert session.why == "cable pulled"
        with pytest.raises(ChannelLost, match="cable pulled"):
            await negotiate(channel, Policy(), bytes(16))
        with pytest.raises(LocalProtocolError, match=r"^REQUEST is not allowed in state ENDED$"):
            session.add(channel)
