"""Where meshctl's truth comes from: the status file of a mount, the control socket of an exporter.

Neither may hang the asker: a mount whose process is stuck blocks open(2) for good, so each
answer is waited for a bounded time.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from meshfs import config as cluster_config
from meshfs.errors import ConfigError
from meshfs.fields import Fields
from meshfs.limits import CONTROL_TIMEOUT_S, STATUS_MAX_BYTES
from meshfs.mountinfo import MOUNTINFO, read_mounts

# Where systemd's unit expects it.
CONFIG_DEFAULT: Final = Path("/etc/meshfs/cluster.toml")
STATUS_FILE: Final = ".meshfs/status"
STATUS_VERSION: Final = 1

T = TypeVar("T")


#: Codes of problems: why there is no answer.
NOT_ALLOWED: Final = "not-allowed"
MOUNT_DEAD: Final = "mount-dead"
MOUNT_STUCK: Final = "mount-stuck"
MOUNT_SILENT: Final = "mount-silent"
EXPORTER_STOPPED: Final = "exporter-stopped"
EXPORTER_SILENT: Final = "exporter-silent"


class NoAnswer(Exception):
    """A mount or an exporter did not tell how it is; the text says why."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Answer:
    """What one mount or exporter said, or why it said nothing."""

    source: str
    fields: Fields
    error: str = ""
    #: The code of the error as a problem.
    code: str = ""


def mount_points(mountinfo: Path = MOUNTINFO) -> list[Path]:
    """Where meshes are mounted, in the order of their mounting."""
    return list(dict.fromkeys(Path(mount.point) for mount in read_mounts(mountinfo) if mount.is_mesh))


def ask_mounts(chosen: list[Path]) -> list[Answer]:
    """The status of the chosen mounts, or of all there are. Raises ConfigError when there are none."""
    points = chosen or mount_points()
    if not points:
        raise ConfigError("no mesh is mounted here; mount one, or name an exporter with --config and --node")
    return [answer_of(str(point), partial(read_mount, point)) for point in points]


def ask_exporter(config_path: str, node: str | None) -> Answer:
    """The status of the exporter of the node (None: the one named as this host) on this machine.

    Raises ConfigError for a bad config and for a node it does not have.
    """
    config = cluster_config.load(config_path)
    return exporter(config, config.own_node(node).name).ask({"verb": "status"})


@dataclass(frozen=True)
class Exporter:
    """Where a node's exporter on this machine answers."""

    node: str
    control_socket: Path

    @property
    def source(self) -> str:
        return f"{self.node} at {self.control_socket}"

    def ask(self, request: Mapping[str, object]) -> Answer:
        return answer_of(self.source, partial(read_control, self.control_socket, request), EXPORTER_SILENT)


def exporter(config: cluster_config.Config, node: str) -> Exporter:
    """Raises ConfigError for a node the config does not have."""
    return Exporter(node, config.node(node).control_socket)


def exporters_here(config_path: Path, nodes: Sequence[str]) -> list[Exporter]:
    """The chosen nodes' exporters, or those of the config that run on this machine.

    Raises ConfigError for a bad config, an unknown node, and when there is none to ask.
    """
    if nodes:
        config = cluster_config.load(config_path)
        return [exporter(config, node) for node in dict.fromkeys(nodes)]
    found = exporters_running(config_path)
    if not found:
        raise ConfigError(f"{config_path}: none of its exporters runs on this machine")
    return found


def exporters_running(config_path: Path) -> list[Exporter]:
    """Those of the config whose control socket exists on this machine. Raises ConfigError for a bad config."""
    config = cluster_config.load(config_path)
    found = [exporter(config, node.name) for node in config.nodes]
    return [item for item in found if os.path.lexists(item.control_socket)]


def read_mount(point: Path, timeout_s: float = CONTROL_TIMEOUT_S) -> Fields:
    """Raises NoAnswer."""
    return within(timeout_s, partial(read_mount_unbounded, point))


def read_mount_unbounded(point: Path) -> Fields:
    """For a thread of its own, as a stuck mount blocks it for good. Raises NoAnswer."""
    path = point / STATUS_FILE
    try:
        return _parse(_read_file(path))
    except FileNotFoundError as error:
        raise NoAnswer(f"{point} is not a mounted mesh") from error
    except PermissionError as error:
        raise NoAnswer("only root may see the status of this mount", NOT_ALLOWED) from error
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            text = f"its process died; umount {point} and mount it again, and see its log for the reason"
            raise NoAnswer(text, MOUNT_DEAD) from error
        raise NoAnswer(f"{path}: {error.strerror or error}") from error


def read_control(path: Path, request: Mapping[str, object], timeout_s: float = CONTROL_TIMEOUT_S) -> Fields:
    """One line of JSON each way. Raises NoAnswer."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            return _parse(_receive_line(connection, deadline))
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {timeout_s:g} s") from error
        except FileNotFoundError as error:
            raise NoAnswer("the exporter is not running; start meshfsd for this node", EXPORTER_STOPPED) from error
        except ConnectionRefusedError as error:
            text = "the exporter is not running; it ended without removing its socket, see its log"
            raise NoAnswer(text, EXPORTER_STOPPED) from error
        except PermissionError as error:
            raise NoAnswer("only root may ask the exporter", NOT_ALLOWED) from error
        except OSError as error:
            raise NoAnswer(error.strerror or str(error)) from error


def within(timeout_s: float, work: Callable[[], T]) -> T:
    """Do the work in a thread that is left behind when it takes too long.

    A signal does not end an open(2) that a FUSE process is to answer; the end of this process
    does, and daemon threads do not delay it.
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


def answer_of(source: str, ask: Callable[[], Fields], code: str = MOUNT_SILENT) -> Answer:
    """What was said, or why nothing was; ``code`` is the problem where the reason has none of its own."""
    try:
        return Answer(source, ask())
    except NoAnswer as error:
        return Answer(source, Fields(None), str(error), error.code or code)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(STATUS_MAX_BYTES + 1)


def _receive_line(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= STATUS_MAX_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part:
            break
        received += part
    return bytes(received)


def _parse(data: bytes) -> Fields:
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
