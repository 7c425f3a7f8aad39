"""Keeps one exporter as a mount knows it, with its state, its session, its paths and its advertised disks.

states.py has the states. `Paths` keeps the paths, and each path makes channels. `Joining` lets the first channel log in
and binds the others to that session. `News` asks for disks and addresses until the session ends, and `DiskQuestions`
asks about single disks. All of them report to `RemoteExporter`.

When the last channel is lost, the session ends, and the first channel that connects logs in again. The disks stay
known meanwhile, and calls wait (failfast.py says how long).
"""

import logging
from collections.abc import Callable
from typing import Any

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.enclosure_info import EnclosureInfo
from meshfs.initiator.channel.channel import CLOSED, Channel
from meshfs.initiator.remote.dialing import Ways
from meshfs.initiator.remote.disk_questions import DiskQuestions
from meshfs.initiator.remote.ended import EndedChannels
from meshfs.initiator.remote.failfast import BlockedCall, silence_max_s
from meshfs.initiator.remote.joining import Joining
from meshfs.initiator.remote.news import News
from meshfs.initiator.remote.on_purpose import OnPurpose
from meshfs.initiator.remote.path_keeper import PathKeeper
from meshfs.initiator.remote.paths import Paths
from meshfs.initiator.remote.plan import Path
from meshfs.initiator.remote.states import EXPORTER, ExporterEvent, ExporterState, next_state
from meshfs.initiator.remote.views import Views
from meshfs.initiator.session.negotiation import Policy
from meshfs.initiator.session.session import InitiatorSession
from meshfs.mesh_view import MountView
from meshfs.model import DiskInfo
from meshfs.smb.auth import Login

logger = logging.getLogger(__name__)


class RemoteExporter:
    """Keeps one exporter connected, and holds what a mount knows about it."""

    def __init__(
        self,
        node: str,
        ways: Ways,
        login: Callable[[], Login],
        *,
        policy: Policy,
        guid: bytes,
        pool: BufferPool,
        on_change: Callable[[], None],
        channels: int = limits.CHANNELS_PER_PATH,
        dead_after_s: float = limits.CHANNEL_DEAD_AFTER_S,
        io_timeout_s: float = limits.IO_TIMEOUT_S,
        own_view: Callable[[], MountView] = MountView,
    ) -> None:
        self.node = node
        self.state = ExporterState.CONNECTING
        #: The reason for this state of the exporter. It is empty while the exporter is connected.
        self.why = "not tried yet"
        #: The time at which the exporter entered the state, by trio's clock.
        self.since_s = 0.0
        #: The last sign of life before the exporter went away, or the start of the mount. It is None while the
        #: exporter is connected.
        self.away_since_s: float | None = None
        #: The disks that the exporter advertised last. They are kept while it is away.
        self.disks: tuple[DiskInfo, ...] = ()
        #: The enclosures that the exporter advertised last. They are kept while it is away, and in a new session until
        #: that session has fetched them.
        self.enclosures: tuple[EnclosureInfo, ...] = ()
        #: The session. It is None while no channel is logged in.
        self.session: InitiatorSession | None = None
        self.io_timeout_s = io_timeout_s
        #: The calls that wait for the exporter now.
        self.waiting: set[BlockedCall] = set()
        #: The exporter's disks that hang, by name, each with the start of the hang. Calls of these disks fail at once.
        self.hung_disks: dict[str, float] = {}
        #: The disks that do not answer because an administrator suspended or drained them.
        self.on_purpose = OnPurpose()
        #: Is called when the session, or a channel of it, begins or ends.
        self.listeners: list[Callable[[], None]] = []
        #: The number of attempts that failed, and of channels that were lost.
        self.failures = 0
        self.ended = EndedChannels()
        self._on_change = on_change
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._session_changed = trio.Event()
        self._paths = Paths(
            self, ways, pool, channels=channels, dead_after_s=dead_after_s, silence_max_s=silence_max_s(io_timeout_s)
        )
        self._joining = Joining(self, policy, guid, login)
        self.news = News(self, self._paths)
        self.views = Views(self, own_view)
        self.questions = DiskQuestions(self)

    @property
    def channels(self) -> list[Channel]:
        return [] if self.session is None else list(self.session.channels)

    @property
    def keepers(self) -> list[PathKeeper]:
        """Return a keeper for every possible path, connected or not."""
        return self._paths.keepers

    @property
    def retry_at(self) -> float | None:
        """Return the time of the next attempt to connect, or None if no path waits for an attempt."""
        return self._paths.retry_at

    async def run(self) -> None:
        """Keep the exporter connected, until cancelled."""
        self.since_s = self.away_since_s = trio.current_time()
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._paths.start()
                await trio.sleep_forever()

    def spawn(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a task that ends with `run`."""
        assert self._nursery is not None, "tasks of an exporter need its nursery"
        self._nursery.start_soon(function, *args)

    # --- what a reload of the config, or a change of this machine's interfaces, brings ---

    def configure(self, ways: Ways, channels: int, dead_after_s: float, io_timeout_s: float) -> None:
        """Use another config from now on. Requests in flight stay on their channels.

        Paths to addresses that the config no longer has end like those of an interface that is removed. A new key is
        used at the next login.
        """
        self.io_timeout_s = io_timeout_s
        self._paths.configure(
            ways, channels=channels, dead_after_s=dead_after_s, silence_max_s=silence_max_s(io_timeout_s)
        )
        self.interfaces_changed()

    def remove(self) -> None:
        """Close the channels and forget disks and enclosures, because the node no longer belongs to the cluster."""
        self._set_disks(())
        self.enclosures = ()
        self._scope.cancel()
        self._enter(ExporterEvent.REMOVED, "the config does not have this node any more")

    def interfaces_changed(self) -> None:
        """Plan the paths again after a change of this machine's interfaces, and try at once what failed before."""
        self._paths.replan()
        self.news.ask_addresses()
        self.try_at_once()

    def try_at_once(self) -> None:
        """Let paths that wait for their next attempt try now."""
        self._paths.poke()

    # --- what its paths report -----------------------------------------------------------

    async def join(self, channel: Channel, path: Path) -> None:
        """Log in on the channel, or bind it to the present session. Raises BindRefused, or an error of the setup."""
        await self._joining.join(channel, path, more_to_come=self._paths.may_be_several)

    def failed(self, why: str) -> None:
        """Count a path that could not connect, or has lost its channel, and plan the paths again."""
        self.failures += 1
        if self.session is None:
            self._down(ExporterEvent.FAILED, why)
        self._paths.replan()

    def closed(self, channel: Channel) -> None:
        """Add the counts of a channel that has ended."""
        self.ended.add(channel)

    async def session_change(self) -> None:
        """Return when the session, or a channel of it, begins or ends."""
        await self._session_changed.wait()

    # --- the disks and enclosures of the exporter ----------------------------------------

    def take_disks(self, disks: tuple[DiskInfo, ...]) -> None:
        """Take the list of disks that the exporter advertises now."""
        if disks != self.disks:
            self._set_disks(disks)
            self._on_change()

    def _set_disks(self, disks: tuple[DiskInfo, ...]) -> None:
        self.disks = disks
        if self.on_purpose.take(disks, trio.current_time()):
            # Calls that wait have another deadline now.
            for listener in self.listeners:
                listener()

    def take_enclosures(self, enclosures: tuple[EnclosureInfo, ...]) -> None:
        """Take the list of enclosures that the exporter advertises now. Calls that wait look at the list again."""
        if enclosures != self.enclosures:
            self.enclosures = enclosures
            self.channels_changed()

    def learned(self, info: DiskInfo) -> None:
        """Take what the exporter said at an open of a disk. If the list has another disk or size, the list is older."""
        self.take_disks(tuple(info if _is_older(disk, info) else disk for disk in self.disks))

    # --- state -------------------------------------------------------------------------

    def connected(self, session: InitiatorSession, disks: tuple[DiskInfo, ...]) -> None:
        """Use a new session, whose login succeeded and which has its first channel."""
        self.session = session
        self.away_since_s = None
        self._set_disks(disks)
        self.spawn(self.news.follow, session)
        self.spawn(self.views.follow, session)
        self._enter(ExporterEvent.LOGGED_IN, "")
        logger.info(
            "exporter %s connected at %s, %d disks", self.node, session.channels[0].transport.remote, len(disks)
        )

    def lost(self, session: InitiatorSession, channel: Channel) -> None:
        """Take the end of a channel of the session. If it was the last channel, the exporter is down."""
        if session is not self.session:
            return
        if session.why:
            self.session = None
            self.away_since_s = session.gone_s
            if session.why == CLOSED:
                self._enter(ExporterEvent.LOST, CLOSED)
            else:
                self._down(ExporterEvent.LEFT if self.on_purpose.is_leaving else ExporterEvent.LOST, session.why)
            return
        where = f"{channel.transport.local} to {channel.transport.remote}"
        level = logging.INFO if channel.why == CLOSED else logging.WARNING
        logger.log(
            level, "exporter %s: channel %s lost: %s; %d left", self.node, where, channel.why, len(session.channels)
        )
        self.news.ask_addresses()
        self.channels_changed()

    def _down(self, event: ExporterEvent, why: str) -> None:
        state = next_state(EXPORTER, self.state, event)
        if self.state is not state or self.why != why:
            level = logging.INFO if state is ExporterState.DRAINED else logging.WARNING
            logger.log(level, "exporter %s is %s: %s", self.node, state.value, why)
        self._enter(event, why)

    def _enter(self, event: ExporterEvent, why: str) -> None:
        state = next_state(EXPORTER, self.state, event)
        if state is not self.state:
            self.since_s = trio.current_time()
        self.state, self.why = state, why
        self.channels_changed()

    def channels_changed(self) -> None:
        """Wake every task that waits for a change of the session or of its channels, and call the listeners."""
        changed, self._session_changed = self._session_changed, trio.Event()
        changed.set()
        for listener in self.listeners:
            listener()
        self._on_change()


def _is_older(disk: DiskInfo, info: DiskInfo) -> bool:
    """Return whether ``disk`` has the name of ``info``, but is another device or has another size."""
    return disk.id == info.id and (disk.instance, disk.size_bytes) != (info.instance, info.size_bytes)
