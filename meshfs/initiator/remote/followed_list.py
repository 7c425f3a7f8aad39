"""Fetch a list of an exporter again whenever it may have changed, until the session ends.

A CHANGE_NOTIFY on the share's root is answered when something about the list changed, and then the list is fetched. The
list is also fetched every DISKS_REFRESH_S, because an exporter need not support CHANGE_NOTIFY.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.commands import RemoteOpen, wait_for_change
from meshfs.initiator.session.session import InitiatorSession

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Lister(Protocol):
    """Stands for the exporter whose list is fetched."""

    node: str
    io_timeout_s: float


class FollowedList(Generic[T]):
    """Follows one list. ``what`` names its entries, as "disks".

    ``query`` asks for the list, on a channel and the root of its share, until a deadline. ``take`` gets each answer.
    ``pause_s`` returns the pause between two changes. Taking over a long list stops all I/O of the mount for a while,
    so the pause grows with the list.
    """

    def __init__(
        self,
        owner: Lister,
        what: str,
        *,
        query: Callable[[Channel, RemoteOpen, float], Awaitable[T]],
        take: Callable[[T], None],
        pause_s: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._what = what
        self._query = query
        self._take = take
        self._pause_s = pause_s
        self._changed = trio.Event()

    def ask(self) -> None:
        """Fetch the list at once."""
        self._changed.set()

    async def watch(self, session: InitiatorSession, root: RemoteOpen) -> None:
        """Let `fetch` ask whenever the exporter reports a change. Raises ChannelLost at the session's end."""

        async def wait(channel: Channel) -> None:
            # Something has changed, or the last request was lost with its channel, and perhaps an answer as well.
            self._changed.set()
            await wait_for_change(channel, root)

        try:
            while True:
                await session.ask(wait)
                # The exporter keeps changes that happen meanwhile for the next request.
                await trio.sleep(self._pause_s())
        except StatusError as error:
            logger.info(
                "exporter %s does not report changed %s (%s); its list is fetched every %g s",
                self._owner.node,
                self._what,
                error,
                limits.DISKS_REFRESH_S,
            )

    async def fetch(self, session: InitiatorSession, root: RemoteOpen) -> None:
        """Fetch the list now and whenever it may have changed. Raises ChannelLost, StatusError, RemoteProtocolError."""
        self._changed.set()
        while True:
            with trio.move_on_after(limits.DISKS_REFRESH_S):
                await self._changed.wait()
            self._changed = trio.Event()
            try:
                answer = await session.ask(
                    lambda channel: self._query(channel, root, trio.current_time() + self._owner.io_timeout_s)
                )
            except TimeoutError:
                # A single reply may be lost on the way, while others arrive.
                self._changed.set()
                continue
            self._take(answer)
