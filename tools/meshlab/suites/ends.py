"""Both ends of a connection, for the suites of transports, and waiting for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from meshfs.loop import reactor
from meshfs.transport.base import OutQueue, Transport

KIB: Final = 1024
MIB: Final = 1024 * KIB
#: How long a test waits for an event that must happen, and for an event that must not happen.
MUST_S: Final = 20
MUST_NOT_S: Final = 0.05

End = TypeVar("End", bound=Transport, covariant=True)


@dataclass(frozen=True)
class Pair(Generic[End]):
    """Both ends of one connection. ``reset`` breaks it as a dying host would, so that ``ours`` sees an error."""

    ours: End
    theirs: End
    reset: Callable[[], None]

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(MUST_S):
        while not condition():  # noqa: ASYNC110 - nobody calls back for it
            await trio.sleep(0.001)


async def receivable(transport: Transport) -> None:
    """Return when the transport has something to receive."""
    event = trio.Event()

    def come() -> None:
        transport.unwatch()
        wake(event)

    transport.watch(come, fail)
    try:
        await event.wait()
    finally:
        transport.unwatch()


async def is_receivable(transport: Transport) -> bool:
    """Return whether the transport has something to receive now, or soon."""
    with trio.move_on_after(MUST_NOT_S) as scope:
        await receivable(transport)
    return not scope.cancelled_caught


async def room(queue: OutQueue) -> None:
    """Return when the transport takes more."""
    event = trio.Event()
    queue.when_room(lambda: wake(event))
    await event.wait()


def wake(event: trio.Event) -> None:
    event.set()
    reactor.current().give_turn()


def fail(error: Exception) -> None:
    raise AssertionError("a callback of the suite failed") from error
