"""What goes out on a channel: at once if the socket takes it, otherwise in order as soon as the socket takes data.

The frames that one round of the reactor starts are corked: they leave together in one sendmsg at the end of the round,
so that the exporter gets them as one batch. Large writes leave at once, as the exporter can begin to receive them
meanwhile.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from meshfs import bugs, limits
from meshfs.buffers import Buffer
from meshfs.loop import reactor
from meshfs.transport.base import Memory, Transport
from meshfs.transport.out_queue import OutQueue

logger = logging.getLogger(__name__)

_CORKED_MAX_BYTES: Final = 64 * limits.KIB
_CORKED_PARTS_MAX: Final = 2


class Outbox:
    """The sending half of a channel. It calls ``fail``, once or more, when the socket is dead."""

    def __init__(self, transport: Transport, fail: Callable[[str], None]) -> None:
        #: Set when the exporter's kernel took queued data, which is as good a sign of life as an answer.
        self.progress = False
        self._transport = transport
        self._fail = fail
        self._reactor = reactor.current()
        self._corked: list[Memory] = []
        self._unsent: list[tuple[Memory, Buffer | None]] = []
        self._queue = OutQueue(transport, self._unsent)

    @property
    def sent_bytes(self) -> int:
        """Return how many bytes the transport has taken so far."""
        return self._queue.sent_bytes

    def close(self) -> None:
        """Forget what was not sent; to be called before the transport is closed."""
        self._corked.clear()
        self._queue.drop()
        self._reactor.forget(self._transport.fd)

    def send(self, parts: tuple[Memory, ...]) -> None:
        """Send a frame, at the latest at the end of the reactor's round. Never raises."""
        corked = self._corked
        if not self._reactor.in_round:
            self._send_now(parts)
            return
        if not corked:
            self._reactor.defer(self._uncork)
        corked += parts
        if len(parts[-1]) > _CORKED_MAX_BYTES or len(corked) >= _CORKED_PARTS_MAX:
            self._uncork()

    def _uncork(self) -> None:
        if self._corked:
            parts, self._corked = self._corked, []
            self._send_now(parts)

    def _send_now(self, parts: Sequence[Memory]) -> None:
        """Send, and queue what the socket does not take; a dead socket ends the channel."""
        if self._unsent:
            self._keep(parts, 0)
            return
        try:
            sent = self._transport.send(parts)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(f"sending failed: {error.strerror or error}")
            return
        except Exception as error:
            # The parts are lost, and nothing may follow a frame that is missing.
            bugs.report(logger, "sending to an exporter", error)
            self._fail(f"internal error: {error!r}")
            return
        self._queue.sent_bytes += sent
        if sent != sum(map(len, parts)):
            self._keep(parts, sent)

    def _keep(self, parts: Sequence[Memory], sent: int) -> None:
        """Keep what is left of ``parts`` after ``sent`` bytes; the credits bound how much that can be."""
        for index, part in enumerate(parts):
            size = len(part)
            if sent >= size:
                sent -= size
                continue
            rest = memoryview(part)[sent:]
            sent = 0
            # The second part is the caller's own memory, which may change once its call is cancelled.
            if index and type(rest.obj) is not bytes:
                rest = memoryview(bytes(rest))
            self._unsent.append((rest, None))
        if self._unsent:
            self._reactor.when_writable(self._transport.fd, self._writable)

    def _writable(self) -> None:
        """The socket takes data again: the reactor's callback."""
        queue = self._queue
        before = queue.sent_bytes
        try:
            queue.send_once()
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(f"sending failed: {error.strerror or error}")
            return
        self.progress = self.progress or queue.sent_bytes > before
        if self._unsent:
            self._reactor.when_writable(self._transport.fd, self._writable)
