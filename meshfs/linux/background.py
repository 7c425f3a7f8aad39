"""A command that returns when its service serves, and leaves the service in the background.

    command --fork--> middle --fork--> service        in the command's process group
       |                                  |           mount(2), every look at the mountpoint
       |                               setsid
       |<------------ one byte -----------|           0: it serves; else the exit status

The service stays in the process group and the session of the command until it serves. An
automounter (autofs, systemd's .automount) blocks whoever enters the mountpoint while it is
being mounted, except the process group that it started for that purpose. A service that had
left the group before mount(2) would wait for its own mount.

The service's standard error stays the command's until it serves, so that a message about a
failed start appears where the start was requested.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

Ready = Callable[[], None]


def run_in_background(work: Callable[[Ready], int], failure_status: int) -> int:
    """Run ``work(on_ready)`` in a child; the exit status for the command.

    0 once ``on_ready`` was called; else what ``work`` returned. ``failure_status`` when the child
    ended without either, or ended well without ever having served (a signal stopped it).
    Returns in the command only, never in the child.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        _become_service(work, writer, failure_status)
    os.close(writer)
    # Ctrl-C reaches the service too, whose answer is still to come.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = os.read(reader, 1)
    signal.signal(signal.SIGINT, before)
    os.close(reader)
    os.waitpid(middle, 0)
    if not answer:
        print("meshfs: the mount's process ended before it served", file=sys.stderr)
    return answer[0] if answer else failure_status


class _Answer:
    """The one byte, sent once: the fd's number is another file's afterwards."""

    def __init__(self, writer: int) -> None:
        self._writer: int | None = writer

    def send(self, status: int) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        # SIGPIPE is ignored by Python; a command that was killed meanwhile needs no answer.
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, bytes((status,)))
        os.close(writer)


def _become_service(work: Callable[[Ready], int], writer: int, failure_status: int) -> None:
    answer = _Answer(writer)
    status = failure_status
    try:
        if os.fork() != 0:
            os._exit(0)
        status = work(lambda: _detach(answer))
        answer.send(status or failure_status)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _detach(answer: _Answer) -> None:
    """Leave the command's session, let go of its terminal, and tell the command that it may return."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    answer.send(0)
