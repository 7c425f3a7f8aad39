"""Open, change and close the sockets at which an exporter listens.

A reload may change the TCP addresses, the port and the metrics' address. Existing connections stay. If the exporter
cannot listen at a new TCP address, it logs that and keeps all old ones, because an exporter without an address is
useless. The same holds for the metrics' address.
"""

import logging
import socket
from collections.abc import Callable

from meshfs.cluster.config_nodes import NodeConfig
from meshfs.errors import ConfigError
from meshfs.exporter.serving.listener import Listener
from meshfs.telemetry.metrics_place import MetricsPlace
from meshfs.transport.listening import listen_all, listen_tcp_at, listen_unix

logger = logging.getLogger(__name__)

#: A TCP address and a port.
Place = tuple[str, int]


class Places:
    """Holds all listening sockets of an exporter, for SMB, for the control protocol and for metrics."""

    def __init__(self, metrics: MetricsPlace) -> None:
        self.metrics = metrics
        self.control: socket.socket | None = None
        self._tcp: dict[Place, socket.socket] = {}
        self._unix: socket.socket | None = None
        self._remove: Callable[[], None] = _nothing

    @property
    def sockets(self) -> list[socket.socket]:
        """Return the listening sockets for SMB."""
        return [*self._tcp.values(), *([self._unix] if self._unix is not None else [])]

    def open(self, node: NodeConfig) -> None:
        """Listen at all places. Raises ConfigError. After an error, `close` closes the sockets opened so far."""
        *tcp, self._unix = listen_all(node.addresses, node.port, node.socket)
        self._tcp = dict(zip(_tcp_places(node), tcp, strict=True))
        self.control = listen_unix(node.control_socket)

        def remove() -> None:
            node.control_socket.unlink(missing_ok=True)
            node.socket.unlink(missing_ok=True)

        self._remove = remove
        self.metrics.move_to(node.metrics)

    def move(self, node: NodeConfig, listener: Listener) -> tuple[str, ...]:
        """Listen at the places of the new config. Return the names of the settings that could not be changed."""
        kept: list[str] = []
        try:
            self.metrics.move_to(node.metrics)
        except ConfigError as error:
            logger.error("metrics stay at their old address: %s", error)
            kept.append("metrics")
        wanted = _tcp_places(node)
        try:
            added = listen_tcp_at([place for place in wanted if place not in self._tcp])
        except ConfigError as error:
            logger.error("addresses and port stay unchanged: %s", error)
            return (*kept, "addresses", "port")
        gone = [self._tcp.pop(place) for place in list(self._tcp) if place not in wanted]
        self._tcp |= added
        for listening in added.values():
            listener.listen(listening)
        for listening in gone:
            listener.close(listening)
        return tuple(kept)

    def close(self) -> None:
        for listening in self.sockets:
            listening.close()
        self.metrics.close()
        if self.control is not None:
            self.control.close()
            self._remove()


def _tcp_places(node: NodeConfig) -> list[Place]:
    return [(address, node.port) for address in node.addresses]


def _nothing() -> None:
    """Do nothing, because no socket file exists before `Places.open`."""
