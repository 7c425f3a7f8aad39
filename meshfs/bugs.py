"""Reports of unexpected exceptions, which are bugs of meshfs.

An unexpected exception ends only the operation that raised it. It is logged and counted, and everything else goes on.
Therefore each place that calls other code from the event loop catches every exception and reports it here.

The traceback is logged once for each place and kind of exception. Otherwise a bug in a hot path would fill the log.
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
    """Return how many unexpected exceptions were reported since the process started."""
    return sum(_seen.values())
