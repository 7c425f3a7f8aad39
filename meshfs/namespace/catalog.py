"""Merge the disks that the exporters announce into the disks of the cluster. Pure.

Every exporter announces a list of disks. The catalog keeps the last list of each exporter, and derives one disk per id:

    exporter                           the disk in the catalog
    connected, announces the disk      is present
    connected, announces it no longer  is removed
    not connected                      stays, in state "absent": its I/O waits for the exporter

After a restart, an exporter does not know the size of a missing disk, and announces 0. The catalog then keeps the
earlier size and facts. With a size of 0, the kernel would show a reader the end of the file instead of an error.

If two exporters announce the same id, the disk belongs to the first owner as long as that one announces it. If both are
new, the order of the config decides. The other exporter's disk is refused and reported as a problem, so there is never
a second disk with the same id. Disks whose id or name cannot be a file name, and disks beyond
``limits.DISKS_PER_NODE_MAX``, are also refused. An exporter with wrong announcements thus loses only its own disks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from meshfs import limits
from meshfs.model import DiskInfo, DiskState
from meshfs.namespace.names import is_file_name

STATE_ABSENT: Final = "absent"


@dataclass(frozen=True, slots=True)
class CatalogDisk:
    """Describes one disk of the cluster. ``present`` is False while no session reaches its exporter."""

    info: DiskInfo
    present: bool

    @property
    def state(self) -> str:
        return self.info.state if self.present else STATE_ABSENT


@dataclass(slots=True)
class _Exporter:
    disks: dict[str, DiskInfo] = field(default_factory=dict)
    connected: bool = False
    problems: tuple[str, ...] = ()


class Catalog:
    """Merges the announcements of the exporters. ``nodes`` are the config's nodes, in its order."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._exporters = {node: _Exporter() for node in nodes}
        self._disks: dict[str, CatalogDisk] = {}
        self._collisions: tuple[str, ...] = ()

    def take_nodes(self, nodes: Sequence[str]) -> None:
        """Take the nodes of another config. Disks of nodes that it does not have are removed."""
        self._exporters = {node: self._exporters.get(node) or _Exporter() for node in nodes}
        self._merge()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._exporters)

    @property
    def disks(self) -> Mapping[str, CatalogDisk]:
        """Return every disk by its id, sorted by id."""
        return self._disks

    @property
    def problems(self) -> tuple[str, ...]:
        """Return one line for each refused disk, with the reason. A line stays until its cause is gone."""
        own = [problem for exporter in self._exporters.values() for problem in exporter.problems]
        return (*own, *self._collisions)

    def announce(self, node: str, disks: Iterable[DiskInfo]) -> None:
        """Note that the exporter of ``node`` is connected and offers exactly these disks."""
        exporter = self._exporters[node]
        known = exporter.disks
        accepted, exporter.problems = _accepted(node, disks)
        exporter.disks = {disk_id: _as_known(info, known.get(disk_id)) for disk_id, info in accepted.items()}
        exporter.connected = True
        self._merge()

    def lost(self, node: str) -> None:
        """Note that the exporter of ``node`` is away. The disks that it offered last stay, as absent ones."""
        self._exporters[node].connected = False
        self._merge()

    def _merge(self) -> None:
        owners = {disk_id: disk.info.node for disk_id, disk in self._disks.items()}
        merged: dict[str, CatalogDisk] = {}
        collisions: list[str] = []
        for node, exporter in self._exporters.items():
            for disk_id, info in exporter.disks.items():
                owner = owners.get(disk_id)
                held = owner is not None and owner != node and disk_id in self._offered_by(owner)
                if held or disk_id in merged:
                    keeper = owner if held else merged[disk_id].info.node
                    collisions.append(f"disk id {disk_id!r} of node {node} is already node {keeper}'s")
                    continue
                merged[disk_id] = CatalogDisk(info, exporter.connected)
        self._disks = dict(sorted(merged.items()))
        self._collisions = tuple(collisions[: limits.DISK_PROBLEMS_PER_NODE_MAX * len(self._exporters)])

    def _offered_by(self, node: str) -> Mapping[str, DiskInfo]:
        """Return the disks that the node offers; a node that is gone from the config offers none."""
        return self._exporters[node].disks if node in self._exporters else {}


def _as_known(info: DiskInfo, known: DiskInfo | None) -> DiskInfo:
    """Return the announced disk. If a missing disk is announced without a size, return its earlier facts instead."""
    if info.state is not DiskState.MISSING or info.size_bytes or known is None:
        return info
    return replace(known, state=info.state, why=info.why, access=info.access)


def _accepted(node: str, disks: Iterable[DiskInfo]) -> tuple[dict[str, DiskInfo], tuple[str, ...]]:
    """Return the announced disks that can be shown, by id, and a line for each that cannot."""
    accepted: dict[str, DiskInfo] = {}
    names: set[str] = set()
    problems: list[str] = []
    for info in disks:
        if len(accepted) >= limits.DISKS_PER_NODE_MAX:
            problems.append(f"node {node} announces more than {limits.DISKS_PER_NODE_MAX} disks")
            break
        reason = _refusal(node, info, accepted, names)
        if reason is None:
            accepted[info.id] = info
            names.add(info.name)
        else:
            problems.append(f"node {node}: disk {info.id!r}: {reason}")
    return accepted, _shortened(node, problems)


def _shortened(node: str, problems: list[str]) -> tuple[str, ...]:
    """Keep the first lines and count the rest, so that an exporter cannot fill the mount's status and log."""
    most = limits.DISK_PROBLEMS_PER_NODE_MAX
    more = len(problems) - most
    return (*problems[:most], *([f"node {node}: {more} more of its disks are refused"] if more > 0 else ()))


def _refusal(node: str, info: DiskInfo, accepted: Mapping[str, DiskInfo], names: set[str]) -> str | None:
    if info.node != node:
        return f"claims to be node {info.node!r}'s"
    for what in ("id", "name"):
        if not is_file_name(getattr(info, what)):
            return f"its {what} {getattr(info, what)!r} cannot be a file name"
    if info.id in accepted:
        return "announced twice"
    if info.name in names:
        return f"a second disk named {info.name!r}"
    return None
