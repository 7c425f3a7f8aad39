"""Encrypted messages that are recorded on one channel of a session and put into another: both ends refuse them.

All channels of a session encrypt with one key (MS-SMB2 3.3.5.5.3), and a message does not name its connection. Both
ends of meshfs tag their nonces by channel. With another peer, each end remembers the nonces that it has seen.
"""

from pathlib import Path
from typing import Any

import pytest
import trio

from meshfs import limits
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.bind import bind
from meshfs.initiator.session.commands import open_file
from meshfs.initiator.session.negotiation import Policy
from meshfs.initiator.session.session import InitiatorSession
from meshfs.model import IoClass, Security
from meshfs.smb.constants import PROTOCOL_ID_TRANSFORM
from meshfs.smb.messages import RawContext
from meshlab.fakes.mesh_pair import DISK, mesh_pair
from meshlab.smb.raw_messages import framed
from support.pairs import bound
from support.waiting import until
from support.wiretap import Recorded, RecordedWays, messages

POLICY = Policy(security=Security.ENCRYPT)
CHANNELS = 2
BLOCK = 512


@pytest.fixture(params=["tagged", "remembered"])
def protection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return how a message of another channel is found. An exporter of the kind "remembered" knows no tags."""
    if request.param == "remembered":
        monkeypatch.setattr("meshfs.exporter.rules.negotiation.UNIQUE_NONCES", RawContext(0x6D66, b"something else"))
    return str(request.param)


def tap_of(ways: RecordedWays, channel: Channel) -> Recorded:
    return next(tap for tap in ways.tapped if tap.transport is channel.transport)


def is_tagged(channel: Channel) -> bool:
    [security] = channel.connection.security.values()
    assert security.opener is not None
    assert security.opener.tagged == (security.opener.seen is None)
    return security.opener.tagged


def last_sealed(data: bytes) -> bytes:
    return next(message for message in reversed(messages(data)) if message.startswith(PROTOCOL_ID_TRANSFORM))


async def test_an_old_write_put_into_another_channel_is_not_carried_out(tmp_path: Path, protection: str) -> None:
    ways = RecordedWays(tmp_path / "exporter.sock")
    async with mesh_pair(tmp_path, ways=ways, policy=POLICY) as pair:
        await bound(pair, CHANNELS)
        session, exporter = pair.session.session, pair.exporter.exporter
        assert session is not None
        assert exporter is not None
        first, second = session.channels
        assert is_tagged(first) == is_tagged(second) == (protection == "tagged")
        file = await open_file(first, session.trees[IoClass.APP], DISK, writable=True)

        async def write(data: bytes) -> None:
            slot = first.start_write(
                file.tree.tree_id, file.file_id, 0, data, trio.current_time() + 10, write_through=False
            )
            assert await slot == len(data)

        await write(b"older")
        recorded = last_sealed(bytes(tap_of(ways, first).sent))
        await write(b"newer")
        tap_of(ways, second).say_to_exporter(framed(recorded))
        await until(lambda: second.why)
        assert pair.exporter.disk.data[:5] == b"newer"
        assert exporter.counters["nonces_repeated"] == 1
        assert exporter.counters["protocol_errors"] == 0
        # The session goes on, and gets its second channel again.
        await bound(pair, CHANNELS, without=second)
        assert pair.session.session is session
        await write(b"still")
        assert pair.exporter.disk.data[:5] == b"still"


async def test_a_reply_put_into_another_channel_is_not_believed(tmp_path: Path, protection: str) -> None:
    """Both channels have a request with one message id. The answer of one would be taken for that of the other."""
    ways = RecordedWays(tmp_path / "exporter.sock")
    async with mesh_pair(tmp_path, ways=ways, policy=POLICY) as pair:
        await bound(pair, CHANNELS)
        session = pair.session.session
        assert session is not None
        first, second = session.channels
        pair.exporter.disk.data[: 2 * BLOCK] = b"a" * BLOCK + b"b" * BLOCK
        file = await open_file(first, session.trees[IoClass.APP], DISK, writable=False)

        async def read(channel: Channel, offset: int) -> bytes:
            deadline = trio.current_time() + 10
            return bytes(await channel.start_read(file.tree.tree_id, file.file_id, offset, BLOCK, deadline))

        # The message ids of the second channel are lower, so bring them to those of the first.
        number = first.credits.next_id
        assert await read(first, 0) == b"a" * BLOCK
        recorded = last_sealed(bytes(tap_of(ways, first).received))
        while second.credits.next_id < number:
            await read(second, BLOCK)
        assert second.credits.next_id == number
        pair.exporter.disk.stall()
        got: list[bytes | BaseException] = []

        async def ask() -> None:
            try:
                got.append(await read(second, BLOCK))
            except Exception as error:
                got.append(error)

        pair.nursery.start_soon(ask)
        await until(lambda: pair.exporter.disk.stalled)
        tap_of(ways, second).injected += framed(recorded)
        second._inbox.readable()
        await until(lambda: got)
        assert got[0] != b"a" * BLOCK
        assert "encrypted message" in second.why
        assert second.nonces_repeated == 1
        pair.exporter.disk.release()
        await bound(pair, CHANNELS, without=second)
        assert pair.session.ended.nonces_repeated == 1
        assert pair.session.session is session


async def test_an_exporter_whose_nonces_do_not_count_is_left_one_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protection: str
) -> None:
    monkeypatch.setattr(limits, "NONCES_REMEMBERED_MAX", 8)
    counts = iter(range(1 << 20, 0, -3))
    ways = RecordedWays(tmp_path / "exporter.sock")
    async with mesh_pair(tmp_path, ways=ways, policy=POLICY) as pair:
        await bound(pair, CHANNELS)
        assert pair.exporter.exporter is not None
        [served] = pair.exporter.exporter.sessions.values()
        for security in served.channels.values():
            assert security.sealer is not None
            security.sealer._count = counts.__next__
        session = pair.session.session
        assert session is not None
        handle = await pair.port.open(IoClass.APP, writable=True)
        for number in range(20):
            assert await handle.write(number * BLOCK, b"x" * BLOCK) == BLOCK
        await trio.sleep(0.05)
        assert pair.session.session is session
        assert len(session.channels) == (CHANNELS if protection == "tagged" else 1)
        assert bool(session.no_more) == (protection == "remembered")


def forget_nonces(session: InitiatorSession) -> None:
    """Do what the mount does if an exporter has used more nonces than the mount remembers."""
    opener = session.credentials.security.opener
    assert opener is not None
    assert opener.seen is not None
    opener.seen.on_full()


@pytest.mark.parametrize("protection", ["remembered"], indirect=True)
async def test_a_session_whose_nonces_are_forgotten_has_one_channel_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protection: str
) -> None:
    """Usually a mount tries again to bind a path that waits. In this case, it must not."""
    monkeypatch.setattr(limits, "BIND_AGAIN_S", 0.05)
    async with mesh_pair(tmp_path, ways=RecordedWays(tmp_path / "exporter.sock"), policy=POLICY) as pair:
        await bound(pair, CHANNELS)
        session = pair.session.session
        assert session is not None
        forget_nonces(session)
        for _ in range(20):
            assert len(session.channels) == 1
            await trio.sleep(0.025)
        assert pair.session.session is session


@pytest.mark.parametrize("protection", ["remembered"], indirect=True)
async def test_a_bind_under_way_is_no_channel_when_nonces_are_forgotten_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protection: str
) -> None:
    bound, go_on = trio.Event(), trio.Event()

    async def slow_bind(*arguments: Any) -> None:
        await bind(*arguments)
        bound.set()
        await go_on.wait()

    monkeypatch.setattr("meshfs.initiator.remote.joining.bind", slow_bind)
    async with mesh_pair(tmp_path, ways=RecordedWays(tmp_path / "exporter.sock"), policy=POLICY) as pair:
        with trio.fail_after(10):
            await bound.wait()
        session = pair.session.session
        assert session is not None
        forget_nonces(session)
        go_on.set()
        for _ in range(20):
            assert len(session.channels) == 1
            await trio.sleep(0.01)
        assert pair.session.session is session
