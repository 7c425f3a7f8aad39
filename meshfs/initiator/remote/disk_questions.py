"""Asks questions about single disks for which a program waits, as `ls -l` waits for the time of the last write.

A question takes at most ASK_DISK_TIMEOUT_S. While an answer is overdue, other questions are not asked and end at once.
So a silent exporter delays one `ls` once, and not once for each of its disks.
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
    """Stands for the exporter that is asked."""

    node: str
    session: InitiatorSession | None

    def spawn(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a task that ends with the exporter."""

    def try_at_once(self) -> None:
        """Let paths that wait for their next attempt try now."""

    async def session_change(self) -> None:
        """Return when the session, or a channel of it, begins or ends."""


class DiskQuestions:
    """Asks one exporter about its disks."""

    def __init__(self, owner: ExporterToAsk) -> None:
        self._owner = owner
        #: The number of questions that were not answered in time, and are asked again in the background.
        self._overdue = 0
        #: The time from which a question may try again to reach an exporter that is down.
        self._reach_again_s = -inf

    async def ask(self, info: DiskInfo) -> tuple[DiskInfo, InitiatorSession] | None:
        """Return the exporter's facts of the disk and its session, or None if no answer comes in time."""
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
        """Let the paths try at once, and wait ASK_DISK_TIMEOUT_S for a session. Do so once in ASK_DISK_AGAIN_S."""
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
        """Return the answer, or None if the exporter offers no such disk, refuses, breaks the protocol, or is lost."""
        try:
            return await session.ask(lambda channel: query_one_of(channel, session.root, info))
        except (ChannelLost, StatusError, RemoteProtocolError) as error:
            logger.debug("exporter %s did not answer a question about disk %s: %s", self._owner.node, info.name, error)
            return None
