"""The keys ``access`` and ``nodes``, with which the config says what each node may do with a disk or an enclosure."""

from collections.abc import Mapping
from types import MappingProxyType

from meshfs.cluster.config_text import Table
from meshfs.model import Access


def read_access(table: Table, what: str = "disk") -> tuple[Access, Mapping[str, Access]]:
    """Return the access that all nodes have, and that of single nodes, which is at most the former. Raises ConfigError.

    ``what`` names the thing that is accessed, for the error text. Whether the nodes exist is not
    checked here (`check_access`).
    """
    access = table.choice("access", Access, Access.READ_WRITE, (Access.READ_WRITE, Access.READ_ONLY))
    single = table.open_table("nodes")
    nodes = {name: single.choice(name, Access, access) for name in single.names()}
    for name, allowed in nodes.items():
        if access is Access.READ_ONLY and allowed is Access.READ_WRITE:
            single.fail(name, f'found "rw", expected "ro" or "none", because the {what} itself is "ro"')
    return access, MappingProxyType(nodes)


def check_access(table: Table, nodes: Mapping[str, Access], known: set[str]) -> None:
    """Check that the nodes with an access of their own exist. Raises ConfigError."""
    for name in nodes:
        if name not in known:
            rule = f"expected one of {', '.join(sorted(known))}"
            table.open_table("nodes").fail(name, f"there is no node of this name, {rule}")
