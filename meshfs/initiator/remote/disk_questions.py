"""Questions about single disks that a program waits for, as `ls -l` waits for the time of the last write.

A question takes ASK_DISK_TIMEOUT_S at most. While an answer is overdue, no other question waits at all: an exporter
that is silent makes one `ls` slow, and not one for each of its disks.
"""

import logging
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.session.commands import query_one_of
from meshfs.initiator.session.session import InitiatorSession
from meshfs.model import DiskInfo

logger = logging.getLogger(__name__)


class ExporterToAsk(Protocol):
    """The exporter that is asked."""

    node: str
    session: InitiatorSession | None

    def spawn(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a task that ends with the exporter."""

    def try_at_once(self) -> None:
        """Let paths that wait for their next attempt try now."""

    async def session_change(self) -> None:
        """Return when the session, or a channel of it, came or went."""


class DiskQuestions:
    """Asks one exporter about its disks."""

    def __init__(self, owner: ExporterToAsk) -> None:
        self._owner = owner
        #: Questions that were not answered in time, and are asked again.
        self._overdue = 0
        #: When a question may next try to reach an exporter that is down.
        self._reach_again_s = -inf

    async def ask(self, info: DiskInfo) -> tuple[DiskInfo, InitiatorSession] | None:
        """Return what the exporter says of the disk now, and in which session; None without an answer in time."""
        owner = self._owner
        if owner.session is None:
            await self._reach()
        session = owner.session
        if session is None or self._overdue:
            return None
        with trio.move_on_after(limits.ASK_DISK_TIMEOUT_S) as patience:
            answer = await self._answer(session, info)
            return None if answer is None else (answer, session)
        if patience.cancelled_caught:
            self._overdue += 1
            owner.spawn(self._await_answer, session, info)
        return None

    async def _reach(self) -> None:
        """Let the paths try at once, and wait a little for a session. One question in ASK_DISK_AGAIN_S does so."""
        now = trio.current_time()
        if now < self._reach_again_s:
            return
        self._reach_again_s = now + limits.ASK_DISK_AGAIN_S
        self._owner.try_at_once()
        with trio.move_on_after(limits.ASK_DISK_TIMEOUT_S):
            while self._owner.session is None:
                await self._owner.session_change()

    async def _await_answer(self, session: InitiatorSession, info: DiskInfo) -> None:
        """Ask again, and return when the exporter has answered or the session has ended."""
        try:
            await self._answer(session, info)
        finally:
            self._overdue -= 1

    async def _answer(self, session: InitiatorSession, info: DiskInfo) -> DiskInfo | None:
        """The exporter's answer; None where it tells of no such disk, or its answer makes no sense."""
        try:
            return await session.ask(lambda channel: query_one_of(channel, session.root, info))
        except (ChannelLost, StatusError, RemoteProtocolError) as error:
            logger.debug("exporter %s does not tell of disk %s: %s", self._owner.node, info.name, error)
            return None
