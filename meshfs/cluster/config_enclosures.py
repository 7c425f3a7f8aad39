"""The config's enclosures of a node: those that the machine has, and folders whose images are disks in slots.

    [[node]]
    enclosures = "discover"      every SES enclosure of the machine; without one, the bays of the node's disks
    enclosures = "none"          none of these

    [node.enclosures]            "discover" with settings
    access = "rw"                rw: read pages and write control pages, such as for lamps; ro: only read pages
    nodes = { n2 = "none" }      restricts single nodes further

      [[node.enclosure]]         an enclosure of its own
      name = "shelf"
      kind = "directory"
      path = "images"            the folder
      slots = 24
      access, nodes              as above
      disks = { cache = "none", access = "rw", nodes = { n2 = "ro" } }     as in [[node.disk]], for all images

Without the key ``enclosures``, a node that may have disks discovers its enclosures.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshfs.cluster.config_access import check_access, read_access
from meshfs.cluster.config_text import Table
from meshfs.limits import DIRECTORIES_PER_NODE_MAX, DIRECTORY_SLOTS, DIRECTORY_SLOTS_MAX
from meshfs.model import Access, Cache
from meshfs.wording import describe

#: The name of the virtual enclosure that has the bays of a node.
BAYS: Final = "bays"
#: The beginning of the names of SES devices (`meshfs.enclosure.ids`).
_SES_PREFIX: Final = "enc-"
ENCLOSURES_KEYS: Final = ("access", "nodes")
ENCLOSURE_KEYS: Final = ("name", "kind", "path", "slots", "access", "nodes", "disks")
IMAGES_KEYS: Final = ("cache", "access", "nodes")
_NO_NODES: Final[Mapping[str, Access]] = MappingProxyType({})


class _Found(enum.StrEnum):
    DISCOVER = "discover"
    NONE = "none"


class _Kind(enum.StrEnum):
    DIRECTORY = "directory"


@dataclass(frozen=True)
class EnclosureRights:
    """Says what nodes may do with an enclosure. ``nodes`` has the access of single nodes, at most ``access``."""

    access: Access = Access.READ_WRITE
    nodes: Mapping[str, Access] = field(default_factory=lambda: _NO_NODES)

    def access_of(self, node: str) -> Access:
        """Return what the node (by its name in the config) may do with the enclosure."""
        return self.nodes.get(node, self.access)


@dataclass(frozen=True)
class DirectoryConfig:
    """Holds one [[node.enclosure]] of kind "directory". ``disk_*`` are the settings of all disks in the folder."""

    name: str
    path: Path
    slots: int
    rights: EnclosureRights
    disk_cache: Cache
    disk_access: Access
    disk_nodes: Mapping[str, Access]


def enclosure_id(node: str, enclosure: str) -> str:
    """Return the stable, cluster-wide name of an enclosure that is no SES device."""
    return f"enc-{node}-{enclosure}"


def read_enclosures(node: Table, *, has_disks: bool) -> EnclosureRights | None:
    """Read the key "enclosures" of a [[node]]. Return None if the node discovers no enclosures. Raises ConfigError."""
    value = node.value("enclosures")
    if value is None:
        return EnclosureRights() if has_disks else None
    if isinstance(value, str):
        found = node.choice("enclosures", _Found, _Found.DISCOVER)
        return EnclosureRights() if found is _Found.DISCOVER else None
    if not isinstance(value, dict):
        node.fail("enclosures", f'found {describe(value)}, expected "discover", "none" or a table with access, nodes')
    return EnclosureRights(*read_access(node.table("enclosures", ENCLOSURES_KEYS), "enclosure"))


def enclosure_tables(node: Table) -> list[Table]:
    """Return the tables [[node.enclosure]] of a [[node]]."""
    if isinstance(node.value("enclosure"), str):
        node.fail(
            "enclosure", 'found a string, expected [[node.enclosure]] for each enclosure, or enclosures = "discover"'
        )
    tables = node.tables("enclosure", ENCLOSURE_KEYS)
    if len(tables) > DIRECTORIES_PER_NODE_MAX:
        node.fail("enclosure", f"found {len(tables)} enclosures, expected at most {DIRECTORIES_PER_NODE_MAX}")
    return tables


def read_directory(table: Table, name: str) -> DirectoryConfig:
    """Read one [[node.enclosure]]. Raises ConfigError at the key that is wrong."""
    if "kind" not in table:
        table.fail("kind", 'missing, expected "directory"')
    table.choice("kind", _Kind, _Kind.DIRECTORY)
    if name.casefold() == BAYS:
        table.fail("name", f"found {describe(name)}, which is the name of the node's own bays; use another name")
    if name.casefold().startswith(_SES_PREFIX):
        table.fail("name", f"found {describe(name)}, but only SES devices have names that begin with {_SES_PREFIX}")
    disks = table.table("disks", IMAGES_KEYS)
    disk_access, disk_nodes = read_access(disks)
    return DirectoryConfig(
        name=name,
        path=table.path("path"),
        slots=table.integer("slots", DIRECTORY_SLOTS, 1, DIRECTORY_SLOTS_MAX),
        rights=EnclosureRights(*read_access(table, "enclosure")),
        disk_cache=disks.choice("cache", Cache, Cache.NONE),
        disk_access=disk_access,
        disk_nodes=disk_nodes,
    )


def check_enclosures(
    node: Table, found: EnclosureRights | None, directories: Sequence[DirectoryConfig], known: set[str]
) -> None:
    """Check that the nodes with an access of their own exist. Raises ConfigError."""
    if found is not None and found.nodes:
        check_access(node.open_table("enclosures"), found.nodes, known)
    for table, directory in zip(enclosure_tables(node), directories, strict=True):
        check_access(table, directory.rights.nodes, known)
        check_access(table.open_table("disks"), directory.disk_nodes, known)
