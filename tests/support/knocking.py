"""A process that keeps connections to an exporter open, and reopens each one as soon as the exporter ends it.

    python knocking.py HOST PORT idle|trickle|negotiate COUNT [SOURCE]

The process prints "ready" when COUNT connections have been opened once. It goes on until its standard input ends, and
then prints how many connections it opened.
"""

import errno
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: A NEGOTIATE of SMB 3.0.2 without any context that costs its sender work.
NEGOTIATE = (
    (102).to_bytes(4, "big")
    + b"\xfeSMB"
    + bytes((64, 0))
    + bytes(6)
    + bytes((0, 0, 1, 0))
    + bytes(48)
    + bytes((36, 0, 1, 0, 1, 0, 0, 0, 0x44, 0, 0, 0))
    + bytes(24)
    + bytes((2, 3))
)


@contextmanager
def knocking(host: str, port: int, kind: str, count: int, source: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start the process, and return it when it has opened all its connections once."""
    arguments = [sys.executable, __file__, host, str(port), kind, str(count), source]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def main() -> None:
    host, port, kind, count, source = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    epoll, alive = select.epoll(), {}
    opened, ready = 0, False
    epoll.register(0, select.EPOLLIN)
    while True:
        while len(alive) < count:
            connection = connect(host, port, source)
            if connection is None:
                break
            alive[connection.fileno()] = connection
            epoll.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            opened += 1
        if opened >= count and not ready:
            ready = True
            print("ready", flush=True)
        for fd, event in epoll.poll(0.001 if len(alive) < count else 1, 4096):
            if fd == 0:
                print(opened, flush=True)
                return
            connection = alive[fd]
            try:
                if event & (select.EPOLLHUP | select.EPOLLERR):
                    raise ConnectionResetError
                if event & select.EPOLLIN and not connection.recv(65536):
                    raise EOFError
                if event & select.EPOLLOUT and kind != "idle":
                    connection.send(NEGOTIATE if kind == "negotiate" else NEGOTIATE[:1])
            except BlockingIOError:
                pass
            except (OSError, EOFError):
                connection.close()
                del alive[fd]


def connect(host: str, port: int, source: str) -> socket.socket | None:
    """Return a connection, or None if this process has no free port or descriptor for the moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if source:
            connection.bind((source, 0))
        number = connection.connect_ex((host, port))
    except OSError as error:
        number = error.errno or 0
    if number not in (0, errno.EINPROGRESS):
        connection.close()
        return None
    return connection


if __name__ == "__main__":
    main()
