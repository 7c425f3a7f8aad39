"""Ask an exporter for its enclosures, again and again until the session ends.

The share of the enclosures is connected in the background after the login. Neither the login nor the disks wait for the
share, and nothing that fails here ends the session. An exporter without such a share, of an older version, is normal.
"""

import logging
from typing import Protocol

import trio

from meshfs import limits
from meshfs.enclosure_info import SHARE_ENCLOSURES, EnclosureInfo
from meshfs.errors import AuthenticationError, ChannelLost, MeshfsError, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.followed_list import FollowedList
from meshfs.initiator.session.commands import RemoteOpen, open_file, query_enclosures
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import connect_tree
from meshfs.smb.constants import NtStatus

logger = logging.getLogger(__name__)

#: Errors that say something about the share, and nothing about the session.
_REFUSED = (StatusError, RemoteProtocolError, AuthenticationError, TimeoutError)


class ExporterWithEnclosures(Protocol):
    """Stands for the exporter that is asked."""

    node: str
    enclosures: tuple[EnclosureInfo, ...]
    io_timeout_s: float

    def take_enclosures(self, enclosures: tuple[EnclosureInfo, ...]) -> None:
        """Take the list of enclosures that the exporter advertises now."""

    def channels_changed(self) -> None:
        """Wake the tasks that wait for a change of the session."""


class EnclosureNews:
    """Asks one exporter for its enclosures."""

    def __init__(self, owner: ExporterWithEnclosures) -> None:
        self._owner = owner
        self._refusal = ""
        self._list = FollowedList(
            owner, "enclosures", query=query_enclosures, take=owner.take_enclosures, pause_s=self._pause_s
        )

    def _pause_s(self) -> float:
        slots = sum(len(enclosure.slots) for enclosure in self._owner.enclosures)
        return max(limits.CHANGES_PAUSE_S, slots * limits.CHANGES_PAUSE_PER_SLOT_S)

    def ask(self) -> None:
        """Fetch the list at once, or connect the session to the share again if the share was disconnected."""
        self._list.ask()

    async def follow(self, session: InitiatorSession) -> None:
        """Connect the session to the share, and ask in it until the session ends. Raises nothing."""
        while True:
            error = await self._follow_share(session)
            session.enclosures = None
            if isinstance(error, ChannelLost):
                # The session has ended, and its last channel has logged why.
                return
            if str(error) != self._refusal:
                self._refusal = str(error)
                logger.info("exporter %s does not list its enclosures: %s", self._owner.node, error)
            if isinstance(error, StatusError) and error.status == NtStatus.BAD_NETWORK_NAME:
                self._owner.take_enclosures(())
                return
            disconnected = isinstance(error, StatusError) and error.status == NtStatus.NETWORK_NAME_DELETED
            await trio.sleep(limits.REOPEN_DELAY_S if disconnected else limits.DISKS_REFRESH_S)

    async def _follow_share(self, session: InitiatorSession) -> MeshfsError | TimeoutError:
        """Follow the list until that fails, and return why it failed."""
        try:
            session.enclosures = root = await session.ask(self._open_root)
        except (ChannelLost, *_REFUSED) as error:
            return error
        self._owner.channels_changed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, session, root)
            try:
                await self._list.fetch(session, root)
            except (ChannelLost, *_REFUSED) as error:
                failure = error
            nursery.cancel_scope.cancel()
        return failure

    async def _open_root(self, channel: Channel) -> RemoteOpen:
        deadline = trio.current_time() + self._owner.io_timeout_s
        tree = await connect_tree(channel, self._owner.node, SHARE_ENCLOSURES, deadline)
        return await open_file(channel, tree, "", directory=True, deadline=deadline)

    async def _watch(self, session: InitiatorSession, root: RemoteOpen) -> None:
        try:
            await self._list.watch(session, root)
        except (ChannelLost, *_REFUSED):
            # The other task goes on to fetch the list from time to time, and finds out if the share is lost.
            return
