"""Send requests to a running mount or exporter, and never wait for ever.

A mount whose process is stuck blocks open(2) for ever, and an exporter may not answer. So each wait is bounded.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from meshfs.errors import MeshfsError
from meshfs.limits import CONTROL_TIMEOUT_S, STATUS_MAX_BYTES
from meshfs.telemetry.fields import Fields

STATUS_FILE: Final = ".meshfs/status"

T = TypeVar("T")

#: The codes of the problems that meshctl reports if there is no answer.
NOT_ALLOWED: Final = "not-allowed"
MOUNT_DEAD: Final = "mount-dead"
MOUNT_STUCK: Final = "mount-stuck"
MOUNT_SILENT: Final = "mount-silent"
EXPORTER_STOPPED: Final = "exporter-stopped"
EXPORTER_SILENT: Final = "exporter-silent"


class NoAnswer(MeshfsError):
    """A mount or an exporter did not answer. The text gives the reason, and ``code`` the problem that it means."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


def read_control(
    path: Path, request: Mapping[str, object], timeout_s: float = CONTROL_TIMEOUT_S, *, who: str = "the exporter"
) -> Fields:
    """Send one request and return the answer. Raises NoAnswer, whose text calls the process ``who``."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            return parse_answer(_receive_line(connection, deadline))
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {timeout_s:g} s") from error
        except FileNotFoundError as error:
            raise NoAnswer(f"{who} is not running", EXPORTER_STOPPED) from error
        except ConnectionRefusedError as error:
            text = f"{who} is not running; it ended without removing its socket, see its log"
            raise NoAnswer(text, EXPORTER_STOPPED) from error
        except PermissionError as error:
            raise NoAnswer(f"only root may ask {who}", NOT_ALLOWED) from error
        except OSError as error:
            raise NoAnswer(error.strerror or str(error)) from error


def read_mount(point: Path, timeout_s: float = CONTROL_TIMEOUT_S) -> Fields:
    """Return the status document of the mount at ``point``. Raises NoAnswer."""
    return within(timeout_s, partial(read_mount_unbounded, point))


def read_mount_unbounded(point: Path) -> Fields:
    """Return the status document of the mount at ``point``. Raises NoAnswer. A stuck mount blocks the call for ever."""
    path = point / STATUS_FILE
    try:
        return parse_answer(_read_file(path))
    except FileNotFoundError as error:
        raise NoAnswer(f"{point} is not a mounted mesh") from error
    except PermissionError as error:
        why = "another user mounted it without allow_other, or a folder above it is closed to others"
        raise NoAnswer(f"this user may not look into {point}: {why}", NOT_ALLOWED) from error
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            text = f"its process died; umount {point} and mount it again, and see its log for the reason"
            raise NoAnswer(text, MOUNT_DEAD) from error
        raise NoAnswer(f"{path}: {error.strerror or error}") from error


def within(timeout_s: float, work: Callable[[], T]) -> T:
    """Do the work in a thread, and abandon the thread if it takes longer than ``timeout_s``. Raises NoAnswer.

    A signal does not interrupt an open(2) that waits for a FUSE process. Only the end of this process does. The thread
    is daemonic, so it does not delay that end.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise NoAnswer(f"no answer within {timeout_s:g} s; its process may be stuck", MOUNT_STUCK)
    return results[0]


def _receive_line(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= STATUS_MAX_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part:
            break
        received += part
    return bytes(received)


def parse_answer(data: bytes) -> Fields:
    if len(data) > STATUS_MAX_BYTES:
        raise NoAnswer(f"its answer is larger than {STATUS_MAX_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoAnswer(f"its answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise NoAnswer("its answer is not a status")
    fields = Fields(value)
    if error_text := fields.text("error"):
        raise NoAnswer(error_text)
    return fields


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(STATUS_MAX_BYTES + 1)
