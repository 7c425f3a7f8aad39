"""The place where a process serves metrics to Prometheus: none, or an address that a reload may change."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio

Place = tuple[str, int]
#: Makes a snapshot of a process's document. It runs in the event loop.
Snapshot = Callable[[], Awaitable[Mapping[str, Any]]]


class ListeningServer(Protocol):
    """Listens at a place. The implementation (prometheus.py) loads a library that few processes need."""

    async def run(self) -> None:
        """Answer requests until cancelled."""

    def close(self) -> None: ...


class MetricsPlace:
    """Serves at the present place. ``open_server`` loads the library and listens at a place, or raises ConfigError."""

    def __init__(self, open_server: Callable[[Place], ListeningServer]) -> None:
        self._open_server = open_server
        self._place: Place | None = None
        self._server: ListeningServer | None = None
        self._retired: list[ListeningServer] = []
        self._serving = trio.CancelScope()

    def move_to(self, place: Place | None) -> None:
        """Listen at another place. If that is not possible, stay at the present place and raise ConfigError."""
        if place == self._place:
            return
        server = self._open_server(place) if place is not None else None
        if self._server is not None:
            # The old server's task may be waiting for its socket, so `run` closes it after that task has ended.
            self._retired.append(self._server)
        self._server, self._place = server, place
        self._serving.cancel()

    async def run(self) -> None:
        """Answer requests at the present place until cancelled. The place may change meanwhile."""
        while True:
            with trio.CancelScope() as self._serving:
                if self._server is not None:
                    await self._server.run()
                await trio.sleep_forever()
            self._close_retired()

    def close(self) -> None:
        self._close_retired()
        if self._server is not None:
            self._server.close()

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()
