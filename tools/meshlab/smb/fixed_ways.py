"""Fakes of `Ways` to an exporter, whose paths come from the test.

FixedWays    one path for each dialer, and no others
MadeUpWays   made-up interfaces and addresses, whose pairs all lead to one dialer
"""

import errno
from collections.abc import Awaitable, Callable, Sequence

import trio

from meshfs import limits
from meshfs.initiator.remote.plan import Path
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface
from meshfs.transport.base import Transport

#: Connects. Raises OSError if that fails.
Dialer = Callable[[], Awaitable[Transport]]


class FixedWays:
    """Ways without local interfaces, as if the kernel chose the route."""

    def __init__(self, dialers: Sequence[Dialer], *, asks: bool = False) -> None:
        #: True if the initiator queries the exporter's interfaces. No dialer leads to the advertised addresses.
        self.asks = asks
        self.remotes = tuple(Remote(f"way-{index}") for index in range(len(dialers)))
        self._dialers = dict(zip((remote.address for remote in self.remotes), dialers, strict=True))

    def locals(self) -> Sequence[Interface]:
        return ()

    async def dial(self, path: Path) -> Transport:
        return await self._dialers[path.remote.address]()


class MadeUpWays:
    """Leads all paths to one dialer. After a change of ``interfaces``, call the session's ``interfaces_changed``."""

    def __init__(
        self, dialer: Dialer, interfaces: Sequence[Interface], remotes: Sequence[Remote], *, asks: bool = False
    ) -> None:
        self.interfaces = list(interfaces)
        self.remotes = tuple(remotes)
        self.asks = asks
        #: Addresses of the exporter that cannot be reached.
        self.broken: set[str] = set()
        #: Addresses that drop everything, so that dialling times out.
        self.silent: set[str] = set()
        #: The paths dialled so far.
        self.dialled: list[Path] = []
        self._dialer = dialer

    def locals(self) -> Sequence[Interface]:
        return tuple(self.interfaces)

    async def dial(self, path: Path) -> Transport:
        self.dialled.append(path)
        if path.remote.address in self.broken:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if path.remote.address in self.silent:
            await trio.sleep(limits.CONNECT_TIMEOUT_S)
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        return await self._dialer()
