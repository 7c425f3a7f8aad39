"""Let a connected channel join the session with an exporter: the first one logs in, the others are bound to it.

One channel logs in at a time. A path may lose everything that is sent on it. So binds do not wait for each other, and a
login without any answer ends as soon as another channel waits to log in.

A login names the session before it (MS-SMB2 3.3.5.5.3), and the exporter answers the next open of a disk only when
that session's I/O at the disk has ended. So everything that was unanswered when the last channel was lost may be sent
again, and no old write lands over a newer one.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.plan import Path
from meshfs.initiator.session.bind import NewLoginNeeded, NoChannelOfThisSession, SessionInDoubt, bind
from meshfs.initiator.session.commands import open_file, query_disks
from meshfs.initiator.session.login import log_in
from meshfs.initiator.session.negotiation import Policy, validate_negotiation
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import connect_tree
from meshfs.model import DiskInfo, IoClass
from meshfs.smb.auth import Login

logger = logging.getLogger(__name__)


class ExporterToJoin(Protocol):
    """Stands for the exporter whose session the channels are to join."""

    node: str
    session: InitiatorSession | None

    def spawn(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a task that ends with the exporter."""

    def connected(self, session: InitiatorSession, disks: tuple[DiskInfo, ...]) -> None:
        """Use a new session, whose login succeeded and which has its first channel."""

    def lost(self, session: InitiatorSession, channel: Channel) -> None:
        """Take the end of a channel of a session, perhaps the last one."""

    def channels_changed(self) -> None:
        """Wake the tasks that wait for a change, because one more channel takes requests."""


class Joining:
    """Logs channels in to one exporter, or binds them to the present session."""

    def __init__(self, owner: ExporterToJoin, policy: Policy, guid: bytes, new_login: Callable[[], Login]) -> None:
        self._owner = owner
        self._policy = policy
        self._guid = guid
        self._new_login = new_login
        self._previous_session_id = 0
        self._turn = trio.Lock()

    async def join(self, channel: Channel, path: Path, *, more_to_come: bool) -> None:
        """Log in on the channel, or bind it to the present session. ``more_to_come`` allows a login more channels.

        Raises BindRefused, TooSlowError, and the errors of `log_in` and `bind`.
        """
        owner = self._owner
        async with self._turn:
            session = owner.session
            if session is None:
                with self._yielding(channel), trio.fail_after(limits.HANDSHAKE_TIMEOUT_S):
                    session, disks = await self._log_in(channel, more_to_come)
                _add(session, channel, path)
                owner.connected(session, disks)
                return
        with trio.fail_after(limits.HANDSHAKE_TIMEOUT_S):
            await self._bind(channel, session)
        _add(session, channel, path)
        logger.info(
            "exporter %s: one more channel, %s to %s", owner.node, channel.transport.local, channel.transport.remote
        )
        owner.channels_changed()

    @contextmanager
    def _yielding(self, channel: Channel) -> Iterator[None]:
        """Fail the login's channel if nothing arrives on it and others wait to try their paths."""
        start_s, scope = trio.current_time(), trio.CancelScope()

        async def watch() -> None:
            with scope:
                while True:
                    await trio.sleep(limits.CHANNEL_TICK_S)
                    silent_s = trio.current_time() - max(start_s, channel.heard_s)
                    if silent_s >= limits.LOGIN_BESIDE_OTHERS_S and self._turn.statistics().tasks_waiting:
                        channel.fail(f"no answer for {silent_s:.1f} s of the login, and other paths wait to log in")

        self._owner.spawn(watch)
        try:
            yield
        finally:
            scope.cancel()

    async def _log_in(self, channel: Channel, to_be_bound: bool) -> tuple[InitiatorSession, tuple[DiskInfo, ...]]:
        guid, policy = self._guid, self._policy
        credentials = await log_in(
            channel, policy, guid, self._new_login(), self._previous_session_id, to_be_bound=to_be_bound
        )
        self._previous_session_id = credentials.session_id
        trees = {io_class: await connect_tree(channel, self._owner.node, io_class.share) for io_class in IoClass}
        await validate_negotiation(channel, policy, guid, trees[IoClass.APP])
        root = await open_file(channel, trees[IoClass.APP], "", directory=True)
        return InitiatorSession(credentials, trees, root, self._owner.lost), await query_disks(channel, root)

    async def _bind(self, channel: Channel, session: InitiatorSession) -> None:
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
            # If the exporter was restarted, the session's channels are silent, and are given up earlier by this.
            for other in session.channels:
                other.liveness.exporter_heard(trio.current_time())
            raise
        await validate_negotiation(channel, self._policy, self._guid, session.trees[IoClass.APP])
        if session.why:
            raise ChannelLost(session.why)
        if session.one_only:
            raise NoChannelOfThisSession(session.one_only)


def _add(session: InitiatorSession, channel: Channel, path: Path) -> None:
    """Let the channel take requests. Raises ChannelLost if it has ended meanwhile."""
    if channel.why:
        raise ChannelLost(channel.why)
    speed = path.speed_bits_s or limits.LINK_SPEED_ASSUMED_BITS_S
    session.add(channel, speed / 8)
