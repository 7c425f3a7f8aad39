"""Keeps the paths to one exporter, each with its task.

The plan is made again when an interface of this machine changes, when a path fails or works again, and when the
exporter advertises other addresses. `plan` chooses the paths, `decide` (replan.py) compares the choices with the paths
that are kept, and `Paths` carries the decisions out.
"""

from collections.abc import Callable
from typing import Any, Protocol

import trio

from meshfs.buffers import BufferPool
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote import path_keeper
from meshfs.initiator.remote.dialing import Ways
from meshfs.initiator.remote.path_keeper import PathKeeper
from meshfs.initiator.remote.plan import Path, plan
from meshfs.initiator.remote.replan import Decision, Deed, Ending, decide, ending
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.session import InitiatorSession
from meshfs.transport.base import Transport


class ExporterOfPaths(path_keeper.ExporterOfPath, Protocol):
    """Stands for the exporter that the paths lead to."""

    failures: int

    def spawn(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a task that ends with the exporter."""


class Paths:
    """Keeps the paths to one exporter. Nothing is tried before `start`."""

    def __init__(
        self,
        owner: ExporterOfPaths,
        ways: Ways,
        pool: BufferPool,
        *,
        channels: int,
        dead_after_s: float,
        silence_max_s: float,
    ) -> None:
        #: A keeper for every possible path, and for paths that are about to end.
        self.keepers: list[PathKeeper] = []
        self._owner = owner
        self._ways = ways
        self._pool = pool
        self._channels = channels
        self._dead_after_s = dead_after_s
        self._silence_max_s = silence_max_s
        self._remotes = tuple(ways.remotes)
        #: The addresses that the exporter advertised last, in addition to those of the config.
        self._advertised: tuple[Remote, ...] = ()
        self._started = False

    @property
    def retry_at(self) -> float | None:
        """Return the time of the next attempt, or None if no path waits for an attempt."""
        return min((keeper.retry_at for keeper in self.keepers if keeper.retry_at is not None), default=None)

    @property
    def learns_addresses(self) -> bool:
        """Return whether the exporter is asked for its addresses."""
        return self._ways.asks

    @property
    def may_be_several(self) -> bool:
        """Return whether a session may get more than one channel."""
        return self._ways.asks or len(self.keepers) > 1

    async def dial(self, path: Path) -> Transport:
        """Connect to the path's far end. Raises OSError."""
        return await self._ways.dial(path)

    def start(self) -> None:
        """Try the paths from now on."""
        self._started = True
        self.replan()

    def poke(self) -> None:
        """Let every path that waits for its next attempt try at once."""
        for keeper in self.keepers:
            keeper.poke()

    def configure(self, ways: Ways, *, channels: int, dead_after_s: float, silence_max_s: float) -> None:
        """Use another config. The caller has to plan again."""
        self._ways, self._channels = ways, channels
        self._dead_after_s, self._silence_max_s = dead_after_s, silence_max_s
        for keeper in self.keepers:
            keeper.configure(dead_after_s, silence_max_s)
        self.take_remotes(self._advertised)

    def take_remotes(self, advertised: tuple[Remote, ...]) -> None:
        """Use the addresses of the config and those that the exporter advertises.

        If ``advertised`` lacks a configured address, keep what the exporter advertised earlier of that address.
        """
        self._advertised = advertised
        found = {remote.address: remote for remote in self._ways.remotes}
        found |= {remote.address: remote for remote in self._remotes if remote.address in found}
        found |= {remote.address: remote for remote in advertised}
        if tuple(found.values()) != self._remotes:
            self._remotes = tuple(found.values())
            self.replan()

    def replan(self) -> None:
        """Plan the paths, start those to be used, and end the others."""
        if not self._started:
            return
        known = {keeper.path.key: keeper for keeper in self.keepers}
        now = trio.current_time()

        def works(path: Path) -> bool:
            keeper = known.get(path.key)
            return keeper is None or keeper.works(now)

        locals_ = self._ways.locals()
        # The node's own exporter is reached by one Unix socket, where further channels gain nothing.
        channels = self._channels if self._ways.asks else 1
        choices = plan(locals_, self._remotes, channels=channels, works=works)
        kept = (keeper.path for keeper in known.values())
        self._carry_out(decide(choices, kept, locals_, self._remotes), known)

    def _carry_out(self, decisions: tuple[Decision, ...], known: dict[tuple[str, str, str, int], PathKeeper]) -> None:
        for decision in decisions:
            choice = decision.choice
            keeper = known.get(choice.path.key)
            if keeper is None:
                keeper = known[choice.path.key] = PathKeeper(
                    self._owner, self, choice, self._pool, self._dead_after_s, self._silence_max_s
                )
            keeper.choice = choice
        kept = [(decision, known[decision.choice.path.key]) for decision in decisions]
        self.keepers = [keeper for decision, keeper in kept if decision.planned]
        for decision, keeper in kept:
            if decision.deed is not Deed.USE:
                self._end(keeper, decision.deed)
            elif not keeper.running:
                keeper.start(self._owner.spawn)
            if not decision.planned and keeper.running:
                # The path is about to end, or its channel is the session's only one.
                self.keepers.append(keeper)

    def replan_after(self, delay_s: float) -> None:
        """Plan again after a delay."""

        async def later() -> None:
            await trio.sleep(delay_s)
            self.replan()

        if self._started:
            self._owner.spawn(later)

    def _end(self, keeper: PathKeeper, deed: Deed) -> None:
        """End a path that is not to be used."""
        channel, session = keeper.channel, self._owner.session
        in_use = [] if session is None else session.spread.channels
        how = ending(
            deed,
            running=keeper.running,
            bound=channel is not None and session is not None,
            others=any(other is not channel for other in in_use),
            takes_requests=channel in in_use,
        )
        if how is Ending.NOTE:
            keeper.why = keeper.choice.why_not
        elif how is Ending.CANCEL:
            keeper.scope.cancel()
        elif how is not Ending.LEAVE:
            assert channel is not None
            assert session is not None
            self._end_channel(keeper, channel, session, how)

    def _end_channel(self, keeper: PathKeeper, channel: Channel, session: InitiatorSession, how: Ending) -> None:
        if how is Ending.FAIL:
            channel.fail(keeper.choice.why_not)
            keeper.failures += 1
            keeper.losses += 1
            self._owner.failures += 1
            keeper.scope.cancel()
        else:
            session.retire(channel)
            self._owner.spawn(keeper.retire, channel, session)
