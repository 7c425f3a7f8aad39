"""What a process tells of itself in its status document, whichever of the two programs it is."""

import errno
import os
import resource

from meshfs import __version__
from meshfs.telemetry.documents import Descriptors, ProcessFacts


def process_facts() -> ProcessFacts:
    return {"program": __version__, "pid": os.getpid(), "descriptors": descriptors()}


def raise_descriptor_limit(wanted: int) -> int:
    """Have the kernel allow so many descriptors, or as many as an administrator lets this process have. Returns them.

    The usual soft limit of 1024 is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def descriptors() -> Descriptors:
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
