"""Run a service in the background. The command that starts the service returns as soon as the service is ready.

    command --fork--> middle --fork--> service        in the command's process group
       |                                  |           mount(2), every access to the mountpoint
       |                               setsid
       |<------------ one byte -----------|           0 if the service is ready, else the exit status

Until the service is ready, it stays in the process group and the session of the command. An automounter
(autofs, systemd's .automount) blocks every process that enters the mountpoint while the mount is in progress. Only the
process group that the automounter started for the mount may enter. A service that left the group before mount(2)
would therefore wait for its own mount.

Until then, the service also writes to the command's standard error. A message about a failed start thus appears where
the start was requested.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

#: The service calls this when it is ready.
Ready = Callable[[], None]


def run_in_background(work: Callable[[Ready], int], failure_status: int) -> int:
    """Run ``work(on_ready)`` in a child process and return the exit status for the command.

    As soon as ``work`` calls ``on_ready``, the status is 0. If ``work`` returns a value other than 0 without that call,
    the value is the status. In all other cases the status is ``failure_status``: if ``work`` returns 0 without that
    call, because a signal stopped the service, if it raises, or if the child is killed. This function returns in the
    command only, never in the child.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        _become_service(work, writer, failure_status)
    os.close(writer)
    # Ctrl-C also reaches the service. The command must still read the service's answer.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = os.read(reader, 1)
    signal.signal(signal.SIGINT, before)
    os.close(reader)
    os.waitpid(middle, 0)
    if not answer:
        print("meshfs: the mount's process ended before it served", file=sys.stderr)
    return answer[0] if answer else failure_status


class _Answer:
    """Sends one byte, the answer, to the command. No second answer is sent, because the first one closes the pipe."""

    def __init__(self, writer: int) -> None:
        self._writer: int | None = writer

    def send(self, status: int) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        # If the command was killed, nobody reads the answer. Python ignores SIGPIPE, so the write raises an error.
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
    """Leave the command's session, replace the standard streams by /dev/null, and send the command its answer."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    answer.send(0)
