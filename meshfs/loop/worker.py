"""A worker is a coroutine that the code with its answer resumes directly, without trio's scheduler in between.

Theory. Serving one small read takes some microseconds. Starting a trio task for it, or only waking one, would take
as long again. A worker is therefore stepped by plain calls. Each step runs the coroutine at once, up to its next
``await``, and the coroutine yields the reason why it stopped:

    resume, throw      run one step, with a value or an exception
        PARKED           a request in flight holds the worker and resumes it with the answer
        Trap.IDLE        the worker has finished one piece of work; its owner resumes it with the next one
        Trap.TRIO        the worker is about to await a function of trio; its owner calls ``run_in_trio``
                         in a trio task, which runs the worker until it is idle again

``running`` is the worker that is being resumed now, and None in any trio task. Code that serves both looks at
``running`` to find out where it runs. Before a worker awaits anything but ``park``, it must await ``enter_trio``,
which does nothing in a trio task.
"""

import enum
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol, TypeVar

import trio


class Trap(enum.Enum):
    """Says why a worker stopped, if no request in flight holds it."""

    IDLE = "idle"
    TRIO = "trio"


PARKED: Final = None

W_contra = TypeVar("W_contra", contravariant=True)


class WorkerOwner(Protocol[W_contra]):
    """Declares the code that starts workers. Its methods are called when a worker stops."""

    def idle(self, worker: W_contra) -> None: ...

    def wants_trio(self, worker: W_contra) -> None: ...

    def ended(self, worker: W_contra, error: BaseException | None) -> None: ...


class Worker:
    """Steps one coroutine, which does not run before the first ``resume()``."""

    __slots__ = ("_coroutine", "_owner")

    def __init__(self, coroutine: Coroutine[Any, Any, None], owner: WorkerOwner["Worker"]) -> None:
        self._coroutine = coroutine
        self._owner = owner

    def resume(self, value: object = None) -> None:
        """Continue the coroutine: its ``await`` returns ``value``. Never raises; the owner gets any exception."""
        self._step(self._coroutine.send, value)

    def throw(self, error: BaseException) -> None:
        """Continue the coroutine: its ``await`` raises ``error``. Never raises; the owner gets any exception."""
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
        """Run the worker inside the calling trio task until it is idle again or has ended."""
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
        """Pass the traps of the coroutine to trio, and trio's answers back. Return False if the coroutine has ended.

        Return True if the worker is idle.
        """
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


running: Worker | None = None


@types.coroutine
def park() -> Generator[Any, Any, Any]:
    """Wait to be resumed. Only a running worker may call it, and a request in flight must hold the worker.

    Otherwise nothing would ever resume it.
    """
    return (yield PARKED)


@types.coroutine
def idle() -> Generator[Any, Any, None]:
    """Report to the owner that this piece of work is done, and wait for the next one."""
    yield Trap.IDLE


@types.coroutine
def _leave() -> Generator[Any, Any, None]:
    yield Trap.TRIO


async def enter_trio() -> None:
    """Move the worker into a trio task, so that the code that follows may await trio's functions."""
    if running is not None:
        await _leave()
