"""Sends what this mount sees of the mesh to one exporter, and asks the exporter for the views of all mounts.

A view is sent at the beginning of a session, VIEW_PAUSE_S after a change, and every VIEW_EVERY_S without a change.
`meshctl check` compares the views of all mounts (`meshfs.mesh_view`).
"""

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.session.commands import exchange_views
from meshfs.initiator.session.session import InitiatorSession
from meshfs.mesh_view import MountView, ViewExchange

logger = logging.getLogger(__name__)


class ExporterWithViews(Protocol):
    """Stands for the exporter that is told and asked."""

    node: str
    io_timeout_s: float
    session: InitiatorSession | None
    why: str


class Views:
    """Exchanges views with one exporter. ``own`` makes the view of this mount for that exporter."""

    def __init__(self, owner: ExporterWithViews, own: Callable[[], MountView]) -> None:
        self._owner = owner
        self._own = own
        self._changed = trio.Event()

    def changed(self) -> None:
        """Send the view again soon, because it may have changed."""
        self._changed.set()

    async def follow(self, session: InitiatorSession) -> None:
        """Send the view in the session until the session ends."""
        try:
            await self._send(session)
        except ChannelLost:
            # The session has ended, and its last channel has logged why.
            return
        except StatusError as error:
            logger.info("exporter %s takes no views of the mesh (%s)", self._owner.node, error)
        except RemoteProtocolError as error:
            session.fail(f"the exporter broke the protocol: {error}")

    async def _send(self, session: InitiatorSession) -> None:
        sent, due_s = None, trio.current_time()
        # The end of the session is a change, too, so it ends the wait for the next one.
        while not session.why:
            self._changed = trio.Event()
            view = self._own()
            if view != sent or trio.current_time() >= due_s:
                try:
                    await session.ask(
                        lambda channel, view=view: exchange_views(  # type: ignore[misc]
                            channel, session.root, view, trio.current_time() + self._owner.io_timeout_s
                        )
                    )
                except TimeoutError:
                    # A single reply may be lost on the way, while others arrive.
                    sent = None
                else:
                    sent, due_s = view, trio.current_time() + limits.VIEW_EVERY_S
            with trio.move_on_at(due_s):
                await self._changed.wait()
            await trio.sleep(limits.VIEW_PAUSE_S)

    async def exchange(self, deadline: float) -> ViewExchange:
        """Send the view, and return the views of all mounts.

        Raises ChannelLost if there is no session, StatusError if the exporter refuses, and TimeoutError.
        """
        session = self._owner.session
        if session is None:
            raise ChannelLost(self._owner.why)
        return await session.ask(
            lambda channel: exchange_views(channel, session.root, self._own(), deadline, answered=True)
        )
