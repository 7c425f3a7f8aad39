"""The facts about a process that are in the status documents of both programs."""

import errno
import os
import resource

from meshfs import __version__
from meshfs.telemetry.documents import Descriptors, ProcessFacts


def process_facts() -> ProcessFacts:
    return {"program": __version__, "pid": os.getpid(), "descriptors": descriptors()}


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of open descriptors to ``wanted``, or as far as the hard limit allows. Return the limit.

    The usual soft limit of 1024 exists for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def descriptors() -> Descriptors:
    """Return the number of open file descriptors, and their limit (RLIMIT_NOFILE, systemd's LimitNOFILE=)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The listing itself used one descriptor, which is closed again.
        used = len(os.listdir("/proc/self/fd")) - 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # No descriptor is left for the listing. The status must still be available then, so count all as used.
        used = soft
    return {"used": used, "limit": soft}
