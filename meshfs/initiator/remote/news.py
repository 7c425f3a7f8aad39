"""Ask an exporter for its disks, its enclosures and its addresses, again and again until the session ends."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.remote.enclosure_news import EnclosureNews, ExporterWithEnclosures
from meshfs.initiator.remote.followed_list import FollowedList
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.commands import query_disks, query_interfaces
from meshfs.initiator.session.session import InitiatorSession
from meshfs.model import DiskInfo, IoClass

logger = logging.getLogger(__name__)


class ExporterWithDisks(ExporterWithEnclosures, Protocol):
    """Stands for the exporter that is asked."""

    disks: tuple[DiskInfo, ...]

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
    """Asks one exporter for its disks, its enclosures and its addresses."""

    def __init__(self, owner: ExporterWithDisks, addresses: Addresses) -> None:
        self._owner = owner
        self._addresses = addresses
        self._enclosures = EnclosureNews(owner)
        self._disks = FollowedList(owner, "disks", query=query_disks, take=owner.take_disks, pause_s=self._pause_s)
        self._ask_addresses = trio.Event()

    def ask_disks(self) -> None:
        """Fetch the list of disks at once."""
        self._disks.ask()

    def ask_enclosures(self) -> None:
        """Fetch the list of enclosures at once."""
        self._enclosures.ask()

    def ask_addresses(self) -> None:
        """Fetch the exporter's addresses at once."""
        self._ask_addresses.set()

    async def follow(self, session: InitiatorSession) -> None:
        """Ask in the session until it ends. Begin with the disks, which may have changed since the login."""
        with session.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._enclosures.follow, session)
                for task in (self._watch_disks, self._follow_addresses, self._follow_disks):
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

    def _pause_s(self) -> float:
        return max(limits.CHANGES_PAUSE_S, len(self._owner.disks) * limits.CHANGES_PAUSE_PER_DISK_S)

    async def _watch_disks(self, session: InitiatorSession) -> None:
        await self._disks.watch(session, session.root)

    async def _follow_disks(self, session: InitiatorSession) -> None:
        await self._disks.fetch(session, session.root)

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
