"""Reset what a long-running process inherits from its parent: descriptors, signals, current folder and umask.

The program may be started by a shell, cron, an automounter or an installer. Such a parent may have closed the standard
streams, left its own descriptors open, or blocked or ignored signals. Its current folder may be on a file system that
must be unmounted later. Each of these does harm long after the start:

    closed standard streams      the next file that is opened becomes descriptor 2, and error
                                 messages are written into it
    descriptors above 2          a lock (flock) stays taken, a pipe's reader never sees its end
    a blocked or ignored signal  SIGTERM does not arrive; SIGCHLD reports no child to wait for
    the current folder           its file system cannot be unmounted
    a umask of 0                 everybody may write to the log file

Python marks every descriptor that it opens as closed on exec (PEP 446). A descriptor without that mark was therefore
inherited. The program needs none of them: it uses no socket activation, and it sends systemd's notifications to a
path.
"""

import os
import signal
import sys
from typing import Final

#: The group and others must never be able to write to a file that the process creates.
_UMASK: Final = 0o022
#: Signals that are reset to their default action. Python sets actions of its own for SIGPIPE and SIGXFSZ.
_RESET: Final = (signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


def open_standard_streams() -> None:
    """Open /dev/null as each of the descriptors 0 to 2 that is closed. Call this before any file is opened."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # All lower descriptors are open now, so open(2) returns exactly this number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has no stream for a descriptor that was closed when it started.
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  # it stays open


def let_go_of_starter() -> None:
    """Close inherited descriptors, and reset the current folder, the umask and the signals.

    Call this after the files named on the command line have been read. A path such as /dev/fd/63 (a shell's process
    substitution) names an inherited descriptor, and is invalid afterwards.
    """
    for descriptor in _open_descriptors():
        if descriptor > 2 and os.get_inheritable(descriptor):
            os.close(descriptor)
    os.chdir("/")
    os.umask(os.umask(_UMASK) | _UMASK)
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _open_descriptors() -> list[int]:
    """Return the open descriptors, without the one that was used to list them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.append(int(name))
    return found
