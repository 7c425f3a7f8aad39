"""Keeps one SMB session, with the channels bound to it and the state that they share.

    add       a channel that logged in or was bound takes requests from now on
    retire    a channel takes no more requests; those in flight on it are still answered
    lost      a channel ended, and its unanswered requests may be sent again on another channel. So every request from
              then on carries the next ChannelSequence. By it, the exporter recognises older requests that arrive late,
              and refuses those that change something (MS-SMB2 3.2.4.1.5, 3.3.5.2.10)

A session ends with its last channel. ``why`` then says how that channel ended.
"""

import functools
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Self, TypeVar

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.load import RATE_UNKNOWN_BYTES_S
from meshfs.initiator.session.balance import Spread
from meshfs.initiator.session.commands import RemoteOpen, close_file
from meshfs.initiator.session.credentials import Credentials
from meshfs.initiator.session.trees import TreeConnect
from meshfs.model import IoClass
from meshfs.smb.constants import NtStatus
from meshfs.smb.states import SmbEvent
from meshfs.smb.status import status_text

logger = logging.getLogger(__name__)

_SEQUENCE_MASK: Final = 0xFFFF

T = TypeVar("T")


class InitiatorSession:
    """Keeps the channels of one session. It is made after the login on the first channel, which `add` takes next."""

    def __init__(
        self,
        credentials: Credentials,
        trees: dict[IoClass, TreeConnect],
        root: RemoteOpen,
        on_lost: Callable[[Self, Channel], None],
    ) -> None:
        """``root`` is an open of the share's root. ``on_lost`` is called when a channel has ended."""
        self.credentials = credentials
        #: The session's state. Its events are the login, the first request on a channel, and how the session ends.
        self.machine = credentials.machine
        self.trees = trees
        self.root = root
        #: An open of the root of the share of the enclosures. It is None until the share is connected in the
        #: background, and stays None if the exporter has no such share.
        self.enclosures: RemoteOpen | None = None
        #: All channels that have not ended, including retired ones.
        self.channels: list[Channel] = []
        self.spread: Spread[Channel] = Spread()
        #: The ChannelSequence of the next request.
        self.sequence = 0
        #: The reason why the session ended. It is empty while the session lasts.
        self.why = ""
        #: The latest sign of life of the exporter on the channels that have ended.
        self.gone_s = -inf
        #: The reason why no bind is tried until BIND_AGAIN_S have passed. It is empty while binds are tried.
        self.no_more = ""
        #: The reason why the session keeps one channel until it ends. It is empty while the session may have several.
        self.one_only = ""
        #: The scope of everything that is done for the session. It is cancelled when the session ends.
        self.scope = trio.CancelScope()
        self.pick = self.spread.pick
        self.split = self.spread.split
        self._on_lost = on_lost
        opener = credentials.security.opener
        if opener is not None and opener.seen is not None:
            opener.seen.on_full = self._nonces_full
        self._rates: dict[Channel, float] = {}

    def add(self, channel: Channel, rate_bytes_s: float = RATE_UNKNOWN_BYTES_S) -> None:
        """Let a channel take requests from now on. Its interfaces promise ``rate_bytes_s``."""
        self.machine.happened(SmbEvent.REQUEST)
        channel.join(
            self.sequence,
            siblings=lambda: (other.liveness for other in self.channels if other is not channel),
            ended=lambda: self._lost(channel),
        )
        self._rates[channel] = rate_bytes_s
        self.channels.append(channel)
        self.spread.add(channel)
        self._measure()

    def retire(self, channel: Channel) -> None:
        """Give the channel no more requests."""
        self.spread.remove(channel)
        self._measure()

    def any_channel(self) -> Channel | None:
        """Return a channel for a request that belongs to no disk, or None after the session's end."""
        return self.pick(0, trio.current_time())

    async def ask(self, function: Callable[[Channel], Awaitable[T]]) -> T:
        """Call ``function`` on a channel, and again on another one if that channel is lost.

        The function is also called again if the exporter refused its request with FILE_NOT_AVAILABLE, because a request
        with a later ChannelSequence had overtaken it. Raises ChannelLost at the session's end.
        """
        while True:
            channel = self.any_channel()
            if channel is None:
                raise ChannelLost(self.why)
            try:
                return await function(channel)
            except ChannelLost:
                if self.why:
                    raise
            except StatusError as error:
                if error.status != NtStatus.FILE_NOT_AVAILABLE:
                    raise
                await trio.sleep(limits.RETRY_DELAY_MAX_S)

    async def close_late(self, file: RemoteOpen, deadline: float) -> None:
        """Close an open whose caller gave up before it was made. It would otherwise last as long as the session.

        If the exporter has not answered by the deadline, the open lasts as long as the session after all.
        """
        try:
            await self.ask(lambda channel: close_file(channel, file, deadline))
        except (ChannelLost, StatusError):
            return
        except TimeoutError:
            logger.warning("the exporter does not answer the close of an open that came late; it may stay open there")

    async def close_surely(self, file: RemoteOpen, patience_s: float) -> None:
        """Send CLOSE until it is answered, because until then old I/O of the open may be under way.

        A single reply may be lost on the way, while others arrive. So another CLOSE is sent after ``patience_s``. An
        exporter of meshfs answers the second CLOSE when the I/O of the open has ended. Other exporters may answer it at
        once with FILE_CLOSED, so they get only one. Raises ChannelLost at the session's end, and StatusError.
        """
        again = self.credentials.settled.unique_nonces
        while True:
            deadline = trio.current_time() + patience_s if again else inf
            try:
                await self.ask(functools.partial(close_file, file=file, deadline=deadline))
            except TimeoutError:
                # Every CLOSE without an answer holds a credit. The disk may hang for days, so CLOSEs become rarer.
                patience_s *= 2
            else:
                return

    def ended_by(self, status: int) -> None:
        """End the session after an answer whose ``status`` says that the exporter no longer serves the session.

        An expired session could be re-authenticated (MS-SMB2 3.2.5.1.6). A new login does as well, and the initiator
        needs it anyway for a session that the exporter has ended.
        """
        if self.why:
            # The session was lost after the answer came, and before the task that waited for it ran.
            return
        if status == NtStatus.NETWORK_SESSION_EXPIRED:
            self.machine.happened(SmbEvent.EXPIRE)
        self.fail(f"the exporter ended our session ({status_text(status)})")

    def fail(self, why: str) -> None:
        """End the session with all its channels."""
        for channel in list(self.channels):
            channel.fail(why)

    def _lost(self: Self, channel: Channel) -> None:
        self.channels.remove(channel)
        self.spread.remove(channel)
        del self._rates[channel]
        self.gone_s = max(self.gone_s, channel.gone_s)
        if self.channels:
            self.sequence = self.sequence + 1 & _SEQUENCE_MASK
            for other in self.channels:
                other.sequence = self.sequence
            if not self.spread.channels:
                # If only retired channels are left, they take requests again.
                for other in self.channels:
                    self.spread.add(other)
            self._measure()
        else:
            self.why = channel.why
            self.machine.happened(SmbEvent.LOST)
            self.scope.cancel()
        self._on_lost(self, channel)

    def _nonces_full(self) -> None:
        """Keep only one channel, on which message ids refuse a repeat, because no more nonces can be remembered."""
        self.no_more = self.one_only = "the exporter's nonces do not count up, so the session has one channel"
        for left in (self.spread.channels or self.channels)[:1]:
            logger.warning("%s: %s", left.transport.remote, self.one_only)
            for channel in list(self.channels):
                if channel is not left:
                    channel.fail(self.one_only)

    def _measure(self) -> None:
        """Measure the loads only while there is a choice between channels."""
        several = len(self.spread.channels) > 1
        for channel in self.channels:
            channel.measure(several, self._rates[channel])
