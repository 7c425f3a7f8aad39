"""Sends the requests of a channel in their order, at once or at the end of the reactor's round.

The requests that one round of the reactor starts are corked: they leave together in one call at the end of the round,
so that the exporter gets them as one batch. A large write leaves at once, because the exporter can begin to receive it
meanwhile.
"""

import logging
from collections.abc import Callable
from typing import Final

from meshfs import bugs, limits
from meshfs.initiator.channel.slots import Parts
from meshfs.loop import reactor
from meshfs.transport.base import OutQueue, Sent

logger = logging.getLogger(__name__)

_CORKED_MAX_BYTES: Final = 64 * limits.KIB
_CORKED_PARTS_MAX: Final = 2
_FULL: Final = Sent.FULL


class Outbox:
    """Sends the requests of one channel, and calls ``fail``, once or more, when the connection is lost."""

    def __init__(self, queue: OutQueue, fail: Callable[[str], None]) -> None:
        #: Is set when the transport took requests that had waited, which is as good a sign of life as an answer.
        self.progress = False
        self._queue = queue
        self._add = queue.add
        self._fail = fail
        self._reactor = reactor.current()
        #: The number of parts of requests that wait for the end of the round.
        self._corked = 0
        self._is_broken = False

    @property
    def sent_bytes(self) -> int:
        """Return how many bytes the transport has taken so far."""
        return self._queue.sent_bytes

    def close(self) -> None:
        """Forget what was not sent. Call this before the transport is closed."""
        self._is_broken = True
        self._queue.drop()

    def send(self, parts: Parts) -> None:
        """Send a request, at the latest at the end of the reactor's round. Do not raise any error."""
        self._add(*parts)
        if not self._reactor.in_round:
            self._send()
            return
        if not self._corked:
            self._reactor.defer(self._uncork)
        self._corked += len(parts)
        if len(parts[-1]) > _CORKED_MAX_BYTES or self._corked >= _CORKED_PARTS_MAX:
            self._uncork()

    def _uncork(self) -> None:
        if self._corked:
            self._corked = 0
            self._send()

    def _send(self) -> None:
        """Send what the transport takes. If the connection is lost, end the channel."""
        queue = self._queue
        if self._is_broken:
            queue.drop()
            return
        try:
            if queue.send() is _FULL:
                # The credits bound how much can wait.
                queue.when_room(self._has_room)
        except OSError as error:
            self._break(f"sending failed: {error.strerror or error}")
        except Exception as error:
            # The queue may have lost a part of a request, and nothing may follow that.
            bugs.report(logger, "sending to an exporter", error)
            self._break(f"internal error: {error!r}")

    def _break(self, why: str) -> None:
        self._is_broken = True
        self._fail(why)

    def _has_room(self) -> None:
        """Send what waits, because the transport takes more."""
        before = self.sent_bytes
        self._send()
        self.progress = self.progress or self.sent_bytes > before
