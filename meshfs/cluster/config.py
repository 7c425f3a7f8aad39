"""The cluster's config file: the meaning of its keys, and the combinations that are allowed.

The file is the same on every node. So this module does not check whether a disk or a key exists on this machine. The
node that owns the disk or key checks that.

Relative paths are relative to the folder of the file itself. If CONFIG is a symbolic link, this is the folder of the
link's target. mount(8) resolves the link before meshfs sees the path, so no other rule can hold for all commands.
"""

import base64
import binascii
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from meshfs.cluster.config_scheduler import SCHEDULER_KEYS, Scheduler, check_scheduler, read_scheduler
from meshfs.cluster.config_text import Source, Table
from meshfs.endpoint import format_endpoint, parse_address, parse_endpoint
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
    NODE_WEIGHT_MAX,
    SCRATCH_SIZE_MAX_BYTES,
    UNIX_PATH_MAX_BYTES,
)
from meshfs.model import Access, Cache, Security
from meshfs.scheduler.decide.policy import RANGES, DiskPolicy
from meshfs.wording import describe

Claimed = TypeVar("Claimed", bound=Hashable)

PORT_DEFAULT: Final = 4450
PUBLIC_KEY_SIZE_BYTES: Final = 32

# Node names become user names and names of key files. Disk names become names of files in a share.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_RULE: Final = "a name of 1 to 63 of A-Z a-z 0-9 . _ - that starts with a letter or digit"

_ROOT_KEYS: Final = ("cluster", "multichannel", "scheduler", "node")
CLUSTER_KEYS: Final = ("name", "keys", "security", "io_timeout_s")
MULTICHANNEL_KEYS: Final = ("channels", "dead_after_s")
NODE_KEYS: Final = (
    "name", "addresses", "port", "socket", "weight", "metrics", "state", "scratch_size_bytes", "public_key", "disk",
)  # fmt: skip
DISK_KEYS: Final = ("name", "path", "cache", "access", "nodes", "limit_iops", "limit_bytes_per_s")


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
class DiskConfig:
    """Holds one [[node.disk]]: an image file or block device.

    ``nodes`` has the access of single nodes, which is less than ``access``. A limit of None means no limit.
    """

    name: str
    path: Path
    cache: Cache
    access: Access
    nodes: Mapping[str, Access]
    limit_iops: float | None = None
    limit_bytes_per_s: float | None = None

    def access_of(self, node: str) -> Access:
        """Return what the node (by its name in the config) may do with the disk."""
        return self.nodes.get(node, self.access)


@dataclass(frozen=True)
class NodeConfig:
    """Holds one [[node]].

    ``metrics`` is the address and port where the node's exporter serves Prometheus. If it is None, the exporter serves
    no metrics. ``state`` is the folder of the files that the exporter keeps across restarts. ``scratch_size_bytes``
    bounds the total size of the files in the share ``scratch``. If it is None, there is no such share.
    """

    name: str
    addresses: tuple[str, ...]
    port: int
    socket: Path
    weight: int
    metrics: tuple[str, int] | None
    state: Path
    scratch_size_bytes: int | None
    public_key: str | None
    disks: tuple[DiskConfig, ...]

    @property
    def control_socket(self) -> Path:
        """Return the socket at which the node's exporter answers meshctl."""
        return self.socket.with_suffix(".ctl")


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
        """Return the policy of each disk (OWNER/NAME) without [scheduler]: nodes' weights and the disk's limits."""
        weights = MappingProxyType({node.name: float(node.weight) for node in self.nodes})
        return {
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
            raise ConfigError(f"{self.path}: there is no node {name!r}; nodes here: {known}") from None

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
        raise ConfigError(f"{self.path}: {found} named as this host ({host}); name the node that this is")

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
        """Return the policy for the scheduler of a node's disk. Raises ConfigError if the config has no such disk."""
        name = f"{node}/{disk}"
        bare = self._bare_policies.get(name)
        if bare is None:
            raise ConfigError(f"{self.path}: there is no disk {name!r}")
        return self.scheduler.policy(name, bare)

    def processor_policy(self) -> DiskPolicy:
        """Return the policy by which exporters share their processor.

        It has the weights of nodes, and the flows that apply to every disk.
        """
        weights = MappingProxyType({node.name: float(node.weight) for node in self.nodes})
        return self.scheduler.policy("", DiskPolicy(weights=weights))


def disk_id(node: str, disk: str) -> str:
    """Return the stable, cluster-wide name of a disk, which is its name in /mesh/disk/by-id."""
    return f"meshfs-{node}-{disk}"


def load(path: Path | str) -> Config:
    """Read and check the file. Raises ConfigError, whose text names the file, line and key."""
    given = Path(path).absolute()
    path = _real(given)
    source = Source(path)
    root = Table(source, (), source.root, _ROOT_KEYS)
    if "cluster" not in root:
        root.fail("cluster", "missing, expected a table with the cluster's name")
    cluster = _cluster(root.table("cluster", CLUSTER_KEYS), path.parent)
    scheduler_table = root.table("scheduler", SCHEDULER_KEYS)
    scheduler = read_scheduler(scheduler_table)
    tables = root.tables("node", NODE_KEYS)
    if not tables:
        root.fail("node", "missing, expected at least one [[node]]")
    nodes = tuple(_node(table, path.parent) for table in tables)
    _check_nodes(tables, nodes)
    for table, node in zip(tables, nodes, strict=True):
        _check_disks(table, node, {other.name for other in nodes})
    _check_disk_ids(tables, nodes)
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


def _cluster(table: Table, base: Path) -> Cluster:
    return Cluster(
        name=_name(table),
        keys=_path(base, table.text("keys", "keys")),
        security=table.choice("security", Security, Security.SIGN),
        io_timeout_s=table.number("io_timeout_s", IO_TIMEOUT_S, IO_TIMEOUT_MIN_S, IO_TIMEOUT_MAX_S),
    )


def _multichannel(table: Table) -> Multichannel:
    return Multichannel(
        channels=table.integer("channels", CHANNELS_PER_PATH, 1, CHANNELS_PER_PATH_MAX),
        dead_after_s=table.number(
            "dead_after_s", CHANNEL_DEAD_AFTER_S, CHANNEL_DEAD_AFTER_MIN_S, CHANNEL_SILENCE_MAX_S
        ),
    )  # fmt: skip


def _node(table: Table, base: Path) -> NodeConfig:
    name = _name(table)
    return NodeConfig(
        name=name,
        addresses=_addresses(table),
        port=table.integer("port", PORT_DEFAULT, 1, 65535),
        socket=_socket(table, base, name),
        weight=table.integer("weight", 1, 1, NODE_WEIGHT_MAX),
        metrics=_metrics(table),
        state=_path(base, table.text("state", f"state/{name}")),
        scratch_size_bytes=_scratch_size_bytes(table),
        public_key=_public_key(table),
        disks=tuple(_disk(disk, base) for disk in _disk_tables(table)),
    )


def _disk_tables(table: Table) -> list[Table]:
    if table.value("disk") == "discover":
        table.fail("disk", '"discover" is not supported by this version, expected each disk as [[node.disk]]')
    return table.tables("disk", DISK_KEYS)


def _disk(table: Table, base: Path) -> DiskConfig:
    access = table.choice("access", Access, Access.READ_WRITE, (Access.READ_WRITE, Access.READ_ONLY))
    return DiskConfig(
        name=_name(table),
        path=_path(base, table.text("path")),
        cache=table.choice("cache", Cache, Cache.NONE),
        access=access,
        nodes=_restrictions(table.open_table("nodes"), access),
        limit_iops=table.optional_number("limit_iops", *RANGES["limit_iops"]),
        limit_bytes_per_s=table.optional_number("limit_bytes_per_s", *RANGES["limit_bytes_per_s"]),
    )


def _restrictions(table: Table, access: Access) -> Mapping[str, Access]:
    nodes = {name: table.choice(name, Access, access) for name in table.names()}
    for name, allowed in nodes.items():
        if access is Access.READ_ONLY and allowed is Access.READ_WRITE:
            table.fail(name, 'found "rw", expected "ro" or "none", because the disk itself is "ro"')
    return MappingProxyType(nodes)


def _name(table: Table) -> str:
    name = table.text("name")
    if not _NAME.fullmatch(name):
        table.fail("name", f"found {describe(name)}, expected {_NAME_RULE}")
    return name


def _path(base: Path, text: str) -> Path:
    return Path(os.path.normpath(base / text))


def _addresses(table: Table) -> tuple[str, ...]:
    addresses = []
    for text in table.texts("addresses"):
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            table.fail("addresses", f"found {describe(text)}, {error}")
    return tuple(addresses)


def _socket(table: Table, base: Path, name: str) -> Path:
    path = _path(base, table.text("socket", f"run/{name}.sock"))
    if path.suffix == ".ctl" or not path.name:
        table.fail("socket", f"found {describe(str(path))}, expected a file name without the ending .ctl")
    if max(len(os.fsencode(path)), len(os.fsencode(path.with_suffix(".ctl")))) > UNIX_PATH_MAX_BYTES:
        table.fail("socket", f"{path} is longer than {UNIX_PATH_MAX_BYTES} bytes, the most for a Unix socket's path")
    return path


def _metrics(table: Table) -> tuple[str, int] | None:
    if "metrics" not in table:
        return None
    text = table.text("metrics")
    try:
        return parse_endpoint(text)
    except ValueError as error:
        table.fail("metrics", f"found {describe(text)}, {error}")


def _scratch_size_bytes(table: Table) -> int | None:
    if "scratch_size_bytes" not in table:
        return None
    return table.integer("scratch_size_bytes", 0, 1, SCRATCH_SIZE_MAX_BYTES)


def _public_key(table: Table) -> str | None:
    if "public_key" not in table:
        return None
    text = table.text("public_key")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != PUBLIC_KEY_SIZE_BYTES:
        table.fail("public_key", f"found {describe(text)}, expected 32 bytes in base64, as in NODE.pub")
    return text


def _check_nodes(tables: list[Table], nodes: tuple[NodeConfig, ...]) -> None:
    """Check that no two nodes share a name, an address with port, a socket, or a state folder.

    Nodes may share the address for metrics, because 127.0.0.1:9464 is a different machine's on every node.
    """
    names: dict[str, str] = {}
    endpoints: dict[tuple[str, int], str] = {}
    sockets: dict[Path, str] = {}
    states: dict[Path, str] = {}
    for table, node in zip(tables, nodes, strict=True):
        _claim(table, "name", names, [node.name.casefold()], node.name, "node names differ in more than case")
        places = [(address, node.port) for address in node.addresses]
        _claim(table, "addresses", endpoints, places, node.name, "an address with port is one exporter's")
        paths = [node.socket, node.control_socket]
        _claim(table, "socket", sockets, paths, node.name, "every node has a socket of its own")
        _claim(table, "state", states, [node.state], node.name, "every node has a folder of its own")
        if node.metrics and _meets(node.metrics, node):
            table.fail(
                "metrics", f"{format_endpoint(*node.metrics)} is the exporter's own address, expected another port"
            )


def _meets(metrics: tuple[str, int], node: NodeConfig) -> bool:
    address, port = metrics
    return port == node.port and (ipaddress.ip_address(address).is_unspecified or address in node.addresses)


def _check_disks(table: Table, node: NodeConfig, known: set[str]) -> None:
    """Check that no two disks of a node share a name or a path, and that restrictions name existing nodes."""
    names: dict[str, str] = {}
    paths: dict[Path, str] = {}
    for disk_table, disk in zip(_disk_tables(table), node.disks, strict=True):
        rule = "disk names of a node differ in more than case"
        _claim(disk_table, "name", names, [disk.name.casefold()], disk.name, rule)
        _claim(disk_table, "path", paths, [disk.path], disk.name, "a path is one disk")
        for name in disk.nodes:
            if name not in known:
                nodes = disk_table.open_table("nodes")
                nodes.fail(name, f"there is no node of this name, expected one of {', '.join(sorted(known))}")


def _check_disk_ids(tables: list[Table], nodes: tuple[NodeConfig, ...]) -> None:
    """Check that disk ids are unique. For example, node "a" disk "b-c" and node "a-b" disk "c" would share an id."""
    ids: dict[str, str] = {}
    for table, node in zip(tables, nodes, strict=True):
        for disk_table, disk in zip(_disk_tables(table), node.disks, strict=True):
            name = disk_id(node.name, disk.name)
            rule = f"disk ids ({name}) are unique in the cluster"
            _claim(disk_table, "name", ids, [name.casefold()], f"{node.name}/{disk.name}", rule)


def _claim(table: Table, key: str, taken: dict[Claimed, str], wanted: Iterable[Claimed], owner: str, rule: str) -> None:
    """Record the items that the owner claims, or fail at the key if another owner has claimed one of them."""
    for item in wanted:
        if item in taken:
            shown = format_endpoint(*item) if isinstance(item, tuple) else str(item)
            table.fail(key, f"{shown} of {owner} is taken by {taken[item]}; expected: {rule}")
        taken[item] = owner
