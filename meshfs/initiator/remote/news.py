"""Ask an exporter for its disks and its addresses, again and again until the session ends.

A CHANGE_NOTIFY on the share's root is answered when something about the disks changed, and then their list is
fetched. The list is also fetched every DISKS_REFRESH_S, because an exporter need not support CHANGE_NOTIFY.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.commands import query_disks, query_interfaces, wait_for_change
from meshfs.initiator.session.session import InitiatorSession
from meshfs.model import DiskInfo, IoClass

logger = logging.getLogger(__name__)


class ExporterWithDisks(Protocol):
    """Stands for the exporter that is asked."""

    node: str
    disks: tuple[DiskInfo, ...]
    io_timeout_s: float

    def take_disks(self, disks: tuple[DiskInfo, ...]) -> None:
        """Take the list of disks that the exporter advertises now."""


class Addresses(Protocol):
    """Uses the exporter's addresses."""

    @property
    def learns_addresses(self) -> bool:
        """Return whether the exporter is asked for its addresses."""

    def take_remotes(self, advertised: tuple[Remote, ...]) -> None:
        """Take the addresses that the exporter advertises now."""


class News:
    """Asks one exporter for its disks and its addresses."""

    def __init__(self, owner: ExporterWithDisks, addresses: Addresses) -> None:
        self._owner = owner
        self._addresses = addresses
        self._disks_changed = trio.Event()
        self._ask_addresses = trio.Event()

    def ask_disks(self) -> None:
        """Fetch the list of disks at once."""
        self._disks_changed.set()

    def ask_addresses(self) -> None:
        """Fetch the exporter's addresses at once."""
        self._ask_addresses.set()

    async def follow(self, session: InitiatorSession) -> None:
        """Ask in the session until it ends. Begin with the disks, which may have changed since the login."""
        self._disks_changed = trio.Event()
        self._disks_changed.set()
        with session.scope:
            async with trio.open_nursery() as nursery:
                for task in (self._watch_changes, self._follow_addresses, self._follow_disks):
                    nursery.start_soon(self._while_alive, task, session)

    async def _while_alive(
        self, task: Callable[[InitiatorSession], Awaitable[None]], session: InitiatorSession
    ) -> None:
        """Run a task. An answer of the exporter that is wrong ends the session, and not the mount."""
        try:
            await task(session)
        except ChannelLost:
            # The session has ended, and its last channel has logged why.
            return
        except StatusError as error:
            session.fail(f"the exporter does not list its disks: {error}")
        except RemoteProtocolError as error:
            session.fail(f"the exporter broke the protocol: {error}")

    async def _watch_changes(self, session: InitiatorSession) -> None:
        async def wait(channel: Channel) -> None:
            # Something has changed, or the last request was lost with its channel, and perhaps an answer as well.
            self._disks_changed.set()
            await wait_for_change(channel, session.root)

        try:
            while True:
                await session.ask(wait)
                # The exporter keeps changes that happen meanwhile for the next request. To take over a long list stops
                # all I/O of the mount for a while, so the pause grows with the list.
                disks = len(self._owner.disks)
                await trio.sleep(max(limits.CHANGES_PAUSE_S, disks * limits.CHANGES_PAUSE_PER_DISK_S))
        except StatusError as error:
            logger.info(
                "exporter %s does not report changed disks (%s); its list is fetched every %g s",
                self._owner.node,
                error,
                limits.DISKS_REFRESH_S,
            )

    async def _follow_disks(self, session: InitiatorSession) -> None:
        owner = self._owner
        while True:
            with trio.move_on_after(limits.DISKS_REFRESH_S):
                await self._disks_changed.wait()
            self._disks_changed = trio.Event()
            try:
                disks = await session.ask(
                    lambda channel: query_disks(channel, session.root, trio.current_time() + owner.io_timeout_s)
                )
            except TimeoutError:
                # A single reply may be lost on the way, while others arrive.
                self._disks_changed.set()
                continue
            owner.take_disks(disks)

    async def _follow_addresses(self, session: InitiatorSession) -> None:
        """Ask for the exporter's addresses again and again. The configured ones stay, whatever the answer is."""
        refusal = ""
        while self._addresses.learns_addresses:
            self._ask_addresses = trio.Event()
            try:
                remotes = await session.ask(lambda channel: query_interfaces(channel, session.trees[IoClass.APP]))
            except (StatusError, RemoteProtocolError) as error:
                # The exporter may have no addresses at the moment, so it is asked again.
                if str(error) != refusal:
                    refusal = str(error)
                    logger.info("exporter %s does not list its interfaces: %s", self._owner.node, error)
            else:
                self._addresses.take_remotes(remotes)
            with trio.move_on_after(limits.INTERFACES_REFRESH_S):
                await self._ask_addresses.wait()
