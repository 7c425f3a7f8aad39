"""Time on a channel: deadlines, probes and silence, looked at once a tick by one task.

There is no timer per request; a deadline is kept to within ``limits.CHANNEL_TICK_S``.
"""

import errno
from collections.abc import Collection, Iterable
from typing import Protocol

import trio

from meshfs import limits
from meshfs.initiator.channel.silence import Silence, Verdict
from meshfs.initiator.channel.slots import Slot, finish


class Watched(Protocol):
    """The channel, as its watch sees it."""

    #: Logging in has a timeout of its own: until it is done silence is nobody's business.
    logged_in: bool

    @property
    def outstanding(self) -> int:
        """Requests that are owed an answer, or wait for credits."""

    def in_flight(self) -> Collection[Slot]: ...

    def waiting(self) -> Iterable[Slot]:
        """Those that wait for credits."""

    def take_signs_of_life(self, now: float) -> bool:
        """Whether the peer was heard since this was asked last."""

    def siblings_heard_s(self) -> float | None:
        """When any other channel of the session was last heard; None where there is no other."""

    def probe_siblings(self) -> None:
        """Ask all others for an answer."""

    def cancel(self, slot: Slot) -> None:
        """Tell the exporter that nobody waits for this one any more."""

    def probe(self) -> bool:
        """Ask the exporter for an answer; False when there is no credit to ask with."""

    def tick(self, now: float) -> None:
        """Some of those waiting may be gone, or go now."""

    def fail(self, why: str, gone_s: float | None = None) -> None:
        """End the channel; ``gone_s`` is when the exporter was last known to be there."""


class Watch:
    """One channel's; ``run`` it beside the channel, until cancelled."""

    def __init__(self, channel: Watched, dead_after_s: float, silence_max_s: float) -> None:
        self._channel = channel
        self._silence = Silence(trio.current_time(), dead_after_s, silence_max_s)

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Other bounds from now on, also for a silence that has begun."""
        self._silence.dead_after_s, self._silence.max_s = dead_after_s, silence_max_s

    async def run(self) -> None:
        while True:
            await trio.sleep(limits.CHANNEL_TICK_S)
            now = trio.current_time()
            self._expire(now)
            self._listen(now)

    def _expire(self, now: float) -> None:
        """End the wait of those whose deadline passed; requests already sent keep their slot and their credits."""
        channel = self._channel
        for slot in list(channel.in_flight()):
            if slot.deadline <= now and slot.wanted:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter did not answer in time"))
                self._silence.overdue = True
                channel.cancel(slot)
        for slot in channel.waiting():
            if slot.deadline <= now:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter granted no credits in time"))
        channel.tick(now)

    def _listen(self, now: float) -> None:
        channel = self._channel
        heard = channel.take_signs_of_life(now)
        verdict = self._silence.look(
            now, heard=heard, busy=channel.outstanding > 0, siblings_heard_s=channel.siblings_heard_s()
        )
        if not channel.logged_in:
            return
        if verdict is Verdict.GIVE_UP:
            silent_s = self._silence.seconds(now)
            channel.fail(f"silent for {silent_s:.1f} s", now - silent_s)
        elif verdict is Verdict.PROBE and channel.probe():
            self._silence.probed_s = now
            channel.probe_siblings()
