"""The sources of meshctl's figures: the status file of each mount, and the control socket of each exporter.

If the process of a mount is stuck, open(2) of the mount's status file blocks for ever. So meshctl waits for each answer
only for a limited time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from meshfs.cluster import config as cluster_config
from meshfs.errors import ConfigError
from meshfs.linux.mountinfo import MOUNTINFO, read_mounts
from meshfs.program.control_client import (
    EXPORTER_SILENT,
    MOUNT_SILENT,
    NOT_ALLOWED,
    NoAnswer,
    read_control,
    read_mount,
    read_mount_unbounded,
    within,
)
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.records import Record

# The path at which the systemd units expect the config.
CONFIG_DEFAULT: Final = Path("/etc/meshfs/cluster.toml")
NO_MOUNT: Final = "no mesh is mounted on this machine; mount one, or name an exporter with --config and --node"

__all__ = [
    "CONFIG_DEFAULT",
    "EXPORTER_SILENT",
    "NOT_ALLOWED",
    "NO_MOUNT",
    "Answer",
    "LocalExporter",
    "NoAnswer",
    "answer_of",
    "ask_exporter",
    "ask_mounts",
    "exporter",
    "exporters_here",
    "exporters_running",
    "mount_points",
    "read_control",
    "read_mount",
    "read_mount_unbounded",
    "within",
]


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Answer:
    """Holds the answer of one mount or exporter, or the reason why there is none."""

    source: str
    fields: Fields
    error: str = ""
    #: The code of the problem that `error` describes. It is empty if there is no error.
    code: str = ""

    def read(self, kind: type[R]) -> R:
        """Return the answer as a record of that kind. If there is no answer, all fields of the record are empty."""
        return kind(self.fields.raw)


def mount_points(mountinfo: Path = MOUNTINFO) -> list[Path]:
    """Return the mount points of all meshes, in the order of their mounting."""
    return list(dict.fromkeys(Path(mount.point) for mount in read_mounts(mountinfo) if mount.is_mesh))


def ask_mounts(chosen: list[Path]) -> list[Answer]:
    """Ask the chosen mounts, or all mounts if none is chosen, for their status. Raises ConfigError without a mount."""
    points = chosen or mount_points()
    if not points:
        raise ConfigError(NO_MOUNT)
    return [answer_of(str(point), partial(read_mount, point)) for point in points]


def ask_exporter(config_path: str, node: str | None) -> Answer:
    """Ask the exporter of a node on this machine for its status. Without ``node``, the node has the host's name.

    Raises ConfigError for a bad config, and for a node that the config does not have.
    """
    config = cluster_config.load(config_path)
    return exporter(config, config.own_node(node).name).ask({"verb": "status"})


@dataclass(frozen=True)
class LocalExporter:
    """Asks a node's exporter on this machine, at its control socket."""

    node: str
    control_socket: Path

    @property
    def source(self) -> str:
        return f"{self.node} at {self.control_socket}"

    def ask(self, request: Mapping[str, object]) -> Answer:
        return answer_of(self.source, partial(read_control, self.control_socket, request), EXPORTER_SILENT)


def exporter(config: cluster_config.Config, node: str) -> LocalExporter:
    """Return the exporter of a node. Raises ConfigError for a node that the config does not have."""
    return LocalExporter(node, config.node(node).control_socket)


def exporters_here(config_path: Path, nodes: Sequence[str]) -> list[LocalExporter]:
    """Return the exporters of the chosen nodes. If none is chosen, return those that run on this machine.

    Raises ConfigError for a bad config, for an unknown node, and if no exporter of the config runs here.
    """
    if nodes:
        config = cluster_config.load(config_path)
        return [exporter(config, node) for node in dict.fromkeys(nodes)]
    found = exporters_running(config_path)
    if not found:
        raise ConfigError(f"{config_path}: no exporter of this config runs on this machine; start meshfsd here")
    return found


def exporters_running(config_path: Path) -> list[LocalExporter]:
    """Return the config's exporters whose control socket is on this machine. Raises ConfigError for a bad config."""
    config = cluster_config.load(config_path)
    found = [exporter(config, node.name) for node in config.nodes]
    return [item for item in found if os.path.lexists(item.control_socket)]


def answer_of(source: str, ask: Callable[[], Fields], code: str = MOUNT_SILENT) -> Answer:
    """Call ``ask``. Return its answer, or the reason why there is none.

    ``code`` is the code of the problem if the reason has no code of its own.
    """
    try:
        return Answer(source, ask())
    except NoAnswer as error:
        return Answer(source, Fields(None), str(error), error.code or code)
