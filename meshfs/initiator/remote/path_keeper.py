"""Keeps one path to an exporter. Its task connects, joins the session, and starts again after a loss.

states.py has the states, and the events that lead from one to the next. If a path was connected for
PATH_STEADY_AFTER_S, it is tried again as soon as its channel is lost. A path that cannot connect, or whose channels are
lost soon, waits longer each time: the delays double up to `limits.RECONNECT_DELAY_MAX_S`. When an interface changes,
the path is tried at once (`poke`), and its delays start from the shortest again.
"""

import logging
import random
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import AuthenticationError, ChannelLost, KeyFileError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.ended import EndedChannels
from meshfs.initiator.remote.plan import Choice, Path
from meshfs.initiator.remote.states import PATH, PathEvent, PathState, next_state
from meshfs.initiator.session.bind import BindRefused
from meshfs.initiator.session.session import InitiatorSession
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

_SETUP_ERRORS = (AuthenticationError, RemoteProtocolError, StatusError, ChannelLost, KeyFileError)
_RETIRE_POLL_S = 0.05


class ExporterOfPath(Protocol):
    """Stands for the exporter that the path leads to."""

    node: str
    session: InitiatorSession | None

    async def join(self, channel: Channel, path: Path) -> None:
        """Log in on the channel, or bind it to the present session. Raises BindRefused, or an error of the setup."""

    def failed(self, why: str) -> None:
        """Count an attempt to connect or to log in that failed, or a channel that was lost."""

    def closed(self, channel: Channel) -> None:
        """Add the counts of a channel, which has ended."""

    async def session_change(self) -> None:
        """Return when the session, or a channel of it, begins or ends."""


class Planner(Protocol):
    """Chooses the paths, and connects their ends."""

    async def dial(self, path: Path) -> Transport:
        """Connect to the path's far end. Raises OSError."""

    def replan(self) -> None:
        """Plan again, because this path works again or has ended."""

    def replan_after(self, delay_s: float) -> None:
        """Plan again later. If this path does not work at that time, other paths are used."""


class PathKeeper:
    """Keeps one path. `start` runs its task, and cancelling ``scope`` ends it."""

    def __init__(
        self,
        owner: ExporterOfPath,
        planner: Planner,
        choice: Choice,
        pool: BufferPool,
        dead_after_s: float,
        silence_max_s: float,
    ) -> None:
        self.choice = choice
        self.state = PathState.IDLE
        self.why = choice.why_not
        self.channel: Channel | None = None
        #: The number of attempts that failed, and of channels that were lost.
        self.failures = 0
        #: The number of channels that belonged to the session and were lost.
        self.losses = 0
        self.ended = EndedChannels()
        self.retry_at: float | None = None
        #: The time from which the path is tried without success. It is None while the path works or is not tried.
        self.broken_since: float | None = None
        self.running = False
        self.scope = trio.CancelScope()
        self._owner = owner
        self._planner = planner
        self._pool = pool
        self._dead_after_s = dead_after_s
        self._silence_max_s = silence_max_s
        self._poked = trio.Event()
        # The reason why the last bind on this path was refused, kept until a bind is tried again.
        self._refusal = ""

    @property
    def path(self) -> Path:
        return self.choice.path

    def works(self, now: float) -> bool:
        """Return whether the plan may rely on this path. A short interruption does not change the answer."""
        return self.broken_since is None or now - self.broken_since < limits.PATH_BROKEN_AFTER_S

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Use other bounds for silence, on the present channel and on later ones."""
        self._dead_after_s, self._silence_max_s = dead_after_s, silence_max_s
        if self.channel is not None:
            self.channel.configure(dead_after_s, silence_max_s)

    def poke(self) -> None:
        """Try again now, because something has changed."""
        self._poked.set()

    def start(self, spawn: Callable[[Callable[..., Any]], None]) -> None:
        """Run the task that keeps this path, until ``scope`` is cancelled."""
        self.running = True
        self.scope = trio.CancelScope()
        spawn(self._run)

    async def _run(self) -> None:
        self._broken()
        try:
            with self.scope:
                await self._keep()
        finally:
            self.running = False
            self.retry_at, self.broken_since = None, None
            self._enter(PathEvent.ENDED, self.choice.why_not)
        # The plan may have chosen the path again since it was ended.
        self._planner.replan()

    async def retire(self, channel: Channel, session: InitiatorSession) -> None:
        """Close a channel that takes no more requests, when those in flight have ended, or after CLOSE_TIMEOUT_S.

        If the session loses all other channels meanwhile, it keeps this one.
        """
        with trio.move_on_after(limits.CLOSE_TIMEOUT_S):
            while channel.outstanding and not channel.why and channel not in session.spread.channels:  # noqa: ASYNC110  # the hot path tells nobody
                await trio.sleep(_RETIRE_POLL_S)
        if self.channel is channel and channel not in session.spread.channels:
            self.scope.cancel()

    async def _keep(self) -> None:
        failed = 0
        while True:
            await self._wait_for_room()
            self.state, self.retry_at = next_state(PATH, self.state, PathEvent.TRY), None
            lived_s = 0.0
            try:
                transport = await self._planner.dial(self.path)
            except OSError as error:
                self._failed(f"cannot connect: {error.strerror or error}")
            else:
                lived_s = await self._serve(transport)
            # A path that worked for long is tried again at once. A path that connects and is lost soon has to wait
            # longer each time, like a path that cannot connect.
            established = lived_s >= limits.PATH_STEADY_AFTER_S
            failed = 0 if established else failed + 1
            delay_s = min(limits.RECONNECT_DELAY_MIN_S * 2 ** min(failed, 16), limits.RECONNECT_DELAY_MAX_S)
            # All nodes of a cluster lose an exporter at the same time, and must not reconnect at the same time.
            delay_s *= 0.0 if established else random.uniform(0.5, 1.0)
            self.retry_at = trio.current_time() + delay_s
            self._poked = trio.Event()
            with trio.move_on_after(delay_s) as waiting:
                await self._poked.wait()
            if not waiting.cancelled_caught:
                failed = 0

    async def _wait_for_room(self) -> None:
        """If the exporter takes no further channel of this session, wait for the next session, or for BIND_AGAIN_S.

        If the session's key proves the refusal, all paths wait. Otherwise, only the path that received it waits.
        """
        session, refusal = self._owner.session, self._refusal
        self._refusal = ""
        if session is None or not (session.no_more or refusal):
            return
        self._enter(PathEvent.WAITS, session.no_more or refusal)
        self.retry_at = None
        with trio.move_on_after(limits.BIND_AGAIN_S) as waiting:
            while self._owner.session is session:
                await self._owner.session_change()
        if waiting.cancelled_caught:
            session.no_more = session.one_only

    async def _serve(self, transport: Transport) -> float:
        """Run one connection from its login to its end. Return how long it was a channel of the session."""
        channel = Channel(transport, self._pool, dead_after_s=self._dead_after_s, silence_max_s=self._silence_max_s)
        refused, since_s = "", inf
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_channel, channel, nursery.cancel_scope)
                refused = await self._join(channel)
                if not refused and not channel.why:
                    self.channel = channel
                    self._enter(PathEvent.BOUND, "")
                    self.broken_since, since_s = None, trio.current_time()
                    self._planner.replan()
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self.channel = None
            self.ended.add(channel)
            self._owner.closed(channel)
        if not refused:
            self.losses += since_s < inf
            self._failed(channel.why)
        return max(0.0, trio.current_time() - since_s)

    async def _join(self, channel: Channel) -> str:
        """Make the connection a channel of the session. Return why the exporter takes none, or "".

        If the attempt fails for another reason, that is in ``channel.why``.
        """
        try:
            await self._owner.join(channel, self.path)
        except BindRefused as error:
            # The exporter answers, so the path works.
            self.broken_since = None
            self._refusal = str(error)
            return self._refusal
        except trio.TooSlowError:
            channel.fail(f"the login took longer than {limits.HANDSHAKE_TIMEOUT_S:g} s")
        except _SETUP_ERRORS as error:
            channel.fail(str(error))
        except Exception as error:
            # A bug that one exporter triggers must not take away the disks of the others.
            logger.exception("exporter %s: given up after an internal error", self._owner.node)
            channel.fail(f"internal error: {error!r}")
        return ""

    async def _run_channel(self, channel: Channel, scope: trio.CancelScope) -> None:
        await channel.run()
        scope.cancel()

    def _failed(self, why: str) -> None:
        self.failures += 1
        self._enter(PathEvent.FAILED, why)
        if self.broken_since is None:
            self._broken()
        self._owner.failed(why)

    def _enter(self, event: PathEvent, why: str) -> None:
        self.state, self.why = next_state(PATH, self.state, event), why

    def _broken(self) -> None:
        """Note that the path does not work. If that lasts, other paths are used, even while an attempt hangs."""
        self.broken_since = trio.current_time()
        self._planner.replan_after(limits.PATH_BROKEN_AFTER_S)
