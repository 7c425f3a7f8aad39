"""Find the problems in a process's own status document, and log each problem once when it begins and when it ends.

    document --find--> problems --difference to the last look--> one log line each

Each look also notes the counters, because some rules use their growth within the last minute (recent.py).
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from meshfs import limits
from meshfs.telemetry.fields import printable
from meshfs.telemetry.problems import Problem, Severity
from meshfs.telemetry.recent import Recent

logger = logging.getLogger(__name__)

Document = Mapping[str, Any]
_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.NOTE: logging.INFO}


class ProblemLog:
    """Logs the problems that began or ended between one look and the next."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Problem] = {}

    def take(self, problems: list[Problem]) -> None:
        found = {(problem.code, problem.subject): problem for problem in problems}
        for key, problem in found.items():
            if key not in self._known:
                logger.log(_LEVELS[problem.severity], "problem %s: %s", problem.code, problem.line)
        for key, problem in self._known.items():
            if key not in found:
                logger.info("problem %s has ended: %s", problem.code, printable(problem.subject))
        self._known = found


class ProblemWatch:
    """Watches one process. ``counts`` returns its counters by group ("disk_errors", ...), ``problems`` its problems."""

    def __init__(
        self,
        counts: Callable[[], Mapping[str, Mapping[str, int]]],
        problems: Callable[[], Awaitable[list[Problem]]],
    ) -> None:
        self._counts = counts
        self._problems = problems
        self._recent: dict[str, Recent] = {}
        self._log = ProblemLog()

    def recent(self, group: str) -> dict[str, int]:
        """Return how much each counter of a group grew within the last minute, for the status document."""
        return self._recent[group].grown() if group in self._recent else {}

    def note(self, now: float) -> None:
        for group, counts in self._counts().items():
            if group not in self._recent:
                self._recent[group] = Recent(limits.PROBLEMS_WINDOW_S)
            self._recent[group].note(now, counts)

    async def run(self) -> None:
        """Look for problems from time to time, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(limits.PROBLEMS_LOOK_S)

    async def look(self) -> None:
        self.note(trio.current_time())
        try:
            self._log.take(await self._problems())
        except Exception:
            # A bug in a rule must not end the I/O of a node.
            logger.exception("cannot look for problems")
