"""One session over several paths: channels are bound, retired, lost and replaced as interfaces come and go."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_interface
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.exporter.state.exporter import Exporter
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.path_keeper import PathKeeper
from meshfs.initiator.remote.states import ExporterState, PathState
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.session import InitiatorSession
from meshfs.limits import MIB
from meshfs.linux.interfaces import Interface
from meshfs.model import IoClass
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.fixed_ways import MadeUpWays
from support.made_up_paths import ETH0, ETH1, R0, R1, G
from support.waiting import until

SIZE = 8 * MIB


@asynccontextmanager
async def pair_over(
    folder: Path,
    interfaces: tuple[Interface, ...] = (ETH0, ETH1),
    remotes: tuple[Remote, ...] = (R0, R1),
    connected: int = 2,
    channels: int = 1,
) -> AsyncIterator[tuple[Pair, MadeUpWays]]:
    dialer = functools.partial(connect_unix, folder / "exporter.sock")
    # Only a mount that queries interfaces makes several channels of a path.
    ways = MadeUpWays(dialer, interfaces, remotes, asks=channels > 1)
    with trio.fail_after(20):
        async with mesh_pair(folder, SIZE, io_timeout_s=3.0, ways=ways, channels=channels) as pair:
            await until(lambda: len(pair.session.channels) == connected)
            yield pair, ways


def keeper_of(pair: Pair, remote: Remote, number: int = 0) -> PathKeeper:
    [found] = [
        each
        for each in pair.session.keepers
        if each.path.remote.address == remote.address and each.path.number == number
    ]
    return found


def channel_of(pair: Pair, remote: Remote) -> Channel:
    channel = keeper_of(pair, remote).channel
    assert channel is not None
    return channel


def theirs(pair: Pair) -> Exporter:
    exporter = pair.exporter.exporter
    assert exporter is not None
    return exporter


def set_up(pair: Pair, ways: MadeUpWays, name: str, *, up: bool) -> None:
    ways.interfaces = [replace(each, up=up) if each.name == name else each for each in ways.interfaces]
    pair.session.interfaces_changed()


# --- interfaces come and go ------------------------------------------------------------------


async def test_every_path_has_its_channels_and_all_are_of_one_session(tmp_path: Path) -> None:
    async with pair_over(tmp_path, connected=6, channels=3) as (pair, _):
        [session] = theirs(pair).sessions.values()
        assert len(session.channels) == 6
        assert {keeper.state for keeper in pair.session.keepers} == {PathState.CONNECTED}


async def test_an_interface_that_goes_down_takes_its_channel_at_once_and_the_last_is_kept(tmp_path: Path) -> None:
    async with pair_over(tmp_path) as (pair, ways):
        ours = pair.session.session
        set_up(pair, ways, "eth0", up=False)
        assert len(pair.session.channels) == 1, "the channel ends at once, and not after a silence"
        await until(lambda: keeper_of(pair, R0).state is PathState.IDLE)
        assert keeper_of(pair, R0).why == "interface eth0 is down"
        assert (keeper_of(pair, R0).failures, pair.session.failures) == (1, 1)
        last = channel_of(pair, R1)
        set_up(pair, ways, "eth1", up=False)
        await trio.sleep(0.1)
        assert pair.session.channels == [last], "the interface may be up again in time"
        set_up(pair, ways, "eth0", up=True)
        await until(lambda: keeper_of(pair, R0).state is PathState.CONNECTED)
        await until(lambda: keeper_of(pair, R1).state is PathState.IDLE)
        assert len(pair.session.channels) == 1
        set_up(pair, ways, "eth1", up=True)
        await until(lambda: len(pair.session.channels) == 2)
        assert pair.session.session is ours
        await until(lambda: [len(each.channels) for each in theirs(pair).sessions.values()] == [2])


async def test_the_last_channel_stays_until_the_new_address_works(tmp_path: Path) -> None:
    """The old path is kept until the new one works. Then it ends, and nothing of it is left."""
    async with pair_over(tmp_path, (ETH0,), (R0,), connected=1) as (pair, ways):
        old = keeper_of(pair, R0)
        ways.interfaces = [replace(ETH0, address=ip_interface("10.0.0.77/24"))]
        pair.session.interfaces_changed()
        await until(lambda: [keeper.state for keeper in pair.session.keepers] == [PathState.CONNECTED])
        assert keeper_of(pair, R0) is not old
        await until(lambda: not old.running)
        assert len(pair.session.channels) == 1


async def test_a_path_without_its_address_is_shown_while_it_lives_and_not_tried_again(tmp_path: Path) -> None:
    async with pair_over(tmp_path, (ETH0,), (R0,), connected=1) as (pair, ways):
        ways.broken.add(R0.address)
        ways.interfaces = [replace(ETH0, address=ip_interface("10.0.0.77/24"))]
        pair.session.interfaces_changed()
        old = next(keeper for keeper in pair.session.keepers if keeper.channel is not None)
        assert old.choice.why_not == "the address is gone"
        assert old.channel is not None
        old.channel.fail("cable pulled")
        await until(lambda: not old.running)
        await until(lambda: old not in pair.session.keepers)
        dialled = len(ways.dialled)
        await until(lambda: len(ways.dialled) > dialled + 2)
        assert {path.key[1] for path in ways.dialled[dialled:]} == {"10.0.0.77"}
        ways.broken.clear()
        await until(lambda: pair.session.state is ExporterState.CONNECTED)
        assert len(pair.session.keepers) == 1


async def test_a_session_has_32_channels_and_no_more(tmp_path: Path) -> None:
    async with pair_over(tmp_path, connected=32, channels=17) as (pair, _):
        left = [keeper for keeper in pair.session.keepers if keeper.state is not PathState.CONNECTED]
        assert [keeper.why for keeper in left] == ["32 channels are in use, which is the most"] * 2
        [session] = theirs(pair).sessions.values()
        assert len(session.channels) == 32
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await handle.write(0, bytes(MIB)) == MIB
        for channel in pair.session.channels[:31]:
            channel.fail("cable pulled")
        assert bytes(await handle.read(0, MIB)) == bytes(MIB)
        await until(lambda: len(pair.session.channels) == 32)


# --- fast and slow paths ---------------------------------------------------------------------

SLOW0, SLOW_R0 = replace(ETH0, speed_bits_s=G), replace(R0, speed_bits_s=G)


async def test_a_slower_path_steps_in_and_idles_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATH_BROKEN_AFTER_S", 0.2)
    async with pair_over(tmp_path, (SLOW0, ETH1), (SLOW_R0, R1), connected=1) as (pair, ways):
        assert keeper_of(pair, R0).state is PathState.IDLE
        assert "slower" in keeper_of(pair, R0).why
        ways.broken.add(R1.address)
        channel_of(pair, R1).fail("cable pulled")
        await until(lambda: keeper_of(pair, R0).state is PathState.CONNECTED)
        assert keeper_of(pair, R1).state in (PathState.DOWN, PathState.CONNECTING)
        ways.broken.clear()
        await until(lambda: keeper_of(pair, R1).state is PathState.CONNECTED)
        await until(lambda: keeper_of(pair, R0).state is PathState.IDLE)
        assert pair.session.channels == [channel_of(pair, R1)]


async def test_a_slower_path_steps_in_while_the_fast_one_is_still_being_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds also at the start, when neither path has been tried."""
    monkeypatch.setattr(limits, "PATH_BROKEN_AFTER_S", 0.2)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (SLOW0, ETH1), (SLOW_R0, R1))
    ways.silent.add(R1.address)
    with trio.fail_after(limits.CONNECT_TIMEOUT_S / 2):
        async with mesh_pair(tmp_path, SIZE, ways=ways) as pair:
            assert pair.session.channels == [channel_of(pair, R0)]
            assert keeper_of(pair, R1).state is PathState.CONNECTING


def session_of(pair: Pair) -> InitiatorSession:
    assert pair.session.session is not None
    return pair.session.session


async def retire_while_writing(
    pair: Pair, ways: MadeUpWays, handle: Handle, nursery: trio.Nursery
) -> tuple[Channel, Channel]:
    """Retire a channel, as its interface became slow, while it has a WRITE at the disk. Return it and the fast one."""
    session, disk = session_of(pair), pair.exporter.disk
    slow, fast = channel_of(pair, R0), channel_of(pair, R1)
    session.pick = lambda size, now: slow
    disk.stall(lambda request: request.op == Op.WRITE)
    nursery.start_soon(handle.write, 0, b"on its way")
    await until(lambda: disk.stalled == 1)
    session.pick = session.spread.pick
    ways.interfaces = [replace(ETH0, speed_bits_s=G), ETH1]
    pair.session.interfaces_changed()
    assert session.spread.channels == [fast]
    return slow, fast


async def test_a_retired_channel_ends_its_requests_and_then_closes(tmp_path: Path) -> None:
    async with pair_over(tmp_path) as (pair, ways), trio.open_nursery() as nursery:
        handle, session, disk = await pair.port.open(IoClass.APP, writable=True), session_of(pair), pair.exporter.disk
        slow, fast = await retire_while_writing(pair, ways, handle, nursery)
        await handle.read(4096, 10)
        await trio.sleep(0.2)
        assert set(session.channels) == {slow, fast}, "the retired channel waits for its request"
        disk.release()
        await until(lambda: session.channels == [fast])
        assert slow.why == "closed"
        assert bytes(disk.data[:10]) == b"on its way"
        await until(lambda: keeper_of(pair, R0).state is PathState.IDLE)


async def test_a_retired_channel_is_better_than_none(tmp_path: Path) -> None:
    """If the other channels are lost before it has closed, it stays the last one of the session until others come."""
    async with pair_over(tmp_path) as (pair, ways), trio.open_nursery() as nursery:
        handle, session, disk = await pair.port.open(IoClass.APP, writable=True), session_of(pair), pair.exporter.disk
        slow, fast = await retire_while_writing(pair, ways, handle, nursery)
        ways.broken.add(R1.address)
        fast.fail("cable pulled")
        assert session.spread.channels == [slow]
        disk.release()
        await trio.sleep(0.3)
        assert pair.session.session is session, "the last channel goes on"
        assert session.channels == [slow]
        ways.broken.clear()
        pair.session.interfaces_changed()
        await until(lambda: keeper_of(pair, R1).state is PathState.CONNECTED)
        await until(lambda: session.channels == [channel_of(pair, R1)])
        assert pair.session.session is session


# --- trying again ----------------------------------------------------------------------------


async def test_a_path_whose_channels_die_at_once_is_tried_ever_more_seldom(tmp_path: Path) -> None:
    """The path connects and binds, and then loses its channel. Without growing delays, the mount would do only that."""
    async with pair_over(tmp_path) as (pair, _):
        times: list[float] = []
        keeper = keeper_of(pair, R0)
        start = trio.current_time()
        while trio.current_time() < start + 3:
            if keeper.channel is not None and not keeper.channel.why:
                times.append(trio.current_time())
                keeper.channel.fail("nothing gets through")
            await trio.sleep(0.001)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(times) < 12, "tried all the time"
        assert max(gaps) > 0.5
        assert len(pair.session.channels) >= 1
        pair.session.interfaces_changed()
        await until(lambda: len(pair.session.channels) == 2)
