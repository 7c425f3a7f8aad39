"""A mount and an exporter in one process over several channels, and what tests look at there."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshfs.exporter.commands.table import HANDLERS
from meshfs.exporter.exchange.request import Request
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import MIB
from meshfs.smb.constants import Command, Flags
from meshfs.transport.base import Transport
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.fixed_ways import Dialer
from support.waiting import until

SIZE = 8 * MIB


@asynccontextmanager
async def pair_of(
    folder: Path,
    channels: int,
    *,
    io_timeout_s: float = 3.0,
    policy: Policy | None = None,
    more: tuple[Dialer, ...] = (),
) -> AsyncIterator[Pair]:
    """Make a pair whose session has ``channels`` channels.

    ``more`` paths come beside those that work. They are dialled after the first login.
    """
    unix = functools.partial(connect_unix, folder / "exporter.sock")
    ready = trio.Event()

    def after(dialer: Dialer) -> Dialer:
        async def dial() -> Transport:
            await ready.wait()
            return await dialer()

        return dial

    dialers = [unix] * channels + [after(dialer) for dialer in more]
    with trio.fail_after(30):
        async with mesh_pair(folder, SIZE, policy=policy, io_timeout_s=io_timeout_s, dialers=dialers) as pair:
            ready.set()
            await bound(pair, channels)
            yield pair


async def bound(pair: Pair, channels: int, *, without: Channel | None = None) -> None:
    """Wait until the session has ``channels`` channels, and the lost channel ``without`` is not among them."""
    await until(lambda: len(pair.session.channels) >= channels and without not in pair.session.channels)


async def errno_of(call: Awaitable[object]) -> int | None:
    """Return the errno that a call ends with, or None if the call succeeds."""
    try:
        await call
    except OSError as error:
        return error.errno
    return None


def carrying(pair: Pair, command: Command) -> Channel | None:
    """Return the channel that has such a request in flight, or None."""
    for channel in pair.session.channels:
        if any(slot.command == command for slot in channel.in_flight()):
            return channel
    return None


def start_write(handle: Handle, offset: int, data: bytes, nursery: trio.Nursery) -> list[int | None]:
    """Start a write. When it ends, the returned list gets its errno, or None if it succeeds."""
    ended: list[int | None] = []

    async def write() -> None:
        ended.append(await errno_of(handle.write(offset, data)))

    nursery.start_soon(write)
    return ended


class Arrivals:
    """Notes the (ChannelSequence, is a replay) of each such request at the exporter, before its sequence is judged."""

    def __init__(
        self, patch: pytest.MonkeyPatch, command: Command, is_one: Callable[[Request], bool] = lambda request: True
    ) -> None:
        self.arrived: list[tuple[int, bool]] = []
        self._is_one = is_one
        self._handler, needs = HANDLERS[command]
        patch.setitem(HANDLERS, command, (self._look, needs))

    def _look(self, request: Request) -> None:
        if self._is_one(request):
            message = request.message
            self.arrived.append((message.channel_sequence, bool(message.flags & Flags.REPLAY_OPERATION)))
        self._handler(request)
