"""Find out which of the awaited disks cannot be used, and why. Pure.

A disk is named as in the tree: by its id (``meshfs-n1-disk0``) or as NODE/NAME (``n1/disk0``). An id is a file name, so
only the second form has a slash. A disk can be used only if its owner is connected, announces the disk, and reports its
state as ok.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshfs.cluster.config import Config
from meshfs.errors import ConfigError
from meshfs.model import Access, DiskState
from meshfs.telemetry.documents import MountStatus


@dataclass(frozen=True, slots=True)
class SeenDisk:
    """Describes a disk as a mount shows it. ``state`` is the value of a DiskState, or "absent" if the owner is away."""

    id: str
    node: str
    name: str
    state: str
    why: str = ""

    def is_named(self, wanted: str) -> bool:
        return wanted in (self.id, f"{self.node}/{self.name}")


@dataclass(frozen=True, slots=True)
class SeenExporter:
    """Describes the connection of a mount to a node's exporter."""

    state: str
    why: str = ""


def missing_disks(wanted: Sequence[str], document: MountStatus) -> list[str]:
    """Return the result of ``missing`` for this process's own status document."""
    disks = [SeenDisk(each["id"], each["node"], each["name"], each["state"], each["why"]) for each in document["disks"]]
    exporters = {each["node"]: SeenExporter(each["state"], each["why"]) for each in document["exporters"]}
    return missing(wanted, disks, exporters)


def missing(wanted: Sequence[str], disks: Iterable[SeenDisk], exporters: Mapping[str, SeenExporter]) -> list[str]:
    """Return a line for each wanted disk that cannot be used, with the reason as far as the mount knows it."""
    seen = list(disks)
    found = []
    for name in wanted:
        reason = _reason(name, [disk for disk in seen if disk.is_named(name)], exporters)
        if reason:
            found.append(f"disk {name} {reason}")
    return found


def _reason(wanted: str, named: Sequence[SeenDisk], exporters: Mapping[str, SeenExporter]) -> str:
    """Return why the disk cannot be used, or an empty text if it can be used."""
    for disk in named:
        if disk.state != DiskState.OK:
            node = exporters.get(disk.node)
            why = disk.why or ("" if node is None or node.state == "connected" else _exporter_text(disk.node, node))
            return f"is {disk.state}" + (f": {why}" if why else "")
    if named:
        return ""
    node_name, slash, _ = wanted.partition("/")
    away = [_exporter_text(name, node) for name, node in exporters.items() if node.state != "connected"]
    if not slash:
        return "is announced by no exporter" + (f" ({'; '.join(away)})" if away else "")
    owner = exporters.get(node_name)
    if owner is None:
        return f"is not there: this mount knows no node {node_name} with disks"
    if owner.state == "connected":
        return f"is not there: the exporter of {node_name} does not announce it"
    return f"is not there: {_exporter_text(node_name, owner)}"


def _exporter_text(name: str, exporter: SeenExporter) -> str:
    return f"exporter {name} is {exporter.state}" + (f" ({exporter.why})" if exporter.why else "")


def expanded(given: Sequence[str], config: Config, node: str) -> tuple[str, ...]:
    """Return the disks that ``-o wait=`` names. "own" and "all" stand for disks of the config that ``node`` may use.

    Raises ConfigError for a NODE/NAME that the config does not have. An id is not checked here.
    """
    disks = {f"{owner.name}/{disk.name}": disk for owner in config.nodes for disk in owner.disks}
    usable = [name for name, disk in disks.items() if disk.access_of(node) is not Access.NONE]
    meaning = {"all": usable, "own": [name for name in usable if name.startswith(f"{node}/")]}
    for name in given:
        if "/" in name and name not in disks:
            known = ", ".join(disks) or "none"
            raise ConfigError(f"{config.path}: there is no disk {name!r} to wait for; disks here: {known}")
    return tuple(dict.fromkeys(each for word in given for each in meaning.get(word, [word])))
