"""Coroutines that are resumed by whoever has their answer, without trio in between.

Serving one small read takes microseconds; making a trio task of it, or only waking one, takes
as long again. A worker is a coroutine that is stepped directly:

    resume, throw      run it, at once, up to its next ``await``; what it yields tells why:
        PARKED           somebody (a request in flight) keeps the worker and will resume it
        Trap.IDLE        it is done with one piece of work; its owner resumes it with the next
        Trap.TRIO        it is about to await something of trio's: its owner continues it by
                         ``run_in_trio`` as part of a task, until it is idle again

``running`` is the worker being resumed now, None in any trio task: by it, code that serves
both knows where it is. A worker that is to await anything but ``park`` must first await
``enter_trio``, which does nothing in a trio task.
"""

import enum
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol

import trio


class Trap(enum.Enum):
    IDLE = "idle"
    TRIO = "trio"


PARKED: Final = None


class Worker:
    """One coroutine; runs nothing before the first ``resume()``."""

    __slots__ = ("_coroutine", "_owner")

    def __init__(self, coroutine: Coroutine[Any, Any, None], owner: "Owner") -> None:
        self._coroutine = coroutine
        self._owner = owner

    def resume(self, value: object = None) -> None:
        """Go on with ``value``; never raises."""
        self._step(self._coroutine.send, value)

    def throw(self, error: BaseException) -> None:
        """Go on with ``error``; never raises."""
        self._step(self._coroutine.throw, error)

    def _step(self, step: Callable[[Any], object], argument: object) -> None:
        global running
        outer, running = running, self
        try:
            trap = step(argument)
        except StopIteration:
            running = outer
            self._owner.ended(self, None)
        except BaseException as error:
            running = outer
            self._owner.ended(self, error)
        else:
            running = outer
            if trap is Trap.IDLE:
                self._owner.idle(self)
            elif trap is Trap.TRIO:
                self._owner.wants_trio(self)

    async def run_in_trio(self) -> None:
        """Go on as part of the calling trio task until idle again, or ended."""
        error: BaseException | None = None
        try:
            idle = await self._relay()
        except trio.Cancelled:
            raise
        except BaseException as raised:
            idle, error = False, raised
        if idle:
            self._owner.idle(self)
        else:
            self._owner.ended(self, error)

    @types.coroutine
    def _relay(self) -> Generator[Any, Any, bool]:
        """Pass on what the coroutine yields to trio, and trio's answers to it; True when idle."""
        step: Any = self._coroutine.send
        value: Any = None
        while True:
            try:
                trap = step(value)
            except StopIteration:
                return False
            if trap is Trap.IDLE:
                return True
            try:
                value = yield trap
                step = self._coroutine.send
            except BaseException as error:
                step, value = self._coroutine.throw, error

    def close(self) -> None:
        """End a worker that will not be resumed any more."""
        self._coroutine.close()


class Owner(Protocol):
    """Who starts workers."""

    def idle(self, worker: Worker) -> None: ...

    def wants_trio(self, worker: Worker) -> None: ...

    def ended(self, worker: Worker, error: BaseException | None) -> None: ...


running: Worker | None = None


@types.coroutine
def park() -> Generator[Any, Any, Any]:
    """Wait to be resumed; only in a running worker that somebody knows of."""
    return (yield PARKED)


@types.coroutine
def idle() -> Generator[Any, Any, None]:
    """Wait for the next piece of work."""
    yield Trap.IDLE


@types.coroutine
def _leave() -> Generator[Any, Any, None]:
    yield Trap.TRIO


async def enter_trio() -> None:
    """Whatever follows may await trio's."""
    if running is not None:
        await _leave()
