"""Choose the engine for the disk I/O of this process.

io_uring costs least CPU time, but containers often forbid it. Linux AIO is the next choice. Threads always work.
"""

import logging
from collections.abc import Callable
from typing import Final

from meshfs.disk.base import Engine
from meshfs.disk.engines.aio import AioEngine
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.disk.engines.uring import UringEngine
from meshfs.errors import ConfigError

logger = logging.getLogger(__name__)

_ENGINES: Final[dict[str, Callable[[], Engine]]] = {
    "io_uring": UringEngine,
    "aio": AioEngine,
    "threads": ThreadEngine,
}

ENGINE_NAMES: Final = ("auto", *_ENGINES)


def choose_engine(name: str = "auto") -> Engine:
    """Create the named engine, or with ``auto`` the best engine that this kernel allows. Log its name and the refusals.

    Raises ConfigError if the named engine does not exist or cannot be used. Call this in the event loop's thread,
    after any fork into the background, because an engine belongs to the process and thread that created it.
    """
    if name not in ENGINE_NAMES:
        raise ConfigError(f"there is no I/O engine {name!r}, expected one of {', '.join(ENGINE_NAMES)}")
    refused = []
    for candidate in _ENGINES if name == "auto" else (name,):
        try:
            engine = _ENGINES[candidate]()
        except OSError as error:
            refused.append(f"{candidate}: {error.strerror or error}")
            if name != "auto":
                raise ConfigError(f"I/O engine {name} cannot be used: {error}") from error
            continue
        logger.info("disk I/O is done by %s%s", candidate, f" ({'; '.join(refused)})" if refused else "")
        return engine
    raise ConfigError(f"no I/O engine works: {'; '.join(refused)}")
