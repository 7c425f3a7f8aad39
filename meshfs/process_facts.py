"""What a process tells of itself in its status document, whichever of the two programs it is."""

import errno
import os
import resource
from typing import Any

from meshfs import __version__


def process_facts() -> dict[str, Any]:
    return {"program": __version__, "pid": os.getpid(), "descriptors": descriptors()}


def descriptors() -> dict[str, int]:
    """How many file descriptors are open, and how many may be (RLIMIT_NOFILE, systemd's LimitNOFILE=)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The listing has a descriptor of its own, which is gone again.
        used = len(os.listdir("/proc/self/fd")) - 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # None is left for the listing, and just then the status has to be told.
        used = soft
    return {"used": used, "limit": soft}
