"""Accepts the connections of an exporter, within limits, and ends them when the exporter ends.

    backlog --accept--> doorstep --first bytes--> link --login--> logged in
                        (doorstep.py)             (link.py)

admission.py decides which connections may stay on the way. Each turn of the event loop accepts a part of the backlog.
So a flood of connections does not stop the I/O. If no descriptor is left, a connection without a login is ended for the
newcomer. If every connection has a login, the newcomer is accepted by a descriptor that is kept in reserve, and closed.
Otherwise its client would wait for an answer in vain.
"""

import errno
import logging
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final

import trio

from meshfs import limits
from meshfs.endpoint import format_endpoint
from meshfs.exporter.rules.admission import LOCAL, Admission, AdmissionStage, Arrival
from meshfs.exporter.rules.turns import STRANGERS, newcomers_of
from meshfs.exporter.serving.doorstep import Doorstep, Guest
from meshfs.exporter.serving.flusher import Flusher
from meshfs.exporter.serving.link import Link
from meshfs.exporter.serving.reserve import Reserve
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.processor_flow import ProcessorFlow
from meshfs.loop import reactor
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport, enlarge_buffers

logger = logging.getLogger(__name__)

_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
_NO_ROOM: Final = (*_NO_DESCRIPTOR, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_RETRY_S: Final = 0.1
_UCRED: Final = struct.Struct("3i")


class Listener:
    """Serves all sockets and connections of one exporter. ``known`` are the addresses of the config's nodes."""

    def __init__(self, exporter: Exporter, sockets: Iterable[socket.socket], known: Iterable[str] = ()) -> None:
        self._exporter = exporter
        #: Each listening socket, and the scope whose cancelling ends accepting there.
        self._accepting = {listening: trio.CancelScope() for listening in sockets}
        self._nursery: trio.Nursery | None = None
        self._links: set[Link] = set()
        #: The links whose sockets have large buffers.
        self._enlarged: set[Link] = set()
        self._admission = Admission(known)
        self._doorstep: Doorstep | None = None
        self._reserve = Reserve()
        self._flusher = Flusher(exporter.batches, exporter.memory)
        self._reactor: reactor.Reactor | None = None

    @property
    def waiting(self) -> int:
        """Return how many connections there are on which nobody has logged in."""
        return self._admission.waiting

    @property
    def connections(self) -> int:
        """Return how many connections there are, with and without a login."""
        return len(self._links) + (len(self._doorstep) if self._doorstep is not None else 0)

    async def run(self) -> None:
        """Serve until cancelled. Then close all connections, which ends their sessions."""
        self._reactor = self._exporter.processor.loop = reactor.current()
        self._doorstep = Doorstep(self._admission, self._exporter.processor, self._begin, self._late)
        with self._reserve:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flusher.run, self._reactor)
                nursery.start_soon(self._doorstep.end_late)
                self._nursery = nursery
                for listening in self._accepting:
                    nursery.start_soon(self._accept, listening)
                await trio.sleep_forever()

    def listen(self, listening: socket.socket) -> None:
        """Accept at one more socket from now on."""
        assert self._nursery is not None, "sockets are added while it runs"
        self._accepting[listening] = trio.CancelScope()
        self._nursery.start_soon(self._accept, listening)

    def close(self, listening: socket.socket) -> None:
        """Close a listening socket. The connections that were accepted at it go on."""
        self._accepting.pop(listening).cancel()

    def know(self, addresses: Iterable[str]) -> None:
        """Take ``addresses`` as those of the config's nodes from now on."""
        for arrival in self._admission.know(addresses):
            self._end_for_another(arrival)

    def adopt(self, transport: Transport, host: str) -> None:
        """Serve a connection that was accepted elsewhere, over any kind of transport, within the same limits.

        ``host`` is the IP address that the connection comes from. Its time to log in begins now.
        """
        arrival, newcomers, ended = self._arrive(host)
        deadline_s = trio.current_time() + limits.UNAUTHENTICATED_TIMEOUT_S
        self._begin_link(Link(self._exporter, transport, deadline_s, newcomers), arrival)
        self._end_for_another(ended)

    def stop(self) -> None:
        """Accept and read nothing more. Replies are still sent."""
        for scope in self._accepting.values():
            scope.cancel()
        for link in list(self._links):
            link.stop_reading()

    async def sent_all(self) -> None:
        """Return when the transports have taken all replies."""
        while self._exporter.processor.turns.contended:
            # At each checkpoint the reactor has a round, in which it serves turns.
            await trio.lowlevel.checkpoint()
        for link in list(self._links):
            await link.sent_all()

    # --- accepting ---------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        with self._accepting[listening]:
            while True:
                await trio.lowlevel.wait_readable(listening.fileno())
                begun_s = time.monotonic()
                try:
                    more = self._accept_some(listening)
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise
                    self._exporter.count("accept_failures")
                    self._exporter.log.error(logger, "cannot accept a connection: %s", error.strerror)
                    if not self._make_room(listening, error):
                        await trio.sleep(_ACCEPT_RETRY_S)
                else:
                    if more:
                        # Accepting takes at most ACCEPT_SHARE of the time. The backlog keeps later connections.
                        await trio.sleep((time.monotonic() - begun_s) * (1 / limits.ACCEPT_SHARE - 1))
        if listening not in self._accepting:
            listening.close()

    def _accept_some(self, listening: socket.socket) -> bool:
        """Accept connections of the backlog. Return whether there may be more. Raises OSError."""
        now = trio.current_time()
        for _ in range(limits.ACCEPTS_PER_TURN):
            try:
                accepted, address = listening.accept()
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                return False
            self._admit(accepted, address, now)
        return True

    def _make_room(self, listening: socket.socket, error: OSError) -> bool:
        """End another connection for a newcomer, or turn the newcomer away. Return False if waiting is better."""
        if error.errno not in _NO_DESCRIPTOR:
            return False
        emptiest = self._admission.emptiest()
        if emptiest is not None:
            self._end_for_another(emptiest, "no file descriptor is left")
            return True
        self._exporter.count("connections_refused")
        self._reserve.turn_away(listening)
        return False

    def _admit(self, accepted: socket.socket, address: object, now: float) -> None:
        assert self._doorstep is not None
        accepted.setblocking(False)
        arrival, newcomers, ended = self._arrive(address[0] if isinstance(address, tuple) else LOCAL)
        self._doorstep.add(Guest(accepted, address, arrival, now, newcomers))
        self._end_for_another(ended)

    def _arrive(self, host: str) -> tuple[Arrival, ProcessorFlow, Arrival | None]:
        """Return the arrival of a connection, the flow that it is served in, and the arrival that is ended for it."""
        self._exporter.count("connections")
        arrival, ended = self._admission.arrive(host)
        flow = self._exporter.processor.turns.flow(newcomers_of(host) if arrival.is_known else STRANGERS)
        return arrival, flow, ended

    def _end_for_another(self, arrival: Arrival | None, why: str = "too many wait") -> None:
        if arrival is None:
            return
        # The arrival leaves now, although its connection ends a turn later. The next newcomer must get another place.
        self._admission.leave(arrival)
        exporter = self._exporter
        exporter.count("connections_ended")
        whose = arrival.address or "this machine"
        exporter.log.warning(logger, "a connection from %s without a login was ended for a newer one: %s", whose, why)
        arrival.end()

    def _late(self, guest: Guest) -> None:
        self._exporter.count("login_timeouts")
        remote = guest.arrival.address or "this machine"
        self._exporter.log.warning(
            logger, "%s: closed: it sent nothing within %g s", remote, limits.UNAUTHENTICATED_TIMEOUT_S
        )

    def _begin(self, guest: Guest) -> None:
        """Serve a connection, because its first bytes have come."""
        stream = guest.socket
        deadline = guest.accepted_s + limits.UNAUTHENTICATED_TIMEOUT_S
        transport = StreamTransport(stream, remote=_remote_text(stream, guest.address), enlarge=False)
        self._begin_link(Link(self._exporter, transport, deadline, guest.newcomers), guest.arrival, stream)

    def _begin_link(self, link: Link, arrival: Arrival, stream: socket.socket | None = None) -> None:
        assert self._nursery is not None, "connections are served while it runs"
        assert self._reactor is not None

        def reached(stage: AdmissionStage) -> None:
            if link.reached(stage):
                if stage is AdmissionStage.LOGGED_IN and stream is not None:
                    self._enlarge(link, stream)
                self._end_for_another(self._admission.advance(arrival, stage))

        link.peer.on_stage = reached
        arrival.end = link.end
        self._links.add(link)
        self._nursery.start_soon(self._serve, link, arrival)
        self._reactor.give_turn()

    def _enlarge(self, link: Link, stream: socket.socket) -> None:
        """Enlarge the buffers of a Unix socket, so that large replies fit, unless too many sockets have large ones."""
        enlarged = self._enlarged
        if stream.family == socket.AF_UNIX and link not in enlarged and len(enlarged) < limits.UNIX_SOCKETS_LARGE_MAX:
            enlarged.add(link)
            enlarge_buffers(stream)

    async def _serve(self, link: Link, arrival: Arrival) -> None:
        try:
            await link.run()
        except trio.Cancelled:
            raise
        except Exception:
            # An internal error must not end the other connections.
            self._exporter.count("internal_errors")
            logger.exception("%s: closed after an internal error", link.peer.remote)
        finally:
            self._links.discard(link)
            self._enlarged.discard(link)
            link.peer.on_stage = _ignored
            self._admission.leave(arrival)
            link.close()


def _remote_text(stream: socket.socket, address: object) -> str:
    """Return an address and a port as text, or the process at the other end of a Unix socket."""
    if stream.family == socket.AF_UNIX:
        pid, uid, _ = _UCRED.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return f"local process {pid} of user {uid}"
    assert isinstance(address, tuple)
    return format_endpoint(address[0], address[1])


def _ignored(_: AdmissionStage) -> None:
    """Do nothing, in place of ``on_stage``, once the connection has ended."""
