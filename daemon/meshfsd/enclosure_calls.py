"""Call an enclosure in a thread, one call after the other, each within a time limit.

The exporter's state asks for a reading or hands over a control page, and gets a callback (`EnclosureDevice`). While a
call is stuck, every further call fails at once, so that at most one thread is stuck per enclosure.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from meshfs import bugs, limits
from meshfs.enclosure.base import Enclosure, EnclosureReading
from meshfs.errors import TookTooLong
from meshfs.exporter.state.offered_enclosure import ControlDone, ReadingDone
from meshfs.loop.bounded import Bounded

logger = logging.getLogger(__name__)

#: Gets each reading, or the error if the enclosure could not be read. It is called before the caller's own callback.
Took = Callable[[EnclosureReading | OSError], None]


@dataclass(frozen=True, slots=True)
class _Call:
    """Holds a call that waits for its turn. ``done`` gets the result."""

    function: Callable[[], EnclosureReading | None]
    done: Callable[[EnclosureReading | OSError | None], None]


class EnclosureCalls:
    """Calls one enclosure. It is the `EnclosureDevice` of the exporter's state. Calls are made while `run` runs."""

    def __init__(self, enclosure: Enclosure, took: Took) -> None:
        self.enclosure = enclosure
        self._took = took
        self._bounded = Bounded(f"enclosure {enclosure.name}")
        self._waiting: deque[_Call] = deque()
        self._wanted = trio.Event()
        self._closed = False
        self._reading_waits = False

    def read(self, then: ReadingDone) -> None:
        self._read(self.enclosure.read, then)

    def _read(self, function: Callable[[], EnclosureReading], then: ReadingDone) -> None:
        def done(result: EnclosureReading | OSError | None) -> None:
            assert result is not None
            self._took(result)
            then(result)

        self._add(_Call(function, done))

    def control(self, page: bytes, then: ControlDone) -> None:
        def done(result: EnclosureReading | OSError | None) -> None:
            then(result if isinstance(result, OSError) else None)

        self._add(_Call(lambda: self.enclosure.control(page), done))

    def poke(self) -> None:
        """Have the enclosure read soon. Many calls before that reading cause only one."""
        if not self._reading_waits and not self._closed:
            self._reading_waits = True
            self.read(_nobody)

    def poll(self) -> None:
        """Have the enclosure polled, unless a call waits already."""
        if not self._waiting and not self._closed:
            self._read(self.enclosure.poll, _nobody)

    def do(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the enclosure's thread. Its errors are logged."""

        def done(result: EnclosureReading | OSError | None) -> None:
            if isinstance(result, OSError):
                logger.warning("enclosure %s: %s", self.enclosure.name, result.strerror or result)

        self._add(_Call(function, done))

    async def run(self) -> None:
        """Make the calls until `close`, then close the device."""
        while not self._closed:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._waiting:
                self._reading_waits = False
                call = self._waiting.popleft()
                self._finish(call, await self._result(call))
        await self._close()

    async def _close(self) -> None:
        """Close the device as soon as no earlier call is stuck in it. Otherwise its descriptor would stay open."""
        while True:
            try:
                await self._bounded.call(self.enclosure.close, timeout_s=limits.ENCLOSURE_CALL_TIMEOUT_S)
            except TookTooLong:
                await trio.sleep(limits.ENCLOSURE_CLOSE_RETRY_S)
            except OSError as error:
                logger.warning("enclosure %s: closing it failed: %s", self.enclosure.name, error.strerror or error)
                return
            else:
                return

    def close(self) -> None:
        """Fail the calls that wait. `run` then closes the device and ends."""
        self._closed = True
        waiting, self._waiting = list(self._waiting), deque()
        for call in waiting:
            self._finish(call, _error(errno.ENODEV))
        self._wanted.set()

    def _add(self, call: _Call) -> None:
        if self._closed:
            self._finish(call, _error(errno.ENODEV))
            return
        self._waiting.append(call)
        self._wanted.set()

    async def _result(self, call: _Call) -> EnclosureReading | OSError | None:
        try:
            return await self._bounded.call(call.function, timeout_s=limits.ENCLOSURE_CALL_TIMEOUT_S)
        except TookTooLong:
            return _error(errno.ETIMEDOUT)
        except OSError as error:
            return error
        except Exception as error:
            bugs.report(logger, f"a call of enclosure {self.enclosure.name}", error)
            return _error(errno.EIO)

    def _finish(self, call: _Call, result: EnclosureReading | OSError | None) -> None:
        try:
            call.done(result)
        except Exception as error:
            bugs.report(logger, f"the answer of enclosure {self.enclosure.name}", error)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _nobody(_: EnclosureReading | OSError) -> None:
    """Do nothing with a reading that only renews the announcement."""
