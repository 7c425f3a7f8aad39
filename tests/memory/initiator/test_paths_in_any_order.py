"""Interfaces, addresses, losses, restarts and reloads in any order.

The exporter is always reached again on every path. The data written meanwhile is there, and no credit is lost.
"""

import functools
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.states import ExporterState, PathState
from meshfs.initiator.session import balance
from meshfs.initiator.session.address import Remote
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.fixed_ways import MadeUpWays
from support.made_up_paths import ETH0, ETH1, R0, R1, G
from support.waiting import until

STEPS = 150
SIZE, BLOCK = 1 * MIB, 4 * KIB


class Disorder:
    """Changes a pair and its ways at random."""

    def __init__(self, pair: Pair, ways: MadeUpWays, seed: int) -> None:
        self._pair = pair
        self._ways = ways
        self._random = random.Random(seed)

    async def step(self) -> None:
        """Make one change, and then let some time pass."""
        happenings: list[Callable[[], object]] = [
            self.change_interfaces,
            self.break_addresses,
            self.lose_channels,
            self.refuse,
            self.reload,
            self.advertise,
            self._pair.session.try_at_once,
        ]
        seldom = self._random.random()
        if seldom < 0.03:
            await self._pair.restart()
        elif seldom < 0.08:
            self.end_session()
        else:
            self._random.choice(happenings)()
        # The next step follows at once, or after some turns, or when a login or a bind may be over.
        await trio.sleep(self._random.choice([0.0, 0.0, 0.001, 0.003, 0.01, 0.03]))

    def change_interfaces(self) -> None:
        choose = self._random.choice
        self._ways.interfaces = [
            replace(each, up=choose([True, True, True, True, False]), speed_bits_s=choose([G, 10 * G, 10 * G]))
            for each in (ETH0, ETH1)
            if choose([True, True, True, True, True, False])
        ]
        self._pair.session.interfaces_changed()

    def break_addresses(self) -> None:
        self._ways.broken = {remote.address for remote in (R0, R1) if self._random.random() < 0.25}

    def lose_channels(self) -> None:
        for channel in self._pair.session.channels:
            if self._random.random() < 0.4:
                channel.fail("lost by the test")

    def end_session(self) -> None:
        if self._pair.session.session is not None:
            self._pair.session.session.fail("ended by the test")

    def refuse(self) -> None:
        """Let the exporter take no further channel of this session."""
        if self._pair.session.session is not None:
            self._pair.session.session.no_more = "refused by the test"

    def reload(self) -> None:
        self._pair.session.configure(self._ways, self._random.choice([1, 2, 3]), 1.0, 3.0)

    def advertise(self) -> None:
        """Let the exporter advertise some of its addresses, or one more."""
        self._pair.session._paths.take_remotes(
            tuple(each for each in (R0, R1, Remote("10.0.1.3", 10 * G, 2)) if self._random.random() < 0.6)
        )

    def end(self) -> None:
        """Let everything work again."""
        self._ways.interfaces, self._ways.broken = [ETH0, ETH1], set()
        self._pair.session._paths.take_remotes(())
        self._pair.session.configure(self._ways, 2, 1.0, 3.0)


class Program:
    """Writes blocks that hold one number each, and reads them back."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.writes = 0
        self._pair = pair
        self._random = random.Random(seed)
        #: The numbers that each block may hold: the last one that was written, and those whose writes failed since.
        self._allowed: list[set[int]] = [{0} for _ in range(SIZE // BLOCK)]

    async def run(self, io_class: IoClass) -> None:
        handle = await self._pair.port.open(io_class, writable=True)
        while True:
            first = self._random.randrange(len(self._allowed))
            count = self._random.choice([1, 1, 2, min(64, len(self._allowed) - first)])
            try:
                await self._write(handle, first, min(count, len(self._allowed) - first))
                await self._read(handle, first)
            except TimeoutError:
                pass

    async def _write(self, handle: Handle, first: int, count: int) -> None:
        self.writes += 1
        number = self.writes
        blocks = self._allowed[first : first + count]
        for allowed in blocks:
            allowed.add(number)
        with trio.move_on_after(self._random.choice([10, 10, 0.005])) as patience:
            await handle.write(first * BLOCK, number.to_bytes(8) * (count * BLOCK // 8))
        if not patience.cancelled_caught:
            for allowed in blocks:
                allowed.clear()
                allowed.add(number)

    async def _read(self, handle: Handle, index: int) -> None:
        data = bytes(await handle.read(index * BLOCK, BLOCK))
        number = int.from_bytes(data[:8])
        assert data == number.to_bytes(8) * (BLOCK // 8)
        assert number in self._allowed[index]
        # A write that was given up, and is not there now, does not come later.
        self._allowed[index] = {number}


def check_credits(channel: Channel) -> None:
    """Check that every lane holds exactly the credits of its requests in flight."""
    held = Counter[int]()
    for slot in channel.in_flight():
        held[id(slot.lane)] += slot.charge
    for slot in channel.in_flight():
        assert slot.lane.held == held[id(slot.lane)]
    assert channel.requests.window.control.held == held[id(channel.requests.window.control)]


@pytest.mark.parametrize("seed", range(4))
async def test_an_exporter_comes_back_whatever_happened(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for name, value in (
        ("PATH_BROKEN_AFTER_S", 0.02),
        ("BIND_AGAIN_S", 0.05),
        ("RECONNECT_DELAY_MIN_S", 0.005),
        ("RECONNECT_DELAY_MAX_S", 0.05),
        ("PATH_STEADY_AFTER_S", 0.02),
    ):
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(balance, "SPLIT_MIN_S", 0.0)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (ETH0, ETH1), (R0, R1), asks=True)
    with trio.fail_after(40):
        async with mesh_pair(tmp_path, SIZE, io_timeout_s=3.0, ways=ways) as pair:
            disorder, program = Disorder(pair, ways, seed), Program(pair, seed)
            pair.nursery.start_soon(program.run, IoClass.APP)
            for _ in range(STEPS):
                await disorder.step()
                session = pair.session
                assert (session.state is ExporterState.CONNECTED) == (session.session is not None)
                for keeper in session.keepers:
                    assert (keeper.state is PathState.CONNECTED) == (keeper.channel is not None)
                    assert keeper.running or keeper.state is PathState.IDLE
                for channel in session.channels:
                    check_credits(channel)
            disorder.end()
            await until(lambda: len(pair.session.channels) == len(pair.session.keepers) == 4)
            before = program.writes
            await until(lambda: program.writes >= before + 20)
            pair.session.remove()
            assert pair.session.state is ExporterState.DOWN
            await until(lambda: pair.session.session is None)
            assert pair.session.state is ExporterState.DOWN
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
