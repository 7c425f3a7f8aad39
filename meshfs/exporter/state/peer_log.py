"""Counts what peers do for the metrics, and logs it within limits, so that no peer can fill the log."""

import logging
from collections import Counter
from collections.abc import Callable

from meshfs import limits
from meshfs.exporter.rules.log_limit import LogLimit


class PeerLog:
    """Keeps the counters and the log lines of one exporter. A line beyond its limit is counted and not logged.

    Lines about permitted events have a limit of their own. A node that logs in again and again must not use up the
    limit of the lines about errors of peers.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong = LogLimit(limits.PEER_LOG_LINES_PER_S, limits.PEER_LOG_LINES_BURST)
        self._right = LogLimit(limits.PEER_LOG_LINES_PER_S, limits.PEER_LOG_LINES_BURST)
        self.counters: Counter[str] = Counter()

    def count(self, what: str) -> None:
        """Add one to the counter of that name. The metrics and the status show the counters."""
        self.counters[what] += 1

    def error(self, by: logging.Logger, text: str, *arguments: object) -> None:
        """Log by the logger ``by`` that the exporter could not serve peers."""
        self._log(self._wrong, by, logging.ERROR, text, arguments)

    def warning(self, by: logging.Logger, text: str, *arguments: object) -> None:
        """Log by the logger ``by`` that a peer did something wrong, or was refused something."""
        self._log(self._wrong, by, logging.WARNING, text, arguments)

    def info(self, by: logging.Logger, text: str, *arguments: object) -> None:
        """Log by the logger ``by`` something that a node did and may do."""
        self._log(self._right, by, logging.INFO, text, arguments)

    def _log(self, limit: LogLimit, by: logging.Logger, level: int, text: str, arguments: tuple[object, ...]) -> None:
        if limit.allows(self._clock()):
            by.log(level, text, *arguments)
        else:
            self.count("log_lines_held_back")
