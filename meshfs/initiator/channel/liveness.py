"""Watch whether the exporter still answers on a channel: collect signs of life, and judge silence once a tick.

A sign of life is a whole message, queued data that the exporter's kernel took, or enough bytes of a message under way.
silence.py has the rules. They compare the channel with the session's other channels, because one exporter process
answers on all of them.
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
    """Gives the liveness of another channel of the session."""

    #: The time of the last sign of life on that channel.
    heard_s: float

    def ask(self) -> None:
        """Probe, unless a probe is under way."""


class Liveness:
    """Judges whether the exporter still answers on one channel. Call `look` once a tick."""

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
        """``now`` counts as a sign of life. ``fail`` ends the channel, and takes a reason and the last sign of life."""
        #: The time of the last sign of life on this channel, as found at a tick.
        self.heard_s = now
        self._transport = transport
        self._inbox = inbox
        self._outbox = outbox
        self._requests = requests
        self._probe = probe
        self._silence = silence
        self._fail = fail
        #: The last time that the exporter answered on a connection outside the session, or None if it never did.
        self._exporter_heard_s: float | None = None
        self._siblings: Callable[[], Iterable[Sibling]] = _none
        #: The number of bytes that had arrived by the last sign of life, in the socket or received from it.
        self._came_bytes = 0

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Use other bounds from now on. They also apply to a silence that has begun."""
        self._silence.dead_after_s, self._silence.max_s = dead_after_s, silence_max_s

    def join(self, siblings: Callable[[], Iterable[Sibling]]) -> None:
        """Compare this channel from now on with ``siblings``, which gives the session's other channels."""
        self._siblings = siblings

    def exporter_heard(self, now: float) -> None:
        """Note that the exporter answered on a connection outside the session, although this channel may be dead."""
        self._exporter_heard_s = now

    def look(self, now: float, *, overdue: bool) -> None:
        """Probe a silent exporter, or end the channel.

        ``overdue`` says that the deadline of a request has passed since the last look.
        """
        silence = self._silence
        silence.overdue = silence.overdue or overdue
        verdict = silence.look(
            now,
            heard=self.take_signs_of_life(now),
            busy=self._requests.owed > 0,
            siblings_heard_s=self._siblings_heard_s(),
        )
        if not self._requests.frames.logged_in:
            # A login has its own timeout (joining.py).
            return
        if verdict is Verdict.GIVE_UP:
            silent_s = silence.seconds(now)
            self._fail(f"silent for {silent_s:.1f} s", now - silent_s)
        elif verdict is Verdict.PROBE and self._probe.send():
            silence.probed_s = now
            self._probe_siblings()

    def ask(self) -> None:
        """Probe, unless a probe is under way."""
        if not self._probe.is_under_way:
            self._probe.send()

    def take_signs_of_life(self, now: float) -> bool:
        """Return whether there was a sign of life since the last call."""
        # A large message that arrives slowly stays in the socket until much of it is there (Transport.expect), so bytes
        # in the socket count as well. A few bytes are no sign of life: if the length of a message was changed on its
        # way, the answers to probes are taken for its data, and the message never ends.
        inbox, outbox = self._inbox, self._outbox
        came_bytes = inbox.received_bytes + self._transport.pending()
        heard = inbox.heard or outbox.progress or came_bytes - self._came_bytes >= _PROGRESS_MIN_BYTES
        inbox.heard = outbox.progress = False
        if heard:
            self.heard_s = now
            self._came_bytes = came_bytes
        return heard

    def _siblings_heard_s(self) -> float | None:
        """Return the last sign of life outside of this channel, or None if there is no other connection."""
        heard_s = [sibling.heard_s for sibling in self._siblings()]
        if self._exporter_heard_s is not None:
            heard_s.append(self._exporter_heard_s)
        return max(heard_s, default=None)

    def _probe_siblings(self) -> None:
        """Probe all other channels as well, to find out whether the exporter is silent or only this channel.

        An earlier sign of life does not answer this question, and an idle channel receives nothing without a probe.
        """
        for sibling in self._siblings():
            sibling.ask()


def _none() -> Iterable[Sibling]:
    return ()
