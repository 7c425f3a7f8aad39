"""A command that returns when its service serves, and leaves the service in the background.

    command --fork--> middle (new session) --fork--> service
       |<------------------ one byte ----------------------|   0: it serves; else the exit status

The service's standard error stays the command's until it serves, so that what goes wrong at
the start is seen where it was started.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Callable

Ready = Callable[[], None]


def run_in_background(work: Callable[[Ready], int], failure_status: int) -> int:
    """Run ``work(on_ready)`` in a child; the exit status for the command.

    0 once ``on_ready`` was called; else what ``work`` returned; ``failure_status`` when the
    child ended without either. Returns in the command only, never in the child.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        _become_service(work, writer, failure_status)
    os.close(writer)
    answer = os.read(reader, 1)
    os.close(reader)
    os.waitpid(middle, 0)
    if not answer:
        print("meshfs: the mount's process ended before it served", file=sys.stderr)
    return answer[0] if answer else failure_status


def _become_service(work: Callable[[Ready], int], writer: int, failure_status: int) -> None:
    answer = _Answer(writer)
    status = failure_status
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.chdir("/")
        status = work(lambda: _detach(answer))
        answer.send(status)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _detach(answer: "_Answer") -> None:
    """Tell the command that it may return, and let go of its terminal."""
    answer.send(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


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


def notify_systemd(state: str) -> None:
    """sd_notify(3): a datagram to the service manager, when there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(state.encode(), address)
