"""Accepts an exporter's connections, within limits, and ends them with it."""

import errno
import logging
import socket
import struct
from collections.abc import Iterable
from typing import Final

import trio

from meshfs import limits, reactor
from meshfs.endpoint import format_endpoint
from meshfs.exporter.exporter import Exporter
from meshfs.exporter.link import Link
from meshfs.transport.stream import tune

logger = logging.getLogger(__name__)

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_RETRY_S: Final = 0.1
_UCRED: Final = struct.Struct("3i")


class Listener:
    """All listening sockets and connections of one exporter."""

    def __init__(self, exporter: Exporter, sockets: Iterable[socket.socket]) -> None:
        self._exporter = exporter
        #: What ends the accepting at each listening socket.
        self._accepting = {listening: trio.CancelScope() for listening in sockets}
        self._nursery: trio.Nursery | None = None
        self._links: set[Link] = set()
        self._flusher: trio.lowlevel.Task | None = None
        self._reactor: reactor.Reactor | None = None
        exporter.on_dirty = self._flush_soon

    @property
    def unauthenticated(self) -> int:
        return sum(not link.logged_in for link in self._links)

    async def run(self) -> None:
        """Serve until cancelled; then all connections are closed and their sessions ended."""
        self._reactor = reactor.current()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_when_woken)
            self._nursery = nursery
            for listening in self._accepting:
                nursery.start_soon(self._accept, listening, nursery)
            await trio.sleep_forever()

    def listen(self, listening: socket.socket) -> None:
        """Accept at one more socket, from now on."""
        assert self._nursery is not None, "sockets are added while it runs"
        self._accepting[listening] = trio.CancelScope()
        self._nursery.start_soon(self._accept, listening, self._nursery)

    def close(self, listening: socket.socket) -> None:
        """Accept nothing more there, and close it; connections that came in at it go on."""
        self._accepting.pop(listening).cancel()

    def stop(self) -> None:
        """Accept and read nothing more; replies still go out."""
        for scope in self._accepting.values():
            scope.cancel()
        for link in list(self._links):
            link.stop_reading()

    async def sent_all(self) -> None:
        """Until all replies that are there were handed to the kernel."""
        for link in list(self._links):
            await link.sent_all()

    # --- accepting ---------------------------------------------------------------------

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        with self._accepting[listening]:
            await self._accept_all(listening, nursery)
        if listening not in self._accepting:
            listening.close()

    async def _accept_all(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listening.fileno())
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._exporter.count("accept_failures")
                logger.error("cannot accept a connection: %s", error.strerror)
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            self._admit(accepted, _remote_text(accepted, address), nursery)

    def _admit(self, accepted: socket.socket, remote: str, nursery: trio.Nursery) -> None:
        exporter = self._exporter
        if len(self._links) >= limits.CONNECTIONS_MAX or self.unauthenticated >= limits.CONNECTIONS_UNAUTHENTICATED_MAX:
            exporter.count("connections_refused")
            if exporter.log_limit.allows(exporter.clock()):
                logger.warning("%s: refused: too many connections", remote)
            accepted.close()
            return
        exporter.count("connections")
        accepted.setblocking(False)
        tune(accepted)
        link = Link(exporter, accepted, remote)
        self._links.add(link)
        nursery.start_soon(self._serve, link)

    async def _serve(self, link: Link) -> None:
        try:
            await link.run()
        except trio.Cancelled:
            raise
        except Exception:
            # A fault of ours must not take the other connections down.
            self._exporter.count("internal_errors")
            logger.exception("%s: closed after an internal error", link.peer.remote)
        finally:
            self._links.discard(link)
            link.close()

    # --- replies of completions --------------------------------------------------------

    def _flush_soon(self) -> None:
        """Replies wait: they leave at the end of the reactor's round, or of trio's turn."""
        if self._reactor is not None and self._reactor.in_round:
            self._reactor.defer(self._exporter.flush)
            return
        task, self._flusher = self._flusher, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _flush_when_woken(self) -> None:
        """Sends the replies of disk completions that a trio task delivered, once it is done."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._flusher = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
            self._exporter.flush()


def _remote_text(stream: socket.socket, address: object) -> str:
    """Who it is, for logs and status: address and port, or the process behind a Unix socket."""
    if stream.family == socket.AF_UNIX:
        pid, uid, _ = _UCRED.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return f"local process {pid} of user {uid}"
    assert isinstance(address, tuple)
    return format_endpoint(address[0], address[1])
