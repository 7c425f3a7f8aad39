"""The queue of what waits to be sent on a transport, the oldest first; both wings stand on it.

    waiting   [(memory, buffer), ...]   frames, or parts of them, each with the pooled buffer that it lies in, if any
    send_some   sends until the transport is full, or a bound is reached
    send_once   sends what one call takes

A call of ``send`` has at most IOV_MAX parts. Of a part that was sent in part, the rest stays at the head of the queue.
A buffer is released as soon as its part was sent, or dropped. Who may send, when, and how much is the policy of each
wing: the exporter sends in turns (exporter/serving/outlet.py), and the initiator corks what leaves together
(initiator/channel/outbox.py).
"""

import enum
import os
from typing import Final

from meshfs.buffers import Buffer
from meshfs.transport.base import Memory, Transport

#: How many parts one call of ``send`` may have (IOV_MAX of writev(2)).
_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")


class Sent(enum.Enum):
    """What a call of ``send_some`` left to be sent."""

    ALL = enum.auto()
    #: Something, because the transport takes no more for now.
    FULL = enum.auto()
    #: Something, because the bound was reached. The transport would take more.
    SOME = enum.auto()


class OutQueue:
    """Sends the parts in ``waiting``. The caller appends to that list, and nobody else takes parts from it."""

    def __init__(self, transport: Transport, waiting: list[tuple[Memory, Buffer | None]]) -> None:
        self.waiting = waiting
        #: How many bytes the transport has taken so far.
        self.sent_bytes = 0
        self._transport = transport

    def send_some(self, most_bytes: int | None = None) -> Sent:
        """Send until nothing waits, the transport is full, or ``most_bytes`` (if given) were sent.

        Raises an OSError other than BlockingIOError if the connection is lost.
        """
        waiting = self.waiting
        while waiting:
            if most_bytes is None:
                parts = [memory for memory, _ in waiting[:_IOV_MAX]]
            elif most_bytes > 0:
                parts = _first_parts(waiting, most_bytes)
            else:
                return Sent.SOME
            try:
                sent = self._transport.send(parts)
            except BlockingIOError:
                return Sent.FULL
            if most_bytes is not None:
                most_bytes -= sent
            self._take_off(sent, len(parts))
        return Sent.ALL

    def send_once(self) -> None:
        """Send what one call of ``send`` takes. Raises BlockingIOError if that is nothing, and as `send_some`."""
        parts = [memory for memory, _ in self.waiting[:_IOV_MAX]]
        self._take_off(self._transport.send(parts), len(parts))

    def _take_off(self, sent: int, count: int) -> None:
        """Remove the parts that were sent, and the beginning of one that was sent in part."""
        self.sent_bytes += sent
        waiting = self.waiting
        for index in range(count):
            memory, buffer = waiting[index]
            if sent < len(memory):
                waiting[index] = (memoryview(memory)[sent:], buffer)
                del waiting[:index]
                return
            sent -= len(memory)
            if buffer is not None:
                buffer.release()
        del waiting[:count]

    def drop(self) -> None:
        """Forget what waits, and release its buffers."""
        for _, buffer in self.waiting:
            if buffer is not None:
                buffer.release()
        self.waiting.clear()


def _first_parts(waiting: list[tuple[Memory, Buffer | None]], most_bytes: int) -> list[Memory]:
    """Return the first parts that wait, up to ``most_bytes``; the last one is cut where it would be too much."""
    parts: list[Memory] = []
    for memory, _ in waiting[:_IOV_MAX]:
        if len(memory) >= most_bytes:
            parts.append(memoryview(memory)[:most_bytes])
            break
        parts.append(memory)
        most_bytes -= len(memory)
    return parts
