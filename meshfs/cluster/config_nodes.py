"""The config's [[node]] and [[node.disk]], which define the nodes of the cluster and their disks.

    [[node]]
    name = "n1"
    addresses = ["10.0.1.1"]     one for each network interface
    port, socket, weight, metrics, state, scratch_size_bytes, public_key

      [[node.disk]]              the disks that the node owns
      name = "disk0"
      path = "/dev/sdb"
      cache, access, nodes, limit_iops, limit_bytes_per_s

    disks = "discover", or [node.disks]      has disks found (config_discovery.py)
    enclosures, and [[node.enclosure]]       the enclosures that the node owns (config_enclosures.py)

Two nodes must not share a name, an address with port, a socket or a state folder. Two disks must not share a path on
their node, or a name in /mesh/disk/by-id. The same holds for two enclosures.
"""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from meshfs.cluster.config_access import check_access, read_access
from meshfs.cluster.config_discovery import DiscoveryConfig, read_discovery
from meshfs.cluster.config_enclosures import (
    BAYS,
    DirectoryConfig,
    EnclosureRights,
    check_enclosures,
    enclosure_id,
    enclosure_tables,
    read_directory,
    read_enclosures,
)
from meshfs.cluster.config_text import Table
from meshfs.endpoint import format_endpoint, parse_address, parse_endpoint
from meshfs.limits import NODE_WEIGHT_MAX, SCRATCH_SIZE_MAX_BYTES, UNIX_PATH_MAX_BYTES
from meshfs.model import Access, Cache
from meshfs.scheduler.decide.policy import RANGES
from meshfs.wording import describe

Claimed = TypeVar("Claimed", bound=Hashable)

PORT_DEFAULT: Final = 4450
PUBLIC_KEY_SIZE_BYTES: Final = 32

# Node names become user names and names of key files. Disk names become names of files in a share.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_RULE: Final = "a name of 1 to 63 of A-Z a-z 0-9 . _ - that starts with a letter or digit"

NODE_KEYS: Final = (
    "name",
    "addresses",
    "port",
    "socket",
    "weight",
    "metrics",
    "state",
    "scratch_size_bytes",
    "public_key",
    "disk",
    "disks",
    "enclosure",
    "enclosures",
)
DISK_KEYS: Final = ("name", "path", "cache", "access", "nodes", "limit_iops", "limit_bytes_per_s")


@dataclass(frozen=True)
class DiskConfig:
    """Holds one [[node.disk]], one discovered disk, or one image of a folder: an image file or block device.

    ``nodes`` has the access of single nodes, which is at most ``access``. A limit of None means no limit. ``id`` is the
    id of a discovered disk or of an image, and "" for a listed one, whose id is made of names (`disk_id`).
    """

    name: str
    path: Path
    cache: Cache
    access: Access
    nodes: Mapping[str, Access]
    limit_iops: float | None = None
    limit_bytes_per_s: float | None = None
    id: str = ""

    def access_of(self, node: str) -> Access:
        """Return what the node (by its name in the config) may do with the disk."""
        return self.nodes.get(node, self.access)


@dataclass(frozen=True)
class NodeConfig:
    """Holds one [[node]].

    ``metrics`` is the address and port where the node's exporter serves Prometheus. If it is None, the exporter serves
    no metrics. ``state`` is the folder of the files that the exporter keeps across restarts. ``scratch_size_bytes``
    bounds the total size of the files in the share ``scratch``. If it is None, there is no such share. ``enclosures``
    are the rights at the enclosures that the node discovers, or None if it discovers none. ``directories`` are the
    folders whose images are disks.
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
    discovery: DiscoveryConfig | None = None
    enclosures: EnclosureRights | None = None
    directories: tuple[DirectoryConfig, ...] = ()

    @property
    def may_have_disks(self) -> bool:
        """Return whether the node may own disks or enclosures, so that the other nodes have to connect to it."""
        return bool(self.disks or self.directories) or self.finds_disks or self.enclosures is not None

    @property
    def finds_disks(self) -> bool:
        """Return whether the node may have disks whose names are not in the config."""
        return self.discovery is not None or bool(self.directories)

    @property
    def control_socket(self) -> Path:
        """Return the socket at which the node's exporter answers meshctl."""
        return self.socket.with_suffix(".ctl")


def disk_id(node: str, disk: str) -> str:
    """Return the stable, cluster-wide name of a disk, which is its name in /mesh/disk/by-id."""
    return f"meshfs-{node}-{disk}"


def read_nodes(root: Table) -> tuple[NodeConfig, ...]:
    """Read and check every [[node]] of the file. Raises ConfigError at the key that is wrong."""
    tables = root.tables("node", NODE_KEYS)
    if not tables:
        root.fail("node", "missing, expected at least one [[node]]")
    nodes = tuple(_node(table) for table in tables)
    _check_nodes(tables, nodes)
    for table, node in zip(tables, nodes, strict=True):
        _check_disks(table, node, {other.name for other in nodes})
        check_enclosures(table, node.enclosures, node.directories, {other.name for other in nodes})
    _check_disk_ids(tables, nodes)
    _check_enclosure_ids(tables, nodes)
    return nodes


def read_name(table: Table) -> str:
    """Return the name of a cluster, a node, a disk or an enclosure."""
    name = table.text("name")
    if not _NAME.fullmatch(name):
        table.fail("name", f"found {describe(name)}, expected {_NAME_RULE}")
    return name


def _node(table: Table) -> NodeConfig:
    name = read_name(table)
    if isinstance(table.value("disk"), str):
        table.fail("disk", 'found a string, expected [[node.disk]] for each disk, or disks = "discover"')
    disks = tuple(_disk(disk) for disk in table.tables("disk", DISK_KEYS))
    discovery = read_discovery(table)
    directories = tuple(read_directory(each, read_name(each)) for each in enclosure_tables(table))
    has_disks = bool(disks or directories) or discovery is not None
    return NodeConfig(
        name=name,
        addresses=_addresses(table),
        port=table.integer("port", PORT_DEFAULT, 1, 65535),
        socket=_socket(table, name),
        weight=table.integer("weight", 1, 1, NODE_WEIGHT_MAX),
        metrics=_metrics(table),
        state=table.path("state", f"state/{name}"),
        scratch_size_bytes=_scratch_size_bytes(table),
        public_key=_public_key(table),
        disks=disks,
        discovery=discovery,
        enclosures=read_enclosures(table, has_disks=has_disks),
        directories=directories,
    )


def _disk(table: Table) -> DiskConfig:
    access, nodes = read_access(table)
    return DiskConfig(
        name=read_name(table),
        path=table.path("path"),
        cache=table.choice("cache", Cache, Cache.NONE),
        access=access,
        nodes=nodes,
        limit_iops=table.optional_number("limit_iops", *RANGES["limit_iops"]),
        limit_bytes_per_s=table.optional_number("limit_bytes_per_s", *RANGES["limit_bytes_per_s"]),
    )


def _addresses(table: Table) -> tuple[str, ...]:
    addresses = []
    for text in table.texts("addresses"):
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            table.fail("addresses", f"found {describe(text)}, {error}")
    return tuple(addresses)


def _socket(table: Table, name: str) -> Path:
    path = table.path("socket", f"run/{name}.sock")
    if path.suffix == ".ctl" or not path.name:
        table.fail("socket", f"found {describe(str(path))}, expected a file name without the ending .ctl")
    if max(len(os.fsencode(path)), len(os.fsencode(path.with_suffix(".ctl")))) > UNIX_PATH_MAX_BYTES:
        table.fail(
            "socket", f"{path} is longer than {UNIX_PATH_MAX_BYTES} bytes, expected a path that fits a Unix socket"
        )
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
        rule = "two nodes must have names that differ in more than case"
        _claim(table, "name", names, [node.name.casefold()], node.name, rule)
        places = [(address, node.port) for address in node.addresses]
        _claim(table, "addresses", endpoints, places, node.name, "each address and port must belong to one node")
        paths = [node.socket, node.control_socket]
        _claim(table, "socket", sockets, paths, node.name, "each node must have its own socket")
        _claim(table, "state", states, [node.state], node.name, "each node must have its own folder")
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
    for disk_table, disk in zip(table.tables("disk", DISK_KEYS), node.disks, strict=True):
        rule = "two disks of a node must have names that differ in more than case"
        _claim(disk_table, "name", names, [disk.name.casefold()], disk.name, rule)
        _claim(disk_table, "path", paths, [disk.path], disk.name, "each disk must have its own path")
        check_access(disk_table, disk.nodes, known)
    if node.discovery is not None and node.discovery.nodes:
        check_access(table.open_table("disks"), node.discovery.nodes, known)


def _check_disk_ids(tables: list[Table], nodes: tuple[NodeConfig, ...]) -> None:
    """Check that disk ids are unique. For example, node "a" disk "b-c" and node "a-b" disk "c" would share an id."""
    ids: dict[str, str] = {}
    for table, node in zip(tables, nodes, strict=True):
        for disk_table, disk in zip(table.tables("disk", DISK_KEYS), node.disks, strict=True):
            name = disk_id(node.name, disk.name)
            rule = "each disk must have its own name in /mesh/disk/by-id"
            _claim(disk_table, "name", ids, [name.casefold()], f"{node.name}/{disk.name}", rule)


def _check_enclosure_ids(tables: list[Table], nodes: tuple[NodeConfig, ...]) -> None:
    """Check that no two enclosures share an id, or a path on their node, and that no image is listed as a disk."""
    ids: dict[str, str] = {}
    rule = "each enclosure must have its own name in /mesh/enclosure/by-id"
    for table, node in zip(tables, nodes, strict=True):
        _claim(table, "name", ids, [enclosure_id(node.name, BAYS).casefold()], f"the bays of {node.name}", rule)
    for table, node in zip(tables, nodes, strict=True):
        paths: dict[Path, str] = {}
        listed = {disk.path.parent: disk.name for disk in node.disks}
        for each, directory in zip(enclosure_tables(table), node.directories, strict=True):
            name = enclosure_id(node.name, directory.name).casefold()
            _claim(each, "name", ids, [name], f"{node.name}/{directory.name}", rule)
            _claim(each, "path", paths, [directory.path], directory.name, "each enclosure must have its own folder")
            if directory.path in listed:
                each.fail("path", f"disk {listed[directory.path]} is in this folder, whose images are disks already")


def _claim(table: Table, key: str, taken: dict[Claimed, str], wanted: Iterable[Claimed], owner: str, rule: str) -> None:
    """Record the items that the owner claims, or fail at the key if another owner has claimed one of them."""
    for item in wanted:
        if item in taken:
            shown = format_endpoint(*item) if isinstance(item, tuple) else str(item)
            table.fail(key, f"{shown} of {owner} is taken by {taken[item]}, but {rule}")
        taken[item] = owner
