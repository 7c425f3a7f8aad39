"""One path to an exporter, kept: connected, made a channel of the session, and again when lost.

    idle        not selected (``why``), or the exporter takes no more channels
    connecting  being tried
    connected   its channel is bound
    down        the last attempt failed, or the channel was lost; tried again at ``retry_at``

A path that worked for a while is tried again at once, then after delays that double up to
`limits.RECONNECT_DELAY_MAX_S`; at once as well when an interface changed (`poke`).
"""

import logging
import random
from math import inf
from typing import Protocol

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import AuthenticationError, ChannelLost, KeyFileError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.plan import Choice, Path
from meshfs.initiator.remote.states import PATH, PathEvent, PathState, next_state
from meshfs.initiator.session.bind import BindRefused
from meshfs.initiator.session.session import Session
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

_SETUP_ERRORS = (AuthenticationError, RemoteProtocolError, StatusError, ChannelLost, KeyFileError)
_RETIRE_POLL_S = 0.05


class Owner(Protocol):
    """Whose path it is."""

    node: str
    session: Session | None

    async def dial(self, path: Path) -> Transport: ...

    async def join(self, channel: Channel, path: Path) -> None:
        """Log in on it, or bind it to the session there is. BindRefused, or an error of the setup."""

    def failed(self, why: str) -> None:
        """An attempt to connect or to log in failed, or a channel was lost."""

    def closed(self, channel: Channel) -> None:
        """Its counts are final."""

    def replan(self) -> None:
        """Look anew at which paths there should be."""

    def replan_later(self, delay_s: float) -> None: ...

    async def session_change(self) -> None:
        """Return when the session, or a channel of it, came or went."""


class PathKeeper:
    """``start`` it, and cancel its ``scope``."""

    def __init__(
        self, owner: Owner, choice: Choice, pool: BufferPool, dead_after_s: float, silence_max_s: float
    ) -> None:
        self.choice = choice
        self.state = PathState.IDLE
        self.why = choice.why_not
        self.channel: Channel | None = None
        #: Attempts that failed, and channels lost.
        self.failures = 0
        #: Channels that were bound, and lost.
        self.losses = 0
        #: Channels that ended because a message was forged, or changed on its way.
        self.bad_signatures = 0
        #: Of channels that ended.
        self.sent_bytes_before = 0
        self.received_bytes_before = 0
        self.retry_at: float | None = None
        #: Since when it is tried, and no attempt worked.
        self.broken_since: float | None = None
        self.running = False
        self.scope = trio.CancelScope()
        self._owner = owner
        self._pool = pool
        self._dead_after_s = dead_after_s
        self._silence_max_s = silence_max_s
        self._poked = trio.Event()
        # Why the last bind on this path was refused, until it is tried again.
        self._refusal = ""

    @property
    def path(self) -> Path:
        return self.choice.path

    def works(self, now: float) -> bool:
        """Whether to count on it."""
        return self.broken_since is None or now - self.broken_since < limits.PATH_BROKEN_AFTER_S

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Give a silent exporter another time, on this channel and the next ones."""
        self._dead_after_s, self._silence_max_s = dead_after_s, silence_max_s
        if self.channel is not None:
            self.channel.configure(dead_after_s, silence_max_s)

    def poke(self) -> None:
        """Something changed: try again now."""
        self._poked.set()

    def start(self, nursery: trio.Nursery) -> None:
        """Run it; ``scope`` ends it."""
        self.running = True
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        self._broken()
        try:
            with self.scope:
                await self._keep()
        finally:
            self.running = False
            self.retry_at, self.broken_since = None, None
            self._enter(PathEvent.ENDED, self.choice.why_not)
        # It was dropped, and may have been chosen again meanwhile.
        self._owner.replan()

    async def retire(self, channel: Channel, session: Session) -> None:
        """Its channel takes no more: let what is in flight on it end, bounded, and close it.

        Unless the session lost all others meanwhile, and goes on with this one.
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
                transport = await self._owner.dial(self.path)
            except OSError as error:
                self._failed(f"cannot connect: {error.strerror or error}")
            else:
                lived_s = await self._serve(transport)
            # A path that worked for long is tried again at once. One that connects and is lost soon after has to wait
            # longer each time, as one that cannot connect does.
            established = lived_s >= limits.PATH_STEADY_AFTER_S
            failed = 0 if established else failed + 1
            delay_s = min(limits.RECONNECT_DELAY_MIN_S * 2 ** min(failed, 16), limits.RECONNECT_DELAY_MAX_S)
            # A cluster that lost one exporter does not come back to it in step.
            delay_s *= 0.0 if established else random.uniform(0.5, 1.0)
            self.retry_at = trio.current_time() + delay_s
            self._poked = trio.Event()
            with trio.move_on_after(delay_s) as waiting:
                await self._poked.wait()
            if not waiting.cancelled_caught:
                failed = 0

    async def _wait_for_room(self) -> None:
        """An exporter that takes no further channel is asked again with the next session, or much later.

        Where it proved that it said so, all paths wait, else only this one.
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
        """One connection from its login to its end; how long it was of use."""
        channel = Channel(
            transport, self._pool, dead_after_s=self._dead_after_s, silence_max_s=self._silence_max_s
        )  # fmt: skip
        refused, since_s = "", inf
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_channel, channel, nursery.cancel_scope)
                refused = await self._join(channel)
                if not refused and not channel.why:
                    self.channel = channel
                    self._enter(PathEvent.BOUND, "")
                    self.broken_since, since_s = None, trio.current_time()
                    self._owner.replan()
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self.channel = None
            self.sent_bytes_before += channel.sent_bytes
            self.received_bytes_before += channel.received_bytes
            self.bad_signatures += channel.bad_signatures
            self._owner.closed(channel)
        if not refused:
            self.losses += since_s < inf
            self._failed(channel.why)
        return max(0.0, trio.current_time() - since_s)

    async def _join(self, channel: Channel) -> str:
        """Make it a channel of the session; why the exporter wants none, else the channel's ``why`` tells."""
        try:
            await self._owner.join(channel, self.path)
        except BindRefused as error:
            # It is there, and answers.
            self.broken_since = None
            self._refusal = str(error)
            return self._refusal
        except trio.TooSlowError:
            channel.fail(f"the login took longer than {limits.HANDSHAKE_TIMEOUT_S:g} s")
        except _SETUP_ERRORS as error:
            channel.fail(str(error))
        except Exception as error:
            # A fault of ours with one exporter must not take the others' disks away.
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
        """From now on; others are to step in if it stays so, also while an attempt still hangs."""
        self.broken_since = trio.current_time()
        self._owner.replan_later(limits.PATH_BROKEN_AFTER_S)
