"""The session to one exporter: made, kept over all paths there are, and made again when it is lost.

    connecting   nothing was tried yet
    connected    logged in, shares connected, its disks are known; one channel or more
    down         no channel; ``why`` says the reason, ``retry_at`` the next attempt

Every selected path (multichannel.py) has a keeper of its own (keeper.py). The first one that
connects logs in, the others are bound to that session; when the last channel is lost, the
first that connects logs in anew. The new login names the previous session (MS-SMB2 3.3.5.5.3), and the
exporter answers an open of a disk only when that session's I/O at the disk has ended: whatever was
unanswered may then go again without an old write landing over a newer one.

The plan is made anew when an interface of ours changes, a path fails or comes back, and when the
exporter tells of other interfaces.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import CLOSED, Channel
from meshfs.initiator.remote.dialing import Ways
from meshfs.initiator.remote.failfast import silence_max_s
from meshfs.initiator.remote.path_keeper import PathKeeper
from meshfs.initiator.remote.plan import Choice, Path, plan
from meshfs.initiator.remote.states import EXPORTER, ExporterEvent, ExporterState, PathState, next_state
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.bind import NewLoginNeeded, NoChannelOfThisSession, SessionInDoubt, bind
from meshfs.initiator.session.login import log_in
from meshfs.initiator.session.negotiation import Policy, validate_negotiation
from meshfs.initiator.session.requests import open_file, query_disks, query_interfaces, query_one_of, wait_for_change
from meshfs.initiator.session.session import Session
from meshfs.initiator.session.trees import connect_tree
from meshfs.model import DiskInfo, IoClass
from meshfs.smb.auth import Initiator as Login
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Waiting:
    """A call that waits for the exporter to come back, or for a disk that may hang."""

    disk: str
    op: str
    since_s: float
    #: When it ends as things are now.
    ends_s: float


class RemoteExporter:
    """Everything about one exporter: its paths, the session over them, the disks it announced."""

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
    ) -> None:
        self.node = node
        self.state = ExporterState.CONNECTING
        self.why = "not tried yet"
        #: What it announced last; kept while it is away.
        self.disks: tuple[DiskInfo, ...] = ()
        #: None while it is down.
        self.session: Session | None = None
        self.keepers: list[PathKeeper] = []
        #: Since when it has been away: not heard, or not reached since the start; None while it is connected.
        self.away_since_s: float | None = None
        self.io_timeout_s = io_timeout_s
        self.waiting: set[Waiting] = set()
        #: Names of disks that hang at it, and since when; their calls fail at once.
        self.hung_disks: dict[str, float] = {}
        #: Called when the session or a channel of it came or went.
        self.listeners: list[Callable[[], None]] = []
        #: When the state was entered; trio's clock.
        self.since_s = 0.0
        self.failures = 0
        #: Messages that were forged, or changed on their way.
        self.bad_signatures = 0
        #: Encrypted messages that came a second time, or on another channel than they were sent on.
        self.nonces_repeated = 0
        # Of channels that ended.
        self.sent_bytes_before = 0
        self.received_bytes_before = 0
        self._ways = ways
        self._remotes = tuple(ways.remotes)
        #: What the exporter advertised last, beyond what the config says.
        self._advertised: tuple[Remote, ...] = ()
        self._scope = trio.CancelScope()
        self._new_login = login
        self._policy = policy
        self._guid = guid
        self._pool = pool
        self._on_change = on_change
        self._channels = channels
        self._dead_after_s = dead_after_s
        self._previous_session_id = 0
        self._joining = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._disks_changed = trio.Event()
        self._session_changed = trio.Event()
        self._ask_interfaces = trio.Event()
        # Questions about single disks that were not answered in time and are asked again.
        self._answers_overdue = 0
        # When a question about a disk may next try to reach an exporter that is down.
        self._reach_again_s = -inf

    @property
    def channels(self) -> list[Channel]:
        return [] if self.session is None else list(self.session.channels)

    @property
    def retry_at(self) -> float | None:
        """When the next attempt is due while it is down."""
        return min((keeper.retry_at for keeper in self.keepers if keeper.retry_at is not None), default=None)

    async def run(self) -> None:
        """Keep it connected; until cancelled."""
        self.since_s = self.away_since_s = trio.current_time()
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.replan()
                await trio.sleep_forever()

    # --- what a reload of the config changes ---------------------------------------------

    def configure(self, ways: Ways, channels: int, dead_after_s: float, io_timeout_s: float) -> None:
        """Go by another config from now on; requests in flight stay where they are.

        Paths to addresses that are gone end as those of an interface that went; a new key is used at the next login.
        """
        self._ways, self._channels, self._dead_after_s = ways, channels, dead_after_s
        self.io_timeout_s = io_timeout_s
        for keeper in self.keepers:
            keeper.configure(dead_after_s, silence_max_s(io_timeout_s))
        self._take_remotes(self._advertised)
        self.interfaces_changed()

    def remove(self) -> None:
        """The node is not of the cluster any more: its channels are closed and its disks are gone."""
        self.disks = ()
        self._scope.cancel()
        self._enter(ExporterEvent.REMOVED, "the config does not have this node any more")

    # --- paths -------------------------------------------------------------------------

    def interfaces_changed(self) -> None:
        """Something is new among this machine's interfaces: look, and try at once what failed."""
        self.replan()
        self._ask_interfaces.set()
        for keeper in self.keepers:
            keeper.poke()

    def replan(self) -> None:
        """Have the paths there should be; end the others."""
        nursery = self._nursery
        if nursery is None:
            return
        known = {keeper.path.key: keeper for keeper in self.keepers}
        now = trio.current_time()

        def works(path: Path) -> bool:
            keeper = known.get(path.key)
            return keeper is None or keeper.works(now)

        locals_ = self._ways.locals()
        # Its own exporter is reached by one socket, which more channels would only share.
        channels = self._channels if self._ways.asks else 1
        choices = plan(locals_, self._remotes, channels=channels, works=works)
        keepers = []
        for choice in choices:
            keeper = known.pop(choice.path.key, None)
            if keeper is None:
                keeper = PathKeeper(
                    self, choice, self._pool, self._dead_after_s, silence_max_s(self.io_timeout_s)
                )  # fmt: skip
            keeper.choice = choice
            keepers.append(keeper)
        self.keepers = keepers
        for keeper in keepers:
            if keeper.choice.why_not:
                self._drop(keeper, gone=keeper.path.local is not None and not keeper.path.local.up)
            elif not keeper.running:
                keeper.start(nursery)
        there = {(local.name, local.address) for local in locals_ if local.up}
        addresses = {remote.address for remote in self._remotes}
        for keeper in known.values():
            path = keeper.path
            gone = path.remote.address not in addresses or (
                path.local is not None and (path.local.name, path.local.address) not in there
            )
            keeper.choice = Choice(path, "the address is gone" if gone else "its ends are paired otherwise")
            self._drop(keeper, gone=gone)
            if keeper.running:
                # It ends by itself, or carries the session alone.
                self.keepers.append(keeper)

    def replan_later(self, delay_s: float) -> None:
        async def later() -> None:
            await trio.sleep(delay_s)
            self.replan()

        if self._nursery is not None:
            self._nursery.start_soon(later)

    def _drop(self, keeper: PathKeeper, *, gone: bool) -> None:
        """End a path that is not to be used; ``gone``: nothing gets through it any more.

        One that carries the session alone goes on till it fails: a link that is down may be up again in time.
        """
        channel, session = keeper.channel, self.session
        if channel is None or session is None:
            if keeper.running:
                keeper.scope.cancel()
            elif not keeper.failures or keeper.state is PathState.IDLE:
                keeper.why = keeper.choice.why_not
            return
        if not any(other is not channel for other in session.spread.channels):
            return
        if gone:
            channel.fail(keeper.choice.why_not)
            keeper.failures += 1
            keeper.losses += 1
            self.failures += 1
            keeper.scope.cancel()
        elif channel in session.spread.channels:
            assert self._nursery is not None
            session.retire(channel)
            self._nursery.start_soon(keeper.retire, channel, session)

    async def dial(self, path: Path) -> Transport:
        return await self._ways.dial(path)

    async def join(self, channel: Channel, path: Path) -> None:
        """Log in on the channel, or bind it to the session there is.

        One logs in at a time; binds wait for nobody, as each may be on a path where nothing gets through.
        """
        async with self._joining:
            session = self.session
            if session is None:
                with self._yielding(channel), trio.fail_after(limits.HANDSHAKE_TIMEOUT_S):
                    session, disks = await self._log_in(channel)
                self._add(session, channel, path)
                self._connected(session, disks)
                return
        with trio.fail_after(limits.HANDSHAKE_TIMEOUT_S):
            await self._bind(channel, session)
        self._add(session, channel, path)
        logger.info("exporter %s: one more channel, %s to %s", self.node, channel.transport.local,
                    channel.transport.remote)  # fmt: skip
        self._tell()

    @contextmanager
    def _yielding(self, channel: Channel) -> Iterator[None]:
        """A login on a path where nothing is heard gives way to those that wait to try theirs."""
        start_s, scope = trio.current_time(), trio.CancelScope()

        async def watch() -> None:
            with scope:
                while True:
                    await trio.sleep(limits.CHANNEL_TICK_S)
                    silent_s = trio.current_time() - max(start_s, channel.heard_s)
                    if silent_s >= limits.LOGIN_BESIDE_OTHERS_S and self._joining.statistics().tasks_waiting:
                        channel.fail(f"nothing heard for {silent_s:.1f} s of the login, and others wait")

        assert self._nursery is not None
        self._nursery.start_soon(watch)
        try:
            yield
        finally:
            scope.cancel()

    def _add(self, session: Session, channel: Channel, path: Path) -> None:
        if channel.why:
            raise ChannelLost(channel.why)
        speed = path.speed_bits_s or limits.LINK_SPEED_ASSUMED_BITS_S
        session.add(channel, speed / 8)

    async def _log_in(self, channel: Channel) -> tuple[Session, tuple[DiskInfo, ...]]:
        guid, policy = self._guid, self._policy
        credentials = await log_in(
            channel, policy, guid, self._new_login(), self._previous_session_id,
            to_be_bound=self._ways.asks or len(self.keepers) > 1,
        )  # fmt: skip
        self._previous_session_id = credentials.session_id
        trees = {io_class: await connect_tree(channel, self.node, io_class.share) for io_class in IoClass}
        await validate_negotiation(channel, policy, guid, trees[IoClass.APP])
        root = await open_file(channel, trees[IoClass.APP], "", directory=True)
        return Session(credentials, trees, root, self._lost), await query_disks(channel, root)

    async def _bind(self, channel: Channel, session: Session) -> None:
        if session.no_more:
            raise NoChannelOfThisSession(session.no_more)
        try:
            await bind(channel, self._policy, self._guid, self._new_login(), session.credentials)
        except NewLoginNeeded as error:
            session.fail(f"{error}: a new login")
            raise ChannelLost(session.why) from error
        except NoChannelOfThisSession as error:
            session.no_more = str(error)
            raise
        except SessionInDoubt:
            # It may have started anew while our other channels are silent, which then are not waited for long.
            for other in session.channels:
                other.liveness.exporter_heard(trio.current_time())
            raise
        await validate_negotiation(channel, self._policy, self._guid, session.trees[IoClass.APP])
        if session.why:
            raise ChannelLost(session.why)
        if session.one_only:
            raise NoChannelOfThisSession(session.one_only)

    def failed(self, why: str) -> None:
        self.failures += 1
        if self.session is None:
            self._down(ExporterEvent.FAILED, why)
        self.replan()

    def closed(self, channel: Channel) -> None:
        self.sent_bytes_before += channel.sent_bytes
        self.received_bytes_before += channel.received_bytes
        self.bad_signatures += channel.bad_signatures
        self.nonces_repeated += channel.nonces_repeated

    async def session_change(self) -> None:
        await self._session_changed.wait()

    # --- what goes on while a session lives ----------------------------------------------

    async def _follow(self, session: Session) -> None:
        """What is asked of it again and again, as long as it lives."""
        with session.scope:
            async with trio.open_nursery() as nursery:
                for task in (self._watch_changes, self._follow_interfaces, self._follow_disks):
                    nursery.start_soon(self._while_alive, task, session)

    async def _while_alive(self, task: Callable[[Session], Awaitable[None]], session: Session) -> None:
        """What the exporter answers ends the session at most, not the mount."""
        try:
            await task(session)
        except ChannelLost:
            # The session ended, and its last channel's own task tells why.
            return
        except StatusError as error:
            session.fail(f"the exporter does not tell its disks: {error}")
        except RemoteProtocolError as error:
            session.fail(f"the exporter broke the protocol: {error}")

    async def _watch_changes(self, session: Session) -> None:
        async def wait(channel: Channel) -> None:
            # Something changed, or it is asked again as its channel was lost, perhaps with the news.
            self._disks_changed.set()
            await wait_for_change(channel, session.root)

        try:
            while True:
                await session.ask(wait)
                # Changes that happen meanwhile are kept for the next request. To take a long list over takes as long as
                # it is, during which no I/O of the mount goes on, so the pause is longer for such an exporter.
                await trio.sleep(max(limits.CHANGES_PAUSE_S, len(self.disks) * limits.CHANGES_PAUSE_PER_DISK_S))
        except StatusError as error:
            logger.info("exporter %s does not tell of changed disks (%s); asked every %g s", self.node, error,
                        limits.DISKS_REFRESH_S)  # fmt: skip

    async def _follow_disks(self, session: Session) -> None:
        while True:
            with trio.move_on_after(limits.DISKS_REFRESH_S):
                await self._disks_changed.wait()
            self._disks_changed = trio.Event()
            try:
                disks = await session.ask(
                    lambda channel: query_disks(channel, session.root, trio.current_time() + self.io_timeout_s)
                )
            except TimeoutError:
                # Its reply may have been lost on the way, alone.
                self._disks_changed.set()
                continue
            if disks != self.disks:
                self.disks = disks
                self._on_change()

    async def ask_of_disk(self, info: DiskInfo) -> tuple[DiskInfo, Session] | None:
        """What the exporter says of the disk now, and in which session; None without an answer in ASK_DISK_TIMEOUT_S.

        While an answer is overdue nobody else waits, so that a silent exporter does not make `ls` slow.
        """
        if self.session is None:
            await self._reach()
        session = self.session
        if session is None or self._answers_overdue:
            return None
        with trio.move_on_after(limits.ASK_DISK_TIMEOUT_S) as patience:
            try:
                told = await session.ask(lambda channel: query_one_of(channel, session.root, info))
            except (ChannelLost, StatusError, RemoteProtocolError) as error:
                logger.debug("exporter %s does not tell of disk %s: %s", self.node, info.name, error)
                return None
            return None if told is None else (told, session)
        if patience.cancelled_caught:
            self._answers_overdue += 1
            assert self._nursery is not None
            self._nursery.start_soon(self._await_answer, session, info)
        return None

    async def _reach(self) -> None:
        """Try at once to connect, and wait a little for it; one question in ASK_DISK_AGAIN_S does."""
        now = trio.current_time()
        if now < self._reach_again_s:
            return
        self._reach_again_s = now + limits.ASK_DISK_AGAIN_S
        for keeper in self.keepers:
            keeper.poke()
        with trio.move_on_after(limits.ASK_DISK_TIMEOUT_S):
            while self.session is None:
                await self.session_change()

    async def _await_answer(self, session: Session, info: DiskInfo) -> None:
        """Ask again, and return when the exporter has answered or the session has ended."""
        try:
            await session.ask(lambda channel: query_one_of(channel, session.root, info))
        except (ChannelLost, StatusError, RemoteProtocolError) as error:
            logger.debug("exporter %s does not tell of disk %s: %s", self.node, info.name, error)
        finally:
            self._answers_overdue -= 1

    def learned(self, info: DiskInfo) -> None:
        """An open said this of its disk. Where the list tells of another disk, or another size, the list is older."""
        disks = tuple(info if self._is_older(disk, info) else disk for disk in self.disks)
        if disks != self.disks:
            self.disks = disks
            self._on_change()

    @staticmethod
    def _is_older(disk: DiskInfo, info: DiskInfo) -> bool:
        return disk.id == info.id and (disk.instance, disk.size_bytes) != (info.instance, info.size_bytes)

    async def _follow_interfaces(self, session: Session) -> None:
        """Where else the exporter is; what the config says stays, as it may be all that we reach."""
        told_why = ""
        while self._ways.asks:
            self._ask_interfaces = trio.Event()
            try:
                told = await session.ask(lambda channel: query_interfaces(channel, session.trees[IoClass.APP]))
            except (StatusError, RemoteProtocolError) as error:
                # Perhaps it has none now; it is asked again.
                if str(error) != told_why:
                    told_why = str(error)
                    logger.info("exporter %s does not tell its interfaces: %s", self.node, error)
            else:
                self._take_remotes(told)
            with trio.move_on_after(limits.INTERFACES_REFRESH_S):
                await self._ask_interfaces.wait()

    def _take_remotes(self, told: tuple[Remote, ...]) -> None:
        """For a configured address that is missing from this answer, keep what the exporter advertised last."""
        self._advertised = told
        found = {remote.address: remote for remote in self._ways.remotes}
        found |= {remote.address: remote for remote in self._remotes if remote.address in found}
        found |= {remote.address: remote for remote in told}
        if tuple(found.values()) != self._remotes:
            self._remotes = tuple(found.values())
            self.replan()

    # --- state -------------------------------------------------------------------------

    def _connected(self, session: Session, disks: tuple[DiskInfo, ...]) -> None:
        self.session = session
        self.away_since_s = None
        self.disks = disks
        # Whatever changed between the list and the first CHANGE_NOTIFY.
        self._disks_changed = trio.Event()
        self._disks_changed.set()
        assert self._nursery is not None
        self._nursery.start_soon(self._follow, session)
        self._enter(ExporterEvent.LOGGED_IN, "")
        logger.info(
            "exporter %s connected at %s, %d disks", self.node, session.channels[0].transport.remote, len(disks)
        )

    def _lost(self, session: Session, channel: Channel) -> None:
        """A channel of the session ended, perhaps its last one."""
        if session is not self.session:
            return
        if session.why:
            self.session = None
            self.away_since_s = session.gone_s
            if session.why == CLOSED:
                self._enter(ExporterEvent.LOST, CLOSED)
            else:
                self._down(ExporterEvent.LOST, session.why)
            return
        where = f"{channel.transport.local} to {channel.transport.remote}"
        level = logging.INFO if channel.why == CLOSED else logging.WARNING
        logger.log(level, "exporter %s: channel %s lost: %s; %d left", self.node, where, channel.why,
                   len(session.channels))  # fmt: skip
        self._ask_interfaces.set()
        self._tell()

    def _down(self, event: ExporterEvent, why: str) -> None:
        if self.state is not ExporterState.DOWN or self.why != why:
            logger.warning("exporter %s is down: %s", self.node, why)
        self._enter(event, why)

    def _enter(self, event: ExporterEvent, why: str) -> None:
        state = next_state(EXPORTER, self.state, event)
        if state is not self.state:
            self.since_s = trio.current_time()
        self.state, self.why = state, why
        self._tell()

    def _tell(self) -> None:
        changed, self._session_changed = self._session_changed, trio.Event()
        changed.set()
        for listener in self.listeners:
            listener()
        self._on_change()
