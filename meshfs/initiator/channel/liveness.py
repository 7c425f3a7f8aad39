"""Whether the exporter still answers on a channel: signs of life are collected, and silence is judged once a tick.

A sign of life is a whole message, queued data that the exporter's kernel took, or enough bytes of a message under way.
Silence (silence.py) is judged beside the session's other channels, as one exporter process answers on all of them.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from meshfs import limits
from meshfs.initiator.channel.inbox import Inbox
from meshfs.initiator.channel.outbox import Outbox
from meshfs.initiator.channel.outstanding import OutstandingRequests
from meshfs.initiator.channel.probe import Probe
from meshfs.initiator.channel.silence import Silence, Verdict
from meshfs.transport.base import Transport

_PROGRESS_MIN_BYTES: Final = limits.CHANNEL_PROGRESS_MIN_BYTES


class Sibling(Protocol):
    """The liveness of another channel of the session."""

    #: When the exporter was last known to be heard on that channel.
    heard_s: float

    def ask(self) -> None:
        """Probe, unless the last probe has no answer yet."""


class Liveness:
    """The liveness of one channel; ``look`` once a tick."""

    def __init__(
        self,
        transport: Transport,
        inbox: Inbox,
        outbox: Outbox,
        requests: OutstandingRequests,
        probe: Probe,
        silence: Silence,
        *,
        fail: Callable[[str, float], None],
        now: float,
    ) -> None:
        """``fail`` ends the channel; its arguments say why, and when the exporter was last known to be there."""
        #: When the exporter was last known to be heard on this channel; to a tick.
        self.heard_s = now
        self._transport = transport
        self._inbox = inbox
        self._outbox = outbox
        self._requests = requests
        self._probe = probe
        self._silence = silence
        self._fail = fail
        #: When the exporter was heard by other means than a channel of the session.
        self._exporter_heard_s: float | None = None
        self._siblings: Callable[[], Iterable[Sibling]] = _none
        #: Bytes that had come, received or not, at the last sign of life.
        self._came_bytes = 0

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Set other bounds from now on, also for a silence that has begun."""
        self._silence.dead_after_s, self._silence.max_s = dead_after_s, silence_max_s

    def join(self, siblings: Callable[[], Iterable[Sibling]]) -> None:
        """From now on judge silence beside ``siblings``, which gives the session's other channels."""
        self._siblings = siblings

    def exporter_heard(self, now: float) -> None:
        """The exporter was heard by other means than a channel of the session: it lives, and this channel may not."""
        self._exporter_heard_s = now

    def look(self, now: float, *, overdue: bool) -> None:
        """Probe a silent exporter, or end the channel; ``overdue``: a request's deadline passed since the last look."""
        silence = self._silence
        silence.overdue = silence.overdue or overdue
        verdict = silence.look(
            now,
            heard=self.take_signs_of_life(now),
            busy=self._requests.owed > 0,
            siblings_heard_s=self._siblings_heard_s(),
        )
        if not self._requests.frames.logged_in:
            # A login has a timeout of its own.
            return
        if verdict is Verdict.GIVE_UP:
            silent_s = silence.seconds(now)
            self._fail(f"silent for {silent_s:.1f} s", now - silent_s)
        elif verdict is Verdict.PROBE and self._probe.send():
            silence.probed_s = now
            self._probe_siblings()

    def ask(self) -> None:
        """Probe, unless the last probe has no answer yet."""
        if not self._probe.is_under_way:
            self._probe.send()

    def take_signs_of_life(self, now: float) -> bool:
        """Return whether the exporter was heard since this was asked last."""
        # Nothing of a large message that comes slowly is received until much of it is there (transport.expect). A few
        # bytes of a message are no sign of life: if its length was changed on its way, the message takes in the answers
        # to our probes and never comes to its end.
        inbox, outbox = self._inbox, self._outbox
        came_bytes = inbox.received_bytes + self._transport.pending()
        heard = inbox.heard or outbox.progress or came_bytes - self._came_bytes >= _PROGRESS_MIN_BYTES
        inbox.heard = outbox.progress = False
        if heard:
            self.heard_s = now
            self._came_bytes = came_bytes
        return heard

    def _siblings_heard_s(self) -> float | None:
        """When the exporter was last heard otherwise than on this channel; None if there is no other way."""
        heard_s = [sibling.heard_s for sibling in self._siblings()]
        if self._exporter_heard_s is not None:
            heard_s.append(self._exporter_heard_s)
        return max(heard_s, default=None)

    def _probe_siblings(self) -> None:
        """Ask all other channels too: is it the exporter that is silent, or only this channel?

        What they heard before does not tell, and one that was just busy may have nothing more to hear.
        """
        for sibling in self._siblings():
            sibling.ask()


def _none() -> Iterable[Sibling]:
    return ()
