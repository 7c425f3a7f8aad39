"""Callbacks of a transport that has no descriptor: the reactor makes them when there is something to call for."""

import logging
from collections.abc import Callable

from meshfs import bugs
from meshfs.loop import reactor

logger = logging.getLogger(__name__)


class Bell:
    """Calls back in the rounds of the reactor in which ``is_due()`` is true. `look` follows each change of that."""

    def __init__(self, is_due: Callable[[], bool]) -> None:
        #: Gets each exception that a callback raises.
        self.on_failure: Callable[[Exception], None] = _ignored
        self._is_due = is_due
        self._reactor = reactor.current()
        self._callback: Callable[[], None] | None = None
        self._is_once = False
        self._comes = False

    def always(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in each round in which it is due."""
        self._callback, self._is_once = callback, False
        self.look()

    def once(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it is due."""
        self._callback, self._is_once = callback, True
        self.look()

    def clear(self) -> None:
        """Forget the callback, so that it is not called."""
        self._callback = None

    def look(self) -> None:
        if self._callback is not None and not self._comes and self._is_due():
            self._comes = True
            self._reactor.soon(self._ring)

    def _ring(self) -> None:
        self._comes = False
        callback = self._callback
        if callback is None or not self._is_due():
            return
        if self._is_once:
            self._callback = None
        try:
            callback()
        except Exception as error:
            bugs.report(logger, "a callback of a transport", error)
            self.on_failure(error)
        self.look()


def _ignored(_: Exception) -> None:
    """Stands for ``on_failure`` where nobody watches."""
