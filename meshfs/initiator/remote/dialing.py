"""Reach an exporter: list the ends of possible paths, and make a transport between two of them.

The node's own exporter is only reached by its Unix socket. Another node's exporter is reached by TCP. The near ends are
the interfaces with the addresses that the config gives this node. If this machine has none of these addresses, the
kernel chooses the route. The far ends are the addresses of the config, and those that the exporter advertises.
"""

from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Final, Protocol

from meshfs.initiator.remote.plan import Path
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface
from meshfs.transport.base import Transport
from meshfs.transport.stream import connect_tcp, connect_unix

#: The interface of addresses that are reached without a network.
_LOOPBACK: Final = "lo"


class Ways(Protocol):
    """Says how one exporter may be reached."""

    @property
    def remotes(self) -> Sequence[Remote]:
        """Return the exporter's addresses that are known before it advertises any."""

    @property
    def asks(self) -> bool:
        """Return whether to ask the exporter for more addresses than ``remotes``."""

    def locals(self) -> Sequence[Interface]:
        """Return the interfaces of this machine that may be used, as they are now."""

    async def dial(self, path: Path) -> Transport:
        """Connect the two ends of the path. Raises OSError if that fails or takes CONNECT_TIMEOUT_S."""


class UnixWay:
    """Reaches the node's own exporter by its Unix socket."""

    asks = False

    def __init__(self, socket: FilePath) -> None:
        self.remotes = (Remote(str(socket)),)
        self._socket = socket

    def locals(self) -> Sequence[Interface]:
        return ()

    async def dial(self, path: Path) -> Transport:
        return await connect_unix(self._socket)


class TcpWays:
    """Reaches an exporter over all pairs of interfaces. ``interfaces`` gives those of this machine as they are now."""

    asks = True

    def __init__(
        self,
        addresses: Sequence[str],
        port: int,
        own_addresses: Sequence[str],
        interfaces: Callable[[], Sequence[Interface]],
    ) -> None:
        self.remotes = tuple(Remote(address) for address in addresses)
        self._port = port
        self._own = frozenset(own_addresses)
        self._interfaces = interfaces

    def locals(self) -> Sequence[Interface]:
        return [interface for interface in self._interfaces() if str(interface.address.ip) in self._own]

    async def dial(self, path: Path) -> Transport:
        local = path.local
        if local is None:
            return await connect_tcp(path.remote.address, self._port)
        here = any(str(other.address.ip) == path.remote.address for other in self._interfaces())
        device = local.name if path.ambiguous and not here and local.name != _LOOPBACK else ""
        return await connect_tcp(path.remote.address, self._port, str(local.address.ip), device)
