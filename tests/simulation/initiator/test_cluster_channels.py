"""The cluster of test_cluster.py with several channels of each mount, which are lost, silent or late, also all at once.

Every path has a relay (tools/meshlab/smb/stalling.py). These events are added to those of the cluster:

    cut_one, cut       channels end: at the socket, half closed, by the mount, or by the relay
    stall_channels     the relay holds back the bytes of channels in one or both directions. After other events,
                       it drops or releases them, among them WRITEs that were replayed and overwritten long ago
    refuse             paths are lost, and refuse connections for a while
    slow_and_cut       requests are held at the disk while their channels end, so that replays meet them
    write_late         WRITEs are held at the disk while their channels end, and later requests are served
    cancellations      tasks are cancelled in the middle of a read or write

Silence is found in a tenth of the usual time: before or after deadlines pass, as the seed says. At the end, every path
is connected again, the exporter has one session of each mount with as many channels, and no credit is in use.
"""

import errno
import functools
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.enclosure_info import SHARE_ENCLOSURES
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.states import PathState
from meshfs.initiator.session import balance as spread
from meshfs.model import SHARE_DISKS
from meshfs.smb.constants import Command
from meshfs.transport.stream import StreamTransport
from meshlab.models.blocks import BLOCK_BYTES
from meshlab.smb.fixed_ways import Dialer
from meshlab.smb.stalling import Relay, Relays
from support.cluster_actors import BLOCKS, HOT_BLOCKS, IO_TIMEOUT_S, Actor, Mount
from support.cluster_world import SETTLE_S, World, simulate
from tests.simulation.initiator.test_cluster import CALLS_MIN

SEEDS = range(1, 11)
CHANNELS_MAX = 4
#: Requests of at least this size are split over channels that are equally fast.
IN_PARTS_BLOCKS = 2 * spread.SPLIT_MIN_BYTES // BLOCK_BYTES
CREDITS_MAX = limits.CREDITS_MAX
#: For each session, the number of CREATEs whose channel ended before the reply came.
LOST_CREATES: Counter[int] = Counter()


class MountOfChannels(Mount):
    """A mount with several paths to the exporter."""

    def __init__(
        self, world: "WorldOfChannels", node: str, connect: Callable[[], Awaitable[trio.SocketStream]]
    ) -> None:
        self.paths = [Relays(connect, world.nursery) for _ in range(world.random.randint(1, CHANNELS_MAX))]
        super().__init__(world, node, self._unused)

    async def _unused(self) -> StreamTransport:
        raise AssertionError("paths are dialled by their relays")

    def dialers(self) -> list[Dialer]:
        return [functools.partial(self._dial_path, path) for path in self.paths]

    async def _dial_path(self, path: Relays) -> StreamTransport:
        transport = await path.dial()
        assert isinstance(transport, StreamTransport)
        self.transports = [each for each in self.transports if each._sock.fileno() >= 0]
        self.transports.append(transport)
        return transport

    @property
    def relays(self) -> list[Relay]:
        return [relay for path in self.paths for relay in path.alive]


class ActorThatLeaves(Actor):
    """An actor whose task is cancelled now and then. Workers are never cancelled, as those of FUSE are not."""

    #: It is set while calls may be cancelled, which is not so at the end.
    may_leave = False

    async def bounded(self, what: str, call: Awaitable[object]) -> tuple[int, object]:
        patience_s = self.random.choice((0.001, 0.02, 0.2)) if self.may_leave and self.random.random() < 0.1 else None
        if patience_s is None or not what.startswith(("read", "write", "zero")):
            return await super().bounded(what, call)
        answer: tuple[int, object] = (errno.ECANCELED, None)
        with trio.move_on_after(patience_s):
            answer = await super().bounded(what, call)
        self.world.note(f"{self.name} {what}: left" if answer[0] == errno.ECANCELED else f"{self.name} {what}: stayed")
        return answer

    def some_range(self) -> tuple[int, int]:
        """Let some requests be large enough to be split, so that parts meet other requests."""
        if self.random.random() < 0.15:
            first = self.random.randrange(HOT_BLOCKS)
            return first, first + self.random.randrange(IN_PARTS_BLOCKS, 4 * IN_PARTS_BLOCKS)
        return super().some_range()

    def check_code(self, code: int, faults: int) -> None:
        if code != errno.ECANCELED:
            super().check_code(code, faults)

    async def run(self) -> None:
        self.may_leave = True
        await super().run()

    async def last_flushes(self) -> None:
        self.may_leave = False
        await super().last_flushes()


class WorldOfChannels(World):
    """Holds everything of one run with several channels."""

    def make_mounts(self, path: Path, port: int) -> Sequence[Mount]:
        self.dead_after_s = self.random.choice((0.06, 0.15, 2 * IO_TIMEOUT_S))
        # The fixture `quick` restores it.
        limits.CREDITS_MAX = self.random.choice((CREDITS_MAX, 100))  # type: ignore[misc]
        return [
            # If credits are scarce, requests wait for them while their channel ends.
            MountOfChannels(self, "n2", functools.partial(trio.open_unix_socket, path)),
            MountOfChannels(self, "n3", functools.partial(trio.open_tcp_stream, "127.0.0.1", port)),
        ]

    def make_actor(self, mount: Mount, number: int) -> Actor:
        return ActorThatLeaves(self, mount, number)

    def events(self) -> Sequence[Callable[[], Awaitable[None]]]:
        return (
            self.cut_one,
            self.cut_one,
            self.cut_one,
            self.cut,
            self.restart,
            self.lose_power,
            self.lose_power_live,
            self.stall,
            self.stall_channels,
            self.stall_channels,
            self.stall_channels,
            self.slow_and_cut,
            self.slow_and_cut,
            self.write_late,
            self.write_late,
            self.write_late,
            self.refuse,
            self.delay,
            self.fail,
        )

    def some_mount(self) -> MountOfChannels:
        mount = self.random.choice(self.mounts)
        assert isinstance(mount, MountOfChannels)
        return mount

    async def cut_one(self) -> None:
        mount, how = self.some_mount(), self.random.randrange(5)
        self.note(f"chaos: cut one of {mount.node} {how}")
        if how < 3 and mount.transports:
            transport = self.random.choice(mount.transports)
            if transport._sock.fileno() >= 0:
                transport._sock.shutdown((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)[how])
        elif how == 3 and mount.session.channels:
            self.random.choice(mount.session.channels).fail("cable pulled")
        elif how == 4 and mount.relays:
            self.random.choice(mount.relays).cut()

    async def stall_channels(self) -> None:
        """Hold back some or all channels of a mount. Their bytes may arrive after all that came later."""
        mount = self.some_mount()
        relays = mount.relays
        if not relays:
            return
        chosen = self.random.sample(relays, self.random.randint(1, len(relays)))
        requests, replies = self.random.choice(((True, False), (False, True), (True, True)))
        self.note(f"chaos: {len(chosen)} of {len(relays)} of {mount.node} silent, {requests=} {replies=}")
        for relay in chosen:
            relay.hold(requests=requests, replies=replies)
        for _ in range(self.random.randrange(4)):
            await trio.sleep(self.random.choice((0.01, 0.1, 0.3, 0.7)))
            await self.random.choice((self.nothing, self.cut_one, self.restart, self.lose_power_live, self.delay))()
        for relay in chosen:
            held = relay.requests.held_bytes, relay.replies.held_bytes
            drop = self.random.random() < 0.3
            self.note(f"chaos: {'dropped' if drop else 'released'} {held} bytes")
            relay.cut() if drop else relay.release()
            await trio.sleep(self.random.choice((0, 0.005, 0.05)))

    async def slow_and_cut(self) -> None:
        """Hold requests at the disk while their channels end, and release them one by one."""
        share = self.random.choice((0.3, 1))
        self.note("chaos: slow")
        self.disk.stall(lambda request: request.op in (Op.WRITE, Op.READ) and self.random.random() < share)
        for _ in range(self.random.randint(1, 4)):
            await trio.sleep(self.random.choice((0.005, 0.05, 0.3)))
            await self.random.choice((self.cut_one, self.cut_one, self.cut, self.some_go_on, self.stall_channels))()
        await trio.sleep(self.random.choice((0, 0.05)))
        self.disk.release()
        self.note("chaos: released")

    async def write_late(self) -> None:
        """Hold WRITEs at the disk while their channels end, and serve the requests that come after them.

        Some WRITEs, or some parts of large ones, may fail meanwhile. WRITEs that were given up are fenced, and the
        channels on which the mount waits for their end are lost as well.
        """
        share, failing = self.random.choice(((1, False), (0.5, True)))
        self.note(f"chaos: writes held, {failing=}")
        self.disk.stall(lambda request: request.op == Op.WRITE and self.random.random() < share)
        if failing:
            self.faults, self.faulty = self.faults + 1, True
            self.disk.fail(0, BLOCKS * BLOCK_BYTES, errno.EIO, (Op.WRITE,))
        await trio.sleep(self.random.choice((0.005, 0.02, 0.05)))
        if failing:
            self.disk.heal()
            self.faults, self.faulty = self.faults + 1, False
        self.disk.stall(lambda request: False)
        if failing:
            for mount in self.mounts:
                # All channels but one end, so that one part of a WRITE has an answer and another has none.
                for channel in mount.session.channels[1:]:
                    channel.fail("cable pulled")
        for _ in range(self.random.randint(1, 4)):
            await self.random.choice((self.cut_one, self.cut_one, self.cut))()
            await trio.sleep(self.random.choice((0.01, 0.1, 0.3)))
        self.disk.release()
        self.note("chaos: they land")

    async def refuse(self) -> None:
        mount = self.some_mount()
        paths = self.random.sample(mount.paths, self.random.randint(1, len(mount.paths)))
        self.note(f"chaos: {len(paths)} of {len(mount.paths)} paths of {mount.node} refuse")
        for path in paths:
            path.refusing = True
            for relay in list(path.alive):
                relay.cut()
        await trio.sleep(self.random.choice((0.05, 0.3, 0.8)))
        for path in paths:
            path.refusing = False

    async def nothing(self) -> None:
        pass

    # --- the end ---------------------------------------------------------------------------

    async def heal(self) -> None:
        for mount in self.mounts:
            assert isinstance(mount, MountOfChannels)
            for relay in mount.relays:
                relay.release()
            # Do what a mount does when its interfaces come up.
            mount.session.interfaces_changed()
        await super().heal()
        with trio.fail_after(SETTLE_S):
            while not self._all_paths_connected():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)

    def _all_paths_connected(self) -> bool:
        return all(keeper.state is PathState.CONNECTED for mount in self.mounts for keeper in mount.session.keepers)

    def left_over(self) -> list[str]:
        """Leave out opens whose CREATE was lost with its channel. No mount knows them, and the session ends them."""
        exporter = self.exporter.exporter
        assert exporter is not None
        left = []
        for session in exporter.sessions.values():
            disks = [opened.name for opened in session.opens.values() if opened.name]
            left += disks[LOST_CREATES[session.id] :]
        return left

    def settled(self) -> bool:
        """Return whether cancelled reads are answered as well, and both ends have the same channels."""
        exporter = self.exporter.exporter
        assert exporter is not None
        theirs = {session.user: len(session.channels) for session in exporter.sessions.values()}
        ours = {mount.node: len(mount.session.channels) for mount in self.mounts}
        channels = [channel for mount in self.mounts for channel in mount.session.channels]
        return (
            theirs == ours
            and len(channels) == sum(len(mount.session.keepers) for mount in self.mounts)
            and super().settled()
        )

    async def check_end(self) -> None:
        await super().check_end()
        exporter = self.exporter.exporter
        assert exporter is not None
        sessions = {session.user: session for session in exporter.sessions.values()}
        assert len(sessions) == len(exporter.sessions) == len(self.mounts), "one session of each mount"
        for mount in self.mounts:
            assert isinstance(mount, MountOfChannels)
            ours, theirs = mount.session.session, sessions[mount.node]
            assert ours is not None
            assert ours.credentials.session_id == theirs.id
            assert len(theirs.channels) == len(ours.channels) == len(mount.paths)
            assert not theirs.closing
            assert all(lane.held == 0 for shared in mount.port.shared_opens() for lane in shared.lanes.values())
            roots = Counter(opened.tree.share for opened in theirs.opens.values() if not opened.name)
            assert roots[SHARE_DISKS] == 1
            assert roots[SHARE_ENCLOSURES] <= 1 + LOST_CREATES[theirs.id]
            assert sum(len(channel.in_flight()) for channel in ours.channels) <= 2, "a CHANGE_NOTIFY for each root"
            for channel in ours.channels:
                check_idle(channel)


def check_idle(channel: Channel) -> None:
    """Check that only waiting CHANGE_NOTIFYs use anything of the channel."""
    assert channel.logged_in
    assert not channel.why
    assert channel.requests.window.waiting == 0
    assert not channel.requests.window.waiters()
    assert channel.requests.window.control.held == sum(slot.charge for slot in channel.in_flight())
    assert channel.credits.available > limits.WINDOW_FIRST_CREDITS
    if channel.measuring:
        assert channel.load.outstanding_bytes == 0, "a load without a request"


@pytest.fixture(autouse=True)
def lost_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the CREATEs that are lost with their channel, as each may leave an open behind."""
    close = Channel._close

    def counted(channel: Channel) -> None:
        LOST_CREATES[channel.session_id] += sum(slot.command == Command.CREATE for slot in channel.in_flight())
        close(channel)

    monkeypatch.setattr(Channel, "_close", counted)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten times, so that silence is found and lost paths are tried several times in a run. Split large requests."""
    monkeypatch.setattr(limits, "CREDITS_MAX", CREDITS_MAX)
    monkeypatch.setattr(limits, "CHANNEL_TICK_S", 0.02)
    monkeypatch.setattr(limits, "CHANNEL_PROBE_BESIDE_OTHERS_S", 0.04)
    monkeypatch.setattr(limits, "CHANNEL_PROBE_AFTER_S", 0.1)
    monkeypatch.setattr(limits, "CHANNEL_SILENCE_MAX_S", 0.35)
    monkeypatch.setattr(limits, "CHANNEL_IDLE_PROBE_S", 0.2)
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 0.4)
    monkeypatch.setattr(limits, "RECONNECT_DELAY_MAX_S", 0.2)
    monkeypatch.setattr(limits, "PATH_BROKEN_AFTER_S", 0.2)
    monkeypatch.setattr(limits, "PATH_STEADY_AFTER_S", 0.2)
    # A call gives up if its next attempt would be too late, so at most this long before its deadline.
    monkeypatch.setattr(limits, "RETRY_DELAY_MAX_S", 0.05)
    monkeypatch.setattr(spread, "SPLIT_MIN_S", 0.0)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_byte_is_wrong_and_no_loss_untold(tmp_path: Path, seed: int) -> None:
    assert await simulate(seed, tmp_path, WorldOfChannels) > CALLS_MIN


async def test_other_seeds_for_a_while(tmp_path: Path, soak_s: float) -> None:
    end = time.monotonic() + soak_s
    while time.monotonic() < end:
        await simulate(int.from_bytes(os.urandom(4), "little"), tmp_path, WorldOfChannels)
