"""The session to one exporter: made, kept, and made again when it is lost.

    connecting   nothing was tried yet
    connected    logged in, shares connected, its disks are known
    down         lost or refused; ``why`` says the reason, ``retry_at`` the next attempt

A lost session is tried again at once, then after delays that double up to
``limits.RECONNECT_DELAY_MAX_S``. The new login names the previous session, and the exporter
ends that one's in-flight I/O before it answers (MS-SMB2 3.3.5.5.3): whatever was unanswered
may then go again without an old write landing over a newer one.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import AuthenticationError, ChannelLost, KeyFileError, RemoteProtocolError, StatusError
from meshfs.initiator.channel import Channel
from meshfs.initiator.files import OpenFile, open_file, query_disks, wait_for_change
from meshfs.initiator.login import Policy, Tree, connect_tree, log_in, validate_negotiation
from meshfs.model import DiskInfo, IoClass
from meshfs.smb.auth import Initiator as Login
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

#: Connects to one address of the exporter; OSError when it cannot.
Dialer = Callable[[], Awaitable[Transport]]

_SETUP_ERRORS = (AuthenticationError, RemoteProtocolError, StatusError, ChannelLost, KeyFileError)


@dataclass(eq=False, slots=True)
class Waiting:
    """A call that waits for the exporter to come back."""

    disk: str
    op: str
    since_s: float
    deadline_s: float


class ExporterSession:
    """All connections to one exporter; one today, a list for those to come."""

    def __init__(
        self,
        node: str,
        dialers: Sequence[Dialer],
        login: Callable[[], Login],
        *,
        policy: Policy,
        guid: bytes,
        pool: BufferPool,
        on_change: Callable[[], None],
    ) -> None:
        self.node = node
        self.state = "connecting"
        self.why = "not tried yet"
        #: What it announced last; kept while it is away.
        self.disks: tuple[DiskInfo, ...] = ()
        self.channels: list[Channel] = []
        self.trees: dict[IoClass, Tree] = {}
        self.waiting: set[Waiting] = set()
        #: Called when a channel came or went.
        self.listeners: list[Callable[[], None]] = []
        #: When the state was entered; trio's clock.
        self.since_s = 0.0
        self.retry_at: float | None = None
        self.failures = 0
        # Of channels that ended.
        self._sent_bytes = 0
        self._received_bytes = 0
        self._dialers = dialers
        self._login = login
        self._policy = policy
        self._guid = guid
        self._pool = pool
        self._on_change = on_change
        self._previous_session_id = 0
        self._changed = trio.Event()

    def pick(self) -> Channel | None:
        """The channel for the next request."""
        return next((channel for channel in self.channels if not channel.why), None)

    async def run(self) -> None:
        """Connect, serve, connect again; until cancelled."""
        self.since_s = trio.current_time()
        attempt = 0
        while True:
            self.retry_at = None
            try:
                transport = await self._dialers[attempt % len(self._dialers)]()
            except OSError as error:
                established = False
                self._down(f"cannot connect: {error.strerror or error}")
            else:
                established = await self._serve(transport)
            if established:
                # The address that worked is tried first, and at once.
                delay_s, failed = 0.0, 0
            else:
                attempt, failed = attempt + 1, failed + 1 if attempt else 1
                delay_s = min(limits.RECONNECT_DELAY_MIN_S * 2 ** min(failed, 16), limits.RECONNECT_DELAY_MAX_S)
                # A cluster that lost one exporter does not come back to it in step.
                delay_s *= random.uniform(0.5, 1.0)
            self.retry_at = trio.current_time() + delay_s
            await trio.sleep(delay_s)

    async def _serve(self, transport: Transport) -> bool:
        """One connection from its login to its end; whether it came to be of use."""
        channel = Channel(transport, self._pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_channel, channel, nursery.cancel_scope)
            try:
                with trio.fail_after(limits.HANDSHAKE_TIMEOUT_S):
                    root, disks = await self._establish(channel)
                self._connected(channel, disks)
                nursery.start_soon(self._watch_changes, channel, root)
                await self._follow_disks(channel, root)
            except trio.TooSlowError:
                channel.fail(f"the login took longer than {limits.HANDSHAKE_TIMEOUT_S:g} s")
            except _SETUP_ERRORS as error:
                channel.fail(str(error))
            except Exception as error:
                # A fault of ours with one exporter must not take the others' disks away.
                logger.exception("exporter %s: given up after an internal error", self.node)
                channel.fail(f"internal error: {error!r}")
        established = channel in self.channels
        if established:
            self.channels.remove(channel)
        self._sent_bytes += channel.sent_bytes
        self._received_bytes += channel.received_bytes
        self._down(channel.why)
        return established

    async def _run_channel(self, channel: Channel, scope: trio.CancelScope) -> None:
        await channel.run()
        scope.cancel()

    async def _establish(self, channel: Channel) -> tuple[OpenFile, tuple[DiskInfo, ...]]:
        await log_in(channel, self._policy, self._guid, self._login(), self._previous_session_id)
        self._previous_session_id = channel.session_id
        for io_class in IoClass:
            self.trees[io_class] = await connect_tree(channel, self.node, io_class.share)
        app = self.trees[IoClass.APP]
        await validate_negotiation(channel, self._policy, self._guid, app)
        root = await open_file(channel, app, "", directory=True)
        return root, await query_disks(channel, root)

    async def _watch_changes(self, channel: Channel, root: OpenFile) -> None:
        try:
            while True:
                await wait_for_change(channel, root)
                self._changed.set()
        except StatusError as error:
            logger.info("exporter %s does not tell of changed disks (%s); asked every %g s", self.node, error,
                        limits.DISKS_REFRESH_S)  # fmt: skip
        except ChannelLost:
            # The channel's own task tells why.
            return

    async def _follow_disks(self, channel: Channel, root: OpenFile) -> None:
        while True:
            with trio.move_on_after(limits.DISKS_REFRESH_S):
                await self._changed.wait()
            self._changed = trio.Event()
            disks = await query_disks(channel, root)
            if disks != self.disks:
                self.disks = disks
                self._on_change()

    # --- state -------------------------------------------------------------------------

    def _connected(self, channel: Channel, disks: tuple[DiskInfo, ...]) -> None:
        self.channels.append(channel)
        self.disks = disks
        # Whatever changed between the list and the first CHANGE_NOTIFY.
        self._changed = trio.Event()
        self._changed.set()
        self._enter("connected", "")
        logger.info("exporter %s connected at %s, %d disks", self.node, channel.transport.remote, len(disks))

    def _down(self, why: str) -> None:
        self.failures += 1
        if (self.state, self.why) != ("down", why):
            logger.warning("exporter %s is down: %s", self.node, why)
        self._enter("down", why)

    def _enter(self, state: str, why: str) -> None:
        if state != self.state:
            self.since_s = trio.current_time()
        self.state, self.why = state, why
        for listener in self.listeners:
            listener()
        self._on_change()

    def status(self, now: float) -> dict[str, Any]:
        """For `meshctl paths`; a channel that is closed is not listed."""
        retry_at = self.retry_at
        waiting = sorted(self.waiting, key=lambda call: call.since_s)
        return {
            "node": self.node,
            "state": self.state,
            "why": self.why,
            "since_s": round(now - self.since_s, 3),
            "retry_in_s": None if retry_at is None or self.state != "down" else round(max(0.0, retry_at - now), 3),
            "failures": self.failures,
            "sent_bytes": self._sent_bytes + sum(channel.sent_bytes for channel in self.channels),
            "received_bytes": self._received_bytes + sum(channel.received_bytes for channel in self.channels),
            "channels": [self._channel_status(channel) for channel in self.channels],
            "waiting": [
                {
                    "disk": call.disk,
                    "op": call.op,
                    "for_s": round(now - call.since_s, 3),
                    "left_s": round(max(0.0, call.deadline_s - now), 3),
                }
                for call in waiting
            ],
        }

    def _channel_status(self, channel: Channel) -> dict[str, Any]:
        settled, transport = channel.connection.negotiated, channel.transport
        # What arrives sealed is not signed beside it, and the reverse.
        signing = settled.signing_algorithm.text if channel.signed else "none"
        cipher = settled.cipher.text if channel.sealed else "none"
        return {
            "transport": transport.kind,
            "local": transport.local,
            "remote": transport.remote,
            "state": "closed" if channel.closed else "connected",
            "dialect": settled.dialect.text if settled.dialect else "",
            "signing": signing,
            "cipher": cipher,
            "outstanding": channel.outstanding,
            "failures": self.failures,
            "sent_bytes": channel.sent_bytes,
            "received_bytes": channel.received_bytes,
        }


__all__ = ["Dialer", "ExporterSession", "Waiting"]
