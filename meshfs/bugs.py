"""Exceptions that nobody expects: what failed ends, is logged and counted, and everything else goes on.

Each place that calls foreign code from the event loop catches what it raises and reports it here. The traceback
is logged once for each place and kind of exception, as a fault in a hot path would fill the log.
"""

import logging

_seen: dict[tuple[str, type[BaseException]], int] = {}


def report(logger: logging.Logger, what: str, error: BaseException) -> None:
    """Log that ``what`` failed with ``error``, and count it."""
    kind = (what, type(error))
    _seen[kind] = _seen.get(kind, 0) + 1
    first = _seen[kind] == 1
    logger.error("internal error: %s failed: %r", what, error, exc_info=error if first else None)


def count() -> int:
    """How many were reported since the process started."""
    return sum(_seen.values())
