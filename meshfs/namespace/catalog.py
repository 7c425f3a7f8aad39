"""The disks of the cluster, merged from what the exporters announce (merging.py). Pure.

After a restart, an exporter does not know the size of a missing disk, and announces 0. The catalog then keeps the
earlier size and facts. With a size of 0, the kernel would show a reader the end of the file instead of an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from meshfs import limits
from meshfs.model import DiskInfo, DiskState
from meshfs.namespace.merging import STATE_ABSENT, CatalogEntry, Merging, Terms


class CatalogDisk(CatalogEntry[DiskInfo]):
    """Describes one disk of the cluster."""

    __slots__ = ()

    @property
    def state(self) -> str:
        """Return the state. The drained disk of an exporter that was stopped on purpose is not absent, but drained."""
        return self.info.state if self.present or self.info.state is DiskState.DRAINED else STATE_ABSENT


class Catalog(Merging[DiskInfo, CatalogDisk]):
    """Merges the disks that the exporters announce. ``nodes`` are the config's nodes, in its order."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes, Terms("disk", limits.DISKS_PER_NODE_MAX, CatalogDisk, _as_known))

    @property
    def disks(self) -> Mapping[str, CatalogDisk]:
        """Return every disk by its id, sorted by id."""
        return self.entries


def _as_known(info: DiskInfo, known: DiskInfo | None) -> tuple[DiskInfo, Sequence[str]]:
    """Return the announced disk. If a missing disk is announced without a size, return its earlier facts instead."""
    if info.state is not DiskState.MISSING or info.size_bytes or known is None:
        return info, ()
    return replace(known, state=info.state, why=info.why, access=info.access), ()
