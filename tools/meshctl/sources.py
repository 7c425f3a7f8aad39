"""Where meshctl's truth comes from: the status file of a mount, the control socket of an exporter.

Neither may hang the asker: a mount whose process is stuck blocks open(2) for good, so each
answer is waited for a bounded time.
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

# Where systemd's unit expects it.
CONFIG_DEFAULT: Final = Path("/etc/meshfs/cluster.toml")
NO_MOUNT: Final = "no mesh is mounted here; mount one, or name an exporter with --config and --node"

__all__ = [
    "CONFIG_DEFAULT",
    "EXPORTER_SILENT",
    "NOT_ALLOWED",
    "NO_MOUNT",
    "Answer",
    "Exporter",
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
    """What one mount or exporter said, or why it said nothing."""

    source: str
    fields: Fields
    error: str = ""
    #: The code of the error as a problem.
    code: str = ""

    def read(self, kind: type[R]) -> R:
        """Return the answer as a record of that kind. Where there is no answer, all of the record reads as empty."""
        return kind(self.fields.raw)


def mount_points(mountinfo: Path = MOUNTINFO) -> list[Path]:
    """Return where meshes are mounted, in the order of their mounting."""
    return list(dict.fromkeys(Path(mount.point) for mount in read_mounts(mountinfo) if mount.is_mesh))


def ask_mounts(chosen: list[Path]) -> list[Answer]:
    """Ask the chosen mounts, or all there are, for their status. Raises ConfigError when there are none."""
    points = chosen or mount_points()
    if not points:
        raise ConfigError(NO_MOUNT)
    return [answer_of(str(point), partial(read_mount, point)) for point in points]


def ask_exporter(config_path: str, node: str | None) -> Answer:
    """Ask the exporter of the node (None: the one named as this host) on this machine for its status.

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
    """Return where the node's exporter answers. Raises ConfigError for a node that the config does not have."""
    return Exporter(node, config.node(node).control_socket)


def exporters_here(config_path: Path, nodes: Sequence[str]) -> list[Exporter]:
    """Return the chosen nodes' exporters, or those of the config that run on this machine.

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
    """Return those of the config whose control socket is on this machine. Raises ConfigError for a bad config."""
    config = cluster_config.load(config_path)
    found = [exporter(config, node.name) for node in config.nodes]
    return [item for item in found if os.path.lexists(item.control_socket)]


def answer_of(source: str, ask: Callable[[], Fields], code: str = MOUNT_SILENT) -> Answer:
    """Return the answer, or why there is none; ``code`` is the problem where the reason has no code of its own."""
    try:
        return Answer(source, ask())
    except NoAnswer as error:
        return Answer(source, Fields(None), str(error), error.code or code)
