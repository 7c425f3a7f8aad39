"""Ask each source again and again, in a separate thread.

If the process of a mount is stuck, the thread that asks the mount hangs in open(2) for ever. So a source is not asked
again before it has answered, and the other sources are asked meanwhile.
"""

import threading
import time
from collections.abc import Callable

from meshctl.rates import Reading
from meshctl.sources import Answer
from meshfs.limits import CONTROL_TIMEOUT_S
from meshfs.telemetry.fields import Fields


class Watcher:
    """Asks one source in a thread, which ends with the process.

    ``ask`` may block. The thread calls ``ring`` after every answer. ``silent_code`` is the code of the problem as long
    as the source does not answer.
    """

    def __init__(self, source: str, ask: Callable[[], Answer], ring: Callable[[], None], silent_code: str) -> None:
        self.source = source
        self._silent_code = silent_code
        self._ask = ask
        self._ring = ring
        self._go = threading.Semaphore(0)
        self._asked_at_s: float | None = None
        self._latest: Reading | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self) -> None:
        """Ask, unless the answer to an earlier request has not come yet."""
        if self._asked_at_s is None:
            self._asked_at_s = time.monotonic()
            self._go.release()

    def settled(self) -> bool:
        """Return whether the source has answered, or has not answered in time."""
        asked_at_s = self._asked_at_s
        return asked_at_s is None or time.monotonic() - asked_at_s >= CONTROL_TIMEOUT_S

    def reading(self) -> Reading:
        """Return the last answer. If the source does not answer, return the reason instead."""
        asked_at_s, latest, now_s = self._asked_at_s, self._latest, time.monotonic()
        if asked_at_s is None and latest is not None:
            return latest
        waited_s = now_s - (now_s if asked_at_s is None else asked_at_s)
        why = f"no answer for {waited_s:.0f} s; its process may be stuck"
        return Reading(Answer(self.source, Fields(None), why, self._silent_code), now_s)

    def _run(self) -> None:
        while True:
            self._go.acquire()
            answer = self._ask()
            self._latest = Reading(answer, time.monotonic())
            self._asked_at_s = None
            self._ring()
