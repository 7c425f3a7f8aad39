"""Blocking calls that are given up after a bound, with the thread that is stuck in one left behind.

A path of the config may lead into a file system whose server does not answer, and a device may be in error
handling for minutes: open(2), stat(2) or close(2) of it then wait in the kernel, and nothing ends that wait. So
such a call is made in a thread, and its caller goes on without it after the bound.

    bounded   one call. What it gives after its bound is handed to ``late``, which frees it
    Bounded   calls about one thing, such as one disk: while the thread of an earlier one is stuck, a further call
              fails at once, so that no more than one thread is stuck for each thing
"""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from meshfs import limits
from meshfs.errors import TookTooLong

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# More threads than are ever needed: even with one stuck call for each disk, every other call finds a thread.
_THREADS: Final = trio.CapacityLimiter(2 * limits.DISKS_PER_NODE_MAX)


def _keep(result: Any) -> None:
    """Nothing has to be freed."""


class _Call(Generic[Result]):
    """One call in a thread, which may be abandoned from outside."""

    def __init__(self, function: Callable[[], Result], late: Callable[[Result], object]) -> None:
        self._function = function
        self._late = late
        self._lock = threading.Lock()
        self._abandoned = False
        self._outcome: outcome.Outcome[Result] | None = None

    def run(self) -> None:
        """In the thread."""
        came = outcome.capture(self._function)
        with self._lock:
            self._outcome = came
        if self._abandoned and isinstance(came, outcome.Value):
            self._late(came.value)

    @property
    def ended(self) -> bool:
        return self._outcome is not None

    def abandon(self) -> bool:
        """Leave the thread to itself; False when the call has ended, so that its result must be taken."""
        with self._lock:
            self._abandoned = self._outcome is None
            return self._abandoned

    def result(self) -> Result:
        """What the call, which has ended, gave or raised."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    def discard(self) -> None:
        """Free what the call, which has ended, gave: in a thread, as that may block."""
        if isinstance(self._outcome, outcome.Value):
            threading.Thread(target=self._late, args=(self._outcome.value,), daemon=True).start()


class Bounded:
    """Calls about one thing, which ``what`` names for people."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._stuck: _Call[Any] | None = None

    @property
    def stuck(self) -> bool:
        """Whether the thread of an earlier call still waits."""
        if self._stuck is not None and self._stuck.ended:
            logger.info("%s: answers again", self.what)
            self._stuck = None
        return self._stuck is not None

    async def call(
        self,
        function: Callable[..., Result],
        *arguments: object,
        timeout_s: float,
        late: Callable[[Result], object] = _keep,
    ) -> Result:
        """The result of ``function``. Raises what it raises, and TookTooLong after ``timeout_s``.

        A cancelled call is abandoned in the same way: ``late`` gets what it gives.
        """
        if self.stuck:
            raise TookTooLong("an earlier call has not been answered yet")
        call = _Call(partial(function, *arguments), late)
        try:
            with trio.move_on_after(timeout_s):
                # Never raises, so that a late end of it has nobody to tell.
                await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=_THREADS)
        except BaseException:
            if not self._abandon(call):
                call.discard()
            raise
        if not self._abandon(call):
            return call.result()
        logger.warning(
            "%s: did not answer within %g s; the thread that waits for it is left behind", self.what, timeout_s
        )
        raise TookTooLong(f"did not answer within {timeout_s:g} s")

    def _abandon(self, call: _Call[Any]) -> bool:
        if not call.abandon():
            return False
        self._stuck = call
        return True


async def bounded(
    what: str,
    function: Callable[..., Result],
    *arguments: object,
    timeout_s: float,
    late: Callable[[Result], object] = _keep,
) -> Result:
    """A single call of `Bounded.call`."""
    return await Bounded(what).call(function, *arguments, timeout_s=timeout_s, late=late)
