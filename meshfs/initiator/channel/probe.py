"""Sends a channel's ECHOs, to ask a silent exporter for an answer and to measure the delay.

An ECHO uses the one credit that is kept for it, and is sent before all requests that wait for credits.
"""

import trio

from meshfs import limits
from meshfs.initiator.channel.delay import DelayControl
from meshfs.initiator.channel.outstanding import OutstandingRequests
from meshfs.initiator.channel.slots import Reply, Slot
from meshfs.model import IoClass

_NONE_YET = -1


class Probe:
    """Sends the ECHOs of one channel. If several are under way, the last one measures the delay."""

    def __init__(self, requests: OutstandingRequests, now: float) -> None:
        #: Decides from the measured delay how many credits each class may have in flight.
        self.delay = DelayControl(now)
        self._requests = requests
        self._now = trio.current_time
        self._message_id = _NONE_YET
        self._sent_s = now

    @property
    def is_under_way(self) -> bool:
        """Return whether the last ECHO has no answer yet."""
        return self._message_id in self._requests.slots

    def send(self) -> bool:
        """Send an ECHO. Return False if there is no credit for it."""
        message_id = self._requests.start_echo(self)
        if message_id is None:
            return False
        self._message_id, self._sent_s = message_id, self._now()
        return True

    def measure_if_due(self) -> None:
        """Send an ECHO if the channel has load and the next one is due. Call this after each batch of replies."""
        requests, delay = self._requests, self.delay
        loaded = len(requests.slots) >= delay.requests_min or requests.window.waiting
        if loaded and self._now() >= delay.next_s:
            self._measure()

    def _measure(self) -> None:
        """Send an ECHO, unless one is under way, or it would take a credit that a request needs."""
        requests = self._requests
        plenty = requests.credits.available > limits.WINDOW_FIRST_CREDITS
        if requests.frames.logged_in and plenty and not self.is_under_way and self.send():
            self.delay.sent(self._sent_s)

    def take(self, slot: Slot, result: object) -> None:
        """Take the reply to an ECHO, and give each class the room that follows from the delay."""
        if slot.message_id != self._message_id or not isinstance(result, Reply):
            return
        now, delay, requests = self._now(), self.delay, self._requests
        window = requests.window
        delay.answered(now - self._sent_s, now, app_used=window.app_used())
        held = requests.held_credits
        window.room(IoClass.APP, delay.app_credits, held)
        window.room(IoClass.SYSTEM, delay.system_credits, held)
        if window.waiting:
            requests.pump()
