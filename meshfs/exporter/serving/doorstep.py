"""Connections that have sent nothing yet: a socket in the reactor, and no more.

Serving a connection takes tasks, receive memory and the state of a peer, some 200 us to make and to end. One that
has sent nothing gets none of that, so a flood of connections costs accept(2) and close(2), and can be kept up with.
What is served is served in the turns of the newcomers from its address (`processor.py`), from the very beginning.
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
    """A connection that was accepted, and when; ``newcomers`` is in whose turns it is served.

    ``on_turn`` serves it; the doorstep sets that.
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
        """Its turn, in which it is served if it is there still."""
        self.on_turn(self)
        return None


class Doorstep:
    """Holds guests until their first bytes come (then ``begin`` serves them), their time is over, or they leave."""

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
        #: The one that waits for the longest comes first.
        self._guests: OrderedDict[Guest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guests)

    def add(self, guest: Guest) -> None:
        self._guests[guest] = None
        guest.on_turn = self._serve
        guest.arrival.end = lambda: self._close(guest)
        self._reactor.add(guest.socket.fileno(), lambda: self._readable(guest), on_failure=lambda _: self._close(guest))

    async def end_late(self) -> None:
        """Ends those that say nothing for UNAUTHENTICATED_TIMEOUT_S; until cancelled, when it ends all."""
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
        """Its turn has come; it may have been ended meanwhile."""
        if guest in self._guests:
            del self._guests[guest]
            try:
                self._begin(guest)
            except Exception as error:
                # The turn has others to serve, and whoever ends a connection for a newcomer must not find this one.
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
    """The doorstep does not have it yet."""
