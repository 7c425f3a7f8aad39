"""Ask the mounts and the config of this machine for the words of the mesh, for completion.

A user presses a key and waits. So every question has a short time limit, and a question without an answer gives no
words and no error.
"""

from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from meshctl.completing.candidates import Candidate
from meshctl.sources import CONFIG_DEFAULT, answer_of, mount_points, read_mount
from meshfs.cluster import config as cluster_config
from meshfs.errors import MeshfsError
from meshfs.telemetry.mount_records import MountEnclosureRecord, MountRecord

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
        found = []
        for enclosure in self._enclosures:
            found += [Candidate(enclosure.id, enclosure.path), Candidate(enclosure.path, enclosure.product)]
        return found

    def slots(self) -> list[Candidate]:
        return [
            Candidate(f"{enclosure.id}/{slot.name}", slot.disk or slot.status)
            for enclosure in self._enclosures
            for slot in enclosure.slots
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

    @property
    def _enclosures(self) -> list[MountEnclosureRecord]:
        return [enclosure for mount in self._mounts for enclosure in mount.enclosures]
