"""Merge what the exporters announce into one entry per id: the rules for disks and for enclosures. Pure.

Every exporter announces a list of its disks, and a list of its enclosures. A catalog keeps the last list of each
exporter, and derives one entry per id:

    exporter                             the entry in the catalog
    connected, announces the id          is present
    connected, announces it no longer    is removed
    not connected                        stays, in state "absent": its I/O waits for the exporter

If two exporters announce the same id, the id belongs to the first owner as long as that one announces it. If both are
new, the order of the config decides. The other exporter's entry is refused and reported as a problem, so there are
never two entries with the same id. An entry is also refused if its id or name cannot be a file name, or if its exporter
announces too many. An exporter with wrong announcements thus loses only its own entries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from meshfs import limits
from meshfs.namespace.names import is_file_name

STATE_ABSENT: Final = "absent"


class Announced(Protocol):
    """Declares what the rules read of an announced disk or enclosure."""

    @property
    def id(self) -> str: ...

    @property
    def node(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...


I = TypeVar("I", bound=Announced)  # noqa: E741  # the info of a disk or an enclosure


@dataclass(frozen=True, slots=True)
class CatalogEntry(Generic[I]):
    """Describes one disk or enclosure of the cluster. ``present`` is False while no session reaches its exporter."""

    info: I
    present: bool

    @property
    def state(self) -> str:
        return self.info.state if self.present else STATE_ABSENT


E = TypeVar("E")


class _Exporter(Generic[I]):
    """Holds what one exporter announced last."""

    def __init__(self) -> None:
        self.infos: dict[str, I] = {}
        self.connected = False
        self.problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms(Generic[I, E]):
    """Describes the entries of a catalog.

    ``what`` is the word for one entry in texts. ``most`` is how many of them one exporter may announce. ``entry`` makes
    the entry from an info and from whether it is present. ``take`` returns the info that the catalog keeps, and a line
    for each part of it that is refused. It gets the announced info, and the info that was known before or None.
    """

    what: str
    most: int
    entry: Callable[[I, bool], E]
    take: Callable[[I, I | None], tuple[I, Sequence[str]]]


class Merging(Generic[I, E]):
    """Merges the announcements of the exporters. ``nodes`` are the config's nodes, in its order."""

    def __init__(self, nodes: Sequence[str], terms: Terms[I, E]) -> None:
        self._terms = terms
        self._exporters: dict[str, _Exporter[I]] = {node: _Exporter() for node in nodes}
        self._entries: dict[str, E] = {}
        self._owners: dict[str, str] = {}
        self._collisions: tuple[str, ...] = ()

    def take_nodes(self, nodes: Sequence[str]) -> None:
        """Take the nodes of another config. Entries of nodes that it does not have are removed."""
        self._exporters = {node: self._exporters.get(node) or _Exporter() for node in nodes}
        self._merge()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._exporters)

    @property
    def entries(self) -> Mapping[str, E]:
        """Return every entry by its id, sorted by id."""
        return self._entries

    @property
    def problems(self) -> tuple[str, ...]:
        """Return one line for each refused entry, with the reason. A line stays until its cause is gone."""
        own = [problem for exporter in self._exporters.values() for problem in exporter.problems]
        return (*own, *self._collisions)

    def announce(self, node: str, infos: Iterable[I]) -> None:
        """Note that the exporter of ``node`` is connected and offers exactly these."""
        exporter = self._exporters[node]
        exporter.infos, exporter.problems = self._accepted(node, infos, exporter.infos)
        exporter.connected = True
        self._merge()

    def lost(self, node: str) -> None:
        """Note that the exporter of ``node`` is away. What it offered last stays, as absent entries."""
        self._exporters[node].connected = False
        self._merge()

    def _merge(self) -> None:
        merged: dict[str, E] = {}
        owners: dict[str, str] = {}
        collisions: list[str] = []
        for node, exporter in self._exporters.items():
            for entry_id, info in exporter.infos.items():
                keeper = self._keeper(entry_id, node) or owners.get(entry_id)
                if keeper is not None:
                    collisions.append(f"{self._terms.what} id {entry_id!r} of node {node} is already node {keeper}'s")
                    continue
                merged[entry_id] = self._terms.entry(info, exporter.connected)
                owners[entry_id] = node
        self._entries = dict(sorted(merged.items()))
        self._owners = owners
        self._collisions = tuple(collisions[: limits.DISK_PROBLEMS_PER_NODE_MAX * len(self._exporters)])

    def _keeper(self, entry_id: str, node: str) -> str | None:
        """Return another node that has owned the id until now and still announces it, or None."""
        owner = self._owners.get(entry_id)
        held = owner is not None and owner != node and owner in self._exporters
        return owner if held and owner is not None and entry_id in self._exporters[owner].infos else None

    def _accepted(self, node: str, infos: Iterable[I], known: Mapping[str, I]) -> tuple[dict[str, I], tuple[str, ...]]:
        """Return the announced infos that can be shown, by id, and a line for each that cannot."""
        accepted: dict[str, I] = {}
        names: set[str] = set()
        problems: list[str] = []
        terms = self._terms
        for info in infos:
            if len(accepted) >= terms.most:
                problems.append(f"node {node} announces more than {terms.most} {terms.what}s")
                break
            reason = self._refusal(node, info, accepted, names)
            if reason is None:
                accepted[info.id], refused = terms.take(info, known.get(info.id))
                names.add(info.name)
                problems += [f"node {node}: {terms.what} {info.id!r}: {line}" for line in refused]
            else:
                problems.append(f"node {node}: {terms.what} {info.id!r}: {reason}")
        return accepted, self._shortened(node, problems)

    def _shortened(self, node: str, problems: list[str]) -> tuple[str, ...]:
        """Keep the first lines and count the rest, so that an exporter cannot fill the mount's status and log."""
        most = limits.DISK_PROBLEMS_PER_NODE_MAX
        more = len(problems) - most
        last = f"node {node}: {more} more of its {self._terms.what}s are refused"
        return (*problems[:most], *([last] if more > 0 else ()))

    def _refusal(self, node: str, info: I, accepted: Mapping[str, I], names: set[str]) -> str | None:
        if info.node != node:
            return f"claims to be node {info.node!r}'s"
        for what in ("id", "name"):
            if not is_file_name(getattr(info, what)):
                return f"its {what} {getattr(info, what)!r} cannot be a file name"
        if info.id in accepted:
            return "announced twice"
        if info.name in names:
            return f"a second {self._terms.what} named {info.name!r}"
        return None
