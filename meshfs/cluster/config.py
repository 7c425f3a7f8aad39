"""The cluster's config file: the meaning of its keys, and the combinations that are allowed.

config_nodes.py has the nodes and their disks, and config_scheduler.py has the shares of the scheduler.

The file is the same on every node. So this module does not check whether a disk or a key exists on this machine. The
node that owns the disk or key checks that.

Relative paths are relative to the folder of the file itself. If CONFIG is a symbolic link, this is the folder of the
link's target. mount(8) resolves the link before meshfs sees the path, so no other rule can hold for all commands.
"""

import errno
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshfs.cluster.config_nodes import NodeConfig, read_name, read_nodes
from meshfs.cluster.config_scheduler import ANY_DISK, SCHEDULER_KEYS, Scheduler, check_scheduler, read_scheduler
from meshfs.cluster.config_text import Source, Table
from meshfs.errors import ConfigError
from meshfs.limits import (
    CHANNEL_DEAD_AFTER_MIN_S,
    CHANNEL_DEAD_AFTER_S,
    CHANNEL_SILENCE_MAX_S,
    CHANNELS_PER_PATH,
    CHANNELS_PER_PATH_MAX,
    IO_TIMEOUT_MAX_S,
    IO_TIMEOUT_MIN_S,
    IO_TIMEOUT_S,
)
from meshfs.model import Security
from meshfs.scheduler.decide.policy import DiskPolicy

_ROOT_KEYS: Final = ("cluster", "multichannel", "scheduler", "node")
CLUSTER_KEYS: Final = ("name", "keys", "security", "io_timeout_s")
MULTICHANNEL_KEYS: Final = ("channels", "dead_after_s")


@dataclass(frozen=True)
class Cluster:
    """Holds the values of [cluster]."""

    name: str
    keys: Path
    security: Security
    io_timeout_s: float


@dataclass(frozen=True)
class Multichannel:
    """Holds the values of [multichannel].

    ``channels`` is the number of channels per pair of interfaces. A channel that is silent for ``dead_after_s`` while
    others answer is closed.
    """

    channels: int = CHANNELS_PER_PATH
    dead_after_s: float = CHANNEL_DEAD_AFTER_S


@dataclass(frozen=True)
class Config:
    """Holds a whole config.

    ``path`` is the file itself. ``given`` is the absolute path by which the file was read, which may be a link. A
    reload reads ``given`` again, because the link may lead to another file by then. ``digest`` is equal for files with
    the same keys and values, whatever their comments, order and place.
    """

    path: Path
    cluster: Cluster
    nodes: tuple[NodeConfig, ...]
    scheduler: Scheduler
    multichannel: Multichannel = Multichannel()
    given: Path = Path()
    digest: str = ""

    @cached_property
    def _nodes_by_name(self) -> dict[str, NodeConfig]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _bare_policies(self) -> dict[str, DiskPolicy]:
        """Return the policy of each disk (OWNER/NAME) without [scheduler]: nodes' weights and the disk's limits.

        OWNER/* stands for the discovered disks and the images of a node, whose names are not in the config.
        """
        weights = MappingProxyType({node.name: float(node.weight) for node in self.nodes})
        discovered = {f"{node.name}/{ANY_DISK}": DiskPolicy(weights=weights) for node in self.nodes if node.finds_disks}
        return discovered | {
            f"{node.name}/{disk.name}": DiskPolicy(
                limit_iops=disk.limit_iops, limit_bytes_per_s=disk.limit_bytes_per_s, weights=weights
            )
            for node in self.nodes
            for disk in node.disks
        }

    def node(self, name: str) -> NodeConfig:
        """Return the node of that name. Raises ConfigError if the config has none."""
        try:
            return self._nodes_by_name[name]
        except KeyError:
            known = ", ".join(self._nodes_by_name)
            raise ConfigError(f"{self.path}: there is no node {name!r}; the nodes are {known}") from None

    def node_of_host(self, host: str) -> NodeConfig:
        """Return the node with the host's name, ignoring case. Either name may be with or without its domain.

        An equal name is preferred. Names with different domains never match. For example, host "n1.example" matches
        node "n1", and host "n1" matches node "n1.example". Raises ConfigError for no such node, or for several.
        """
        wanted = host.casefold()
        known = {node.name.casefold(): node for node in self.nodes}
        if wanted in known:
            return known[wanted]
        label, _, domain = wanted.partition(".")
        same = [node for name, node in known.items() if name == label or (not domain and name.startswith(f"{label}."))]
        if len(same) == 1:
            return same[0]
        found = f"nodes {', '.join(node.name for node in same)} are" if same else "no node is"
        raise ConfigError(f"{self.path}: {found} named as this host ({host}); give the name of this host's node")

    def own_node(self, name: str | None) -> NodeConfig:
        """Return the node of that name. If no name is given, return this host's node. Raises ConfigError."""
        return self.node(name) if name else self.node_of_host(socket.gethostname())

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(self._nodes_by_name)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses of all nodes."""
        return tuple(address for node in self.nodes for address in node.addresses)

    def policy(self, node: str, disk: str) -> DiskPolicy:
        """Return the policy for the scheduler of a node's disk. Raises ConfigError if the node cannot have the disk."""
        name = f"{node}/{disk}"
        bare = self._bare_policies.get(name) or self._bare_policies.get(f"{node}/{ANY_DISK}")
        if bare is None:
            raise ConfigError(f"{self.path}: there is no disk {name!r}")
        return self.scheduler.policy(name, bare)

    def processor_policy(self) -> DiskPolicy:
        """Return the policy by which exporters share their processor.

        It has the weights of nodes, and the flows that apply to every disk.
        """
        weights = MappingProxyType({node.name: float(node.weight) for node in self.nodes})
        return self.scheduler.policy("", DiskPolicy(weights=weights))


def load(path: Path | str) -> Config:
    """Read and check the file. Raises ConfigError, whose text names the file, line and key."""
    given = Path(path).absolute()
    path = _real(given)
    source = Source(path)
    root = Table(source, (), source.root, _ROOT_KEYS)
    if "cluster" not in root:
        root.fail("cluster", "missing, expected a table with the cluster's name")
    cluster = _cluster(root.table("cluster", CLUSTER_KEYS))
    scheduler_table = root.table("scheduler", SCHEDULER_KEYS)
    scheduler = read_scheduler(scheduler_table)
    nodes = read_nodes(root)
    multichannel = _multichannel(root.table("multichannel", MULTICHANNEL_KEYS))
    config = Config(path, cluster, nodes, scheduler, multichannel, given, source.digest())
    check_scheduler(scheduler_table, scheduler, config.node_names, config._bare_policies)
    return config


def _real(given: Path) -> Path:
    """Return the path without symbolic links. Raises ConfigError for links that form a loop."""
    try:
        return given.resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{given}: cannot read the config: {os.strerror(errno.ELOOP)}") from error


def _cluster(table: Table) -> Cluster:
    return Cluster(
        name=read_name(table),
        keys=table.path("keys", "keys"),
        security=table.choice("security", Security, Security.SIGN),
        io_timeout_s=table.number("io_timeout_s", IO_TIMEOUT_S, IO_TIMEOUT_MIN_S, IO_TIMEOUT_MAX_S),
    )


def _multichannel(table: Table) -> Multichannel:
    return Multichannel(
        channels=table.integer("channels", CHANNELS_PER_PATH, 1, CHANNELS_PER_PATH_MAX),
        dead_after_s=table.number(
            "dead_after_s", CHANNEL_DEAD_AFTER_S, CHANNEL_DEAD_AFTER_MIN_S, CHANNEL_SILENCE_MAX_S
        ),
    )
