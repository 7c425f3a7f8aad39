"""Blocking calls with a time limit: when a call exceeds it, the caller continues and the stuck thread is abandoned.

A path of the config may lead into a file system whose server does not respond, and a device may be in error
handling for minutes. open(2), stat(2) or close(2) then wait in the kernel, and nothing can end that wait. Such a
call is therefore made in a thread, and its caller continues without the result after the time limit.

    bounded   makes one call. A result that comes after the time limit is passed to ``late``, which frees it
    Bounded   makes calls about one subject, such as one disk. While the thread of an earlier call is stuck, a
              further call fails at once, so that at most one thread is stuck per subject
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

# More threads than are ever needed: even with one stuck call per disk, a thread is free for every other call.
_THREADS: Final = trio.CapacityLimiter(2 * limits.DISKS_PER_NODE_MAX)


def _keep(result: Any) -> None:
    """Free nothing: the default ``late``, for results that hold no resource."""


class _Call(Generic[Result]):
    """Makes one call in a thread. The thread of the event loop may abandon the call."""

    def __init__(self, function: Callable[[], Result], late: Callable[[Result], object]) -> None:
        self._function = function
        self._late = late
        self._lock = threading.Lock()
        self._abandoned = False
        self._outcome: outcome.Outcome[Result] | None = None

    def run(self) -> None:
        """Make the call, in the thread. Its result is freed here if the call was abandoned meanwhile."""
        came = outcome.capture(self._function)
        with self._lock:
            self._outcome = came
        if self._abandoned and isinstance(came, outcome.Value):
            self._late(came.value)

    @property
    def ended(self) -> bool:
        return self._outcome is not None

    def abandon(self) -> bool:
        """Abandon the call. Return False if it has ended already: the caller must then take or discard its result."""
        with self._lock:
            self._abandoned = self._outcome is None
            return self._abandoned

    def result(self) -> Result:
        """Return the result of a call that has ended, or raise its exception."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    def discard(self) -> None:
        """Free the result of a call that has ended. Freeing may block, and so is done in a thread."""
        if isinstance(self._outcome, outcome.Value):
            threading.Thread(target=self._late, args=(self._outcome.value,), daemon=True).start()


class Bounded:
    """Makes calls about one subject. ``what`` names the subject in log lines."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._stuck: _Call[Any] | None = None

    @property
    def stuck(self) -> bool:
        """Return whether the thread of an earlier, abandoned call still waits in the kernel."""
        if self._stuck is not None and self._stuck.ended:
            logger.info("%s answers again", self.what)
            self._stuck = None
        return self._stuck is not None

    async def call(
        self,
        function: Callable[..., Result],
        *arguments: object,
        timeout_s: float,
        late: Callable[[Result], object] = _keep,
    ) -> Result:
        """Return the result of ``function``; re-raise its exception.

        Raises TookTooLong after ``timeout_s``, or at once while the thread of an earlier call is stuck. If the
        caller is cancelled, the call is also abandoned, and ``late`` gets its result.
        """
        if self.stuck:
            raise TookTooLong("an earlier call has not been answered yet")
        call = _Call(partial(function, *arguments), late)
        try:
            with trio.move_on_after(timeout_s):
                # `run` never raises: trio could report an exception of an abandoned thread to nobody.
                await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=_THREADS)
        except BaseException:
            if not self._abandon(call):
                call.discard()
            raise
        if not self._abandon(call):
            return call.result()
        logger.warning(
            "%s did not answer within %g s; the thread that waits for the answer is left behind", self.what, timeout_s
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
    """Make a single call with a time limit, as `Bounded.call` does."""
    return await Bounded(what).call(function, *arguments, timeout_s=timeout_s, late=late)
