"""An event of trio that happens again and again, for tasks that wait for a change of shared state."""

import trio


class Stir:
    """Wakes all tasks that wait at the moment of a stir. A later waiter waits for the next stir."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def stir(self) -> None:
        stirred, self._event = self._event, trio.Event()
        stirred.set()

    async def wait(self) -> None:
        await self._event.wait()
