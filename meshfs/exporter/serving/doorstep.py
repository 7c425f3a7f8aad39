"""Keeps connections that have sent nothing yet: a socket in the reactor, and nothing else.

A connection that is served has tasks, receive memory and the state of a peer. To make and to end them takes some
200 us. A connection that has sent nothing has none of them, so a flood of connections costs only accept(2) and
close(2). From its first bytes on, a connection is served in the turns of the newcomers from its address
(`processor.py`).
"""

import logging
import socket
from collections import OrderedDict
from collections.abc import Callable

import trio

from meshfs import bugs, limits
from meshfs.exporter.rules.admission import Admission, Arrival
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.processor_flow import ProcessorFlow
from meshfs.loop import reactor

logger = logging.getLogger(__name__)


class Guest:
    """Represents a connection that was accepted at ``accepted_s``, and that is served in the turns of ``newcomers``.

    ``on_turn`` begins to serve the connection. The doorstep sets this callable.
    """

    __slots__ = ("accepted_s", "address", "arrival", "newcomers", "on_turn", "socket")

    def __init__(
        self, stream: socket.socket, address: object, arrival: Arrival, accepted_s: float, newcomers: ProcessorFlow
    ) -> None:
        self.socket = stream
        self.address = address
        self.arrival = arrival
        self.accepted_s = accepted_s
        self.newcomers = newcomers
        self.on_turn: Callable[[Guest], None] = _nothing

    def step(self, _: float) -> ProcessorFlow | None:
        """Begin to serve the connection in its turn, unless it was ended meanwhile."""
        self.on_turn(self)
        return None


class Doorstep:
    """Keeps guests until they send something, leave, or time out. ``begin`` serves a guest that has sent something."""

    def __init__(
        self,
        admission: Admission,
        processor: Processor,
        begin: Callable[[Guest], None],
        late: Callable[[Guest], None],
    ) -> None:
        self._admission = admission
        self._processor = processor
        self._begin = begin
        self._late = late
        self._reactor = reactor.current()
        #: The guests. The guest that waits for the longest time comes first.
        self._guests: OrderedDict[Guest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guests)

    def add(self, guest: Guest) -> None:
        self._guests[guest] = None
        guest.on_turn = self._serve
        guest.arrival.end = lambda: self._close(guest)
        self._reactor.add(guest.socket.fileno(), lambda: self._readable(guest), on_failure=lambda _: self._close(guest))

    async def end_late(self) -> None:
        """End guests that send nothing for UNAUTHENTICATED_TIMEOUT_S, until cancelled. Then end all guests."""
        try:
            while True:
                oldest = next(iter(self._guests), None)
                now = trio.current_time()
                if oldest is None or oldest.accepted_s + limits.UNAUTHENTICATED_TIMEOUT_S > now:
                    await trio.sleep(min(limits.UNAUTHENTICATED_TIMEOUT_S / 4, 1.0))
                    continue
                self._close(oldest)
                self._late(oldest)
        finally:
            for guest in list(self._guests):
                self._close(guest)

    def _readable(self, guest: Guest) -> None:
        try:
            gone = not guest.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            logger.debug("a connection broke before its first byte: %s", error)
            gone = True
        if gone:
            self._close(guest)
            return
        self._reactor.forget(guest.socket.fileno())
        self._processor.ready(guest, guest.newcomers)

    def _serve(self, guest: Guest) -> None:
        """Serve the guest in its turn, unless it was ended meanwhile."""
        if guest in self._guests:
            del self._guests[guest]
            try:
                self._begin(guest)
            except Exception as error:
                # The turn has other guests to serve. Admission must forget this guest, because it is closed here.
                bugs.report(logger, "beginning to serve a connection", error)
                self._admission.leave(guest.arrival)
                guest.socket.close()

    def _close(self, guest: Guest) -> None:
        self._forget(guest)
        self._admission.leave(guest.arrival)
        guest.socket.close()

    def _forget(self, guest: Guest) -> None:
        del self._guests[guest]
        self._reactor.forget(guest.socket.fileno())


def _nothing(_: Guest) -> None:
    """Do nothing, in place of ``on_turn``, until the doorstep has set ``on_turn``."""
