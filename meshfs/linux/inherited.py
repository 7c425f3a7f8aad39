"""What a process that runs for months must not keep of whoever started it.

A shell, cron, an automounter or an installer may start the program with standard streams
closed, with descriptors of its own left open, with signals blocked or ignored, in a folder
of a file system that is to be unmounted later. Each of these does harm long after the start:

    closed standard streams      the next file that is opened becomes descriptor 2, and error
                                 messages are written into it
    descriptors above 2          a lock (flock) stays taken, a pipe's reader never sees its end
    a blocked or ignored signal  SIGTERM does not arrive; SIGCHLD reports no child to wait for
    the current folder           its file system cannot be unmounted
    an umask of 0                everybody may write to the log file

Every descriptor that Python itself opens is closed on exec (PEP 446), so one that is not has
been inherited. None of them is wanted: nothing here is activated by a socket, and systemd's
notifications go to a path.
"""

import os
import signal
import sys
from typing import Final

#: The group and others never may write to a file that the process creates.
_UMASK: Final = 0o022
#: Signals whose inherited treatment is replaced by the default; Python sets its own for SIGPIPE and SIGXFSZ.
_RESET: Final = (signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


def open_standard_streams() -> None:
    """Let descriptors 0 to 2 that are closed be /dev/null; call it before anything else is opened."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lower ones are open by now, so open(2) returns this very number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has no stream for a descriptor that was closed when it started.
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def let_go_of_starter() -> None:
    """Give up everything else that was inherited; call it once the files named on the command line are read.

    A path such as /dev/fd/63 of the command line (a shell's process substitution) is valid until then.
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
    """All but the one that lists them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.append(int(name))
    return found
