"""Ask the mounts and the config of this machine for the words of the mesh, for completion.

A user presses a key and waits. So every question has a short time limit, and a question without an answer gives no
words and no error.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from meshctl.completing.candidates import Candidate
from meshctl.sources import CONFIG_DEFAULT, answer_of, mount_points, read_mount
from meshfs.cluster import config as cluster_config
from meshfs.errors import MeshfsError
from meshfs.telemetry.mount_records import MountRecord

_PATIENCE_S: Final = 0.5


class KnownHere:
    """Knows the words of the mesh on this machine (`candidates.Known`)."""

    def disks(self) -> list[Candidate]:
        found = []
        for mount in self._mounts:
            for disk in mount.disks:
                where = f"{disk.node}/{disk.name}"
                found += [Candidate(where, disk.model), Candidate(disk.id, where)]
        return found

    def enclosures(self) -> list[Candidate]:
        return [Candidate(identity, f"enclosure of {node}") for identity, node, _ in self._enclosures()]

    def slots(self) -> list[Candidate]:
        return [
            Candidate(f"{identity}/{slot}", f"slot of {node}")
            for identity, node, names in self._enclosures()
            for slot in names
        ]

    def nodes(self, config: Path | None) -> list[Candidate]:
        with suppress(MeshfsError, OSError):
            return [Candidate(name) for name in cluster_config.load(config or CONFIG_DEFAULT).node_names]
        return [Candidate(exporter.node) for mount in self._mounts for exporter in mount.exporters]

    def mount_points(self) -> list[Candidate]:
        return [Candidate(str(point)) for point in mount_points()]

    @cached_property
    def _mounts(self) -> list[MountRecord]:
        answers = [answer_of(str(point), partial(read_mount, point, _PATIENCE_S)) for point in mount_points()]
        return [answer.read(MountRecord) for answer in answers]

    def _enclosures(self) -> Iterable[tuple[str, str, list[str]]]:
        """Yield the id, the node and the names of the slots of each enclosure."""
        for mount in self._mounts:
            for enclosure in _items(mount.raw.get("enclosures")):
                slots = [str(slot.get("name", "")) for slot in _items(enclosure.get("slots"))]
                yield str(enclosure.get("id", "")), str(enclosure.get("node", "")), slots


def _items(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
