"""Ways to an exporter that a test makes up: each dialer is a path of its own, and there are no others."""

from collections.abc import Awaitable, Callable, Sequence

from meshfs.initiator.multichannel import Path, Remote
from meshfs.interfaces import Interface
from meshfs.transport.base import Transport

#: Connects; OSError when it cannot.
Dialer = Callable[[], Awaitable[Transport]]


class FixedWays:
    """``locals_`` may be changed by the test, which then calls ``interfaces_changed``."""

    def __init__(self, dialers: Sequence[Dialer], *, asks: bool = False) -> None:
        #: What the exporter tells cannot be reached, as no dialer leads there.
        self.asks = asks
        self.remotes = tuple(Remote(f"way-{index}") for index in range(len(dialers)))
        self._dialers = dict(zip((remote.address for remote in self.remotes), dialers, strict=True))

    def locals(self) -> Sequence[Interface]:
        return ()

    async def dial(self, path: Path) -> Transport:
        return await self._dialers[path.remote.address]()
