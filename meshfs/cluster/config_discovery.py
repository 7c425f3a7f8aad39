"""The config's [node.disks], which has a node's disks found instead of listed.

    [[node]]
    disks = "discover"           every physical disk that this machine does not use

    [node.disks]                 or the same with settings
    include = [{ bus = "nvme" }, { model = "ST*", size_min_bytes = 4_000_000_000_000 }]
    exclude = [{ id = "wwn-0x5000c500a1b2c3d4" }]
    cache, access, nodes         as in [[node.disk]], for all found disks

A pattern matches a disk if all of its keys do: id, path, model and bus with the wildcards of the shell, size_min_bytes
and size_max_bytes as limits. `meshfs.disk.discovery.selection` has the rules. A [[node.disk]] beside it gives one of
the disks a name and settings of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshfs.cluster.config_access import read_access
from meshfs.cluster.config_text import Table
from meshfs.disk.discovery.selection import Pattern, Selection
from meshfs.limits import DISK_PATTERNS_MAX, DISK_SIZE_MAX_BYTES
from meshfs.model import Access, Cache
from meshfs.wording import describe

_WORD: Final = "discover"
DISCOVERY_KEYS: Final = ("include", "exclude", "cache", "access", "nodes")
PATTERN_KEYS: Final = ("id", "path", "model", "bus", "size_min_bytes", "size_max_bytes")


@dataclass(frozen=True)
class DiscoveryConfig:
    """Holds one [node.disks]: which disks are found, and the settings of all of them."""

    selection: Selection
    cache: Cache
    access: Access
    nodes: Mapping[str, Access]


def read_discovery(node: Table) -> DiscoveryConfig | None:
    """Read the key "disks" of a [[node]]. Return None if the node has no such key. Raises ConfigError."""
    value = node.value("disks")
    if value is None:
        return None
    if isinstance(value, str) and value != _WORD:
        node.fail("disks", f'found {describe(value)}, expected "{_WORD}" or a table with {", ".join(DISCOVERY_KEYS)}')
    table = node.empty_table("disks") if value == _WORD else node.table("disks", DISCOVERY_KEYS)
    access, nodes = read_access(table)
    return DiscoveryConfig(
        selection=Selection(_patterns(table, "include"), _patterns(table, "exclude")),
        cache=table.choice("cache", Cache, Cache.NONE),
        access=access,
        nodes=nodes,
    )


def _patterns(table: Table, name: str) -> tuple[Pattern, ...]:
    tables = table.tables(name, PATTERN_KEYS)
    if len(tables) > DISK_PATTERNS_MAX:
        table.fail(name, f"found {len(tables)} patterns, expected at most {DISK_PATTERNS_MAX}")
    return tuple(_pattern(each) for each in tables)


def _pattern(table: Table) -> Pattern:
    if not table.names():
        table.fail(None, f"the pattern is empty, expected at least one of {', '.join(PATTERN_KEYS)}")
    smallest = table.integer("size_min_bytes", 0, 0, DISK_SIZE_MAX_BYTES)
    largest = table.integer("size_max_bytes", DISK_SIZE_MAX_BYTES, smallest, DISK_SIZE_MAX_BYTES)
    return Pattern(
        id=table.text("id") if "id" in table else "",
        path=table.text("path") if "path" in table else "",
        model=table.text("model") if "model" in table else "",
        bus=table.text("bus") if "bus" in table else "",
        size_min_bytes=smallest,
        size_max_bytes=largest if "size_max_bytes" in table else None,
    )
