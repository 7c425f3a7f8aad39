"""The status document of a mount: its settings, exporters, disks, enclosures and problems.

settings, exporters, disks, enclosures -> facts -> problems (problems.py) -> document -> status file, metrics, log
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping

import trio

from meshfs import bugs
from meshfs.cluster.config_watch import ConfigWatch
from meshfs.model import DiskInfo
from meshfs.mount.exporters import Exporters
from meshfs.mount.mesh import Mesh
from meshfs.mount.settings import Settings
from meshfs.mount.status_views import for_others
from meshfs.namespace.catalog import CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure
from meshfs.telemetry.documents import (
    STATUS_VERSION,
    LogState,
    MountDisk,
    MountEnclosure,
    MountFacts,
    MountFindings,
    MountStatus,
)
from meshfs.telemetry.mount_records import MountExporterRecord, MountRecord, PathRecord
from meshfs.telemetry.problem_finders import path_key
from meshfs.telemetry.problem_watch import ProblemWatch
from meshfs.telemetry.problems import MOUNT_RULES, Problem, mount_problems, steps
from meshfs.telemetry.process_facts import process_facts


class Status:
    """Makes the document. ``opens`` counts open files by disk id. ``control`` is the path of the control socket, or "".

    ``problem_watch`` looks for problems in the present document. Its counts of recent events are in the next document.
    """

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        initiator: Exporters,
        opens: Counter[str],
        config_watch: ConfigWatch,
        log_state: Callable[[], LogState],
        control: str,
    ) -> None:
        #: A reload replaces these settings by others of the same node.
        self.settings = settings
        self.problem_watch = ProblemWatch(self._counts, self._find)
        self._mesh = mesh
        self._initiator = initiator
        self._opens = opens
        self._config_watch = config_watch
        self._log_state = log_state
        self._control = control
        self._started_s = time.monotonic()

    def text(self, whole: bool) -> bytes:
        """Return the text of the status file. Include everybody's I/O only if ``whole`` is True."""
        document = self.document()
        return json.dumps(document if whole else for_others(document)).encode() + b"\n"

    def document(self) -> MountStatus:
        """Return the document. Its values do not change later."""
        disks = [self._describe(*known) for known in self._mesh.catalog.disks.items()]
        enclosures = [_describe_enclosure(each) for each in self._mesh.enclosures.enclosures.values()]
        found: MountFindings = {**self._facts(), "disks": disks, "enclosures": enclosures}
        return {**found, "problems": [problem.as_json() for problem in mount_problems(found)]}

    async def slow_document(self) -> MountStatus:
        """Return the document, and let I/O go on meanwhile. So each disk's part is of another moment."""
        found = await self._slow_findings()
        return {**found, "problems": [problem.as_json() for problem in await _slow_problems(found)]}

    async def _slow_findings(self) -> MountFindings:
        disks, enclosures = [], []
        for known in list(self._mesh.catalog.disks.items()):
            disks.append(self._describe(*known))
            await trio.lowlevel.checkpoint()
        for enclosure in list(self._mesh.enclosures.enclosures.values()):
            enclosures.append(_describe_enclosure(enclosure))
            await trio.lowlevel.checkpoint()
        return {**self._facts(), "disks": disks, "enclosures": enclosures}

    def _describe(self, disk_id: str, disk: CatalogDisk) -> MountDisk:
        info = disk.info
        return {
            "id": info.id,
            "node": info.node,
            "name": info.name,
            "size_bytes": info.size_bytes,
            "access": info.access.value,
            "verifier": info.verifier,
            "state": disk.state,
            "logical_block_size_bytes": info.logical_block_size_bytes,
            "physical_block_size_bytes": info.physical_block_size_bytes,
            "rotational": info.rotational,
            "cache": info.cache,
            "model": info.model,
            "serial": info.serial,
            "enclosure": info.enclosure,
            "slot": info.slot,
            "why": info.why,
            "instance": info.instance,
            "written_ns": info.written_ns,
            "config": info.config,
            "discard_granularity_bytes": info.discard_granularity_bytes,
            "discard_alignment_bytes": info.discard_alignment_bytes,
            "present": disk.present,
            "opens": self._opens[disk_id],
            "local": info.node == self.settings.node,
            "io": self._initiator.io(disk_id),
        }

    def _facts(self) -> MountFacts:
        """Return everything except the disks, the enclosures and the problems."""
        settings = self.settings
        recent = self.problem_watch.recent
        addresses = {node.name: len(node.addresses) for node in settings.config.nodes}
        return {
            "version": STATUS_VERSION,
            **process_facts(),
            "whole": True,
            "mountpoint": settings.mountpoint,
            "config": str(settings.config.path),
            "node": settings.node,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "io_timeout_s": settings.io_timeout_s,
            "security": settings.config.cluster.security.value,
            "addresses": addresses[settings.node],
            "exporters": [
                {
                    **exporter,
                    "addresses": addresses.get(exporter["node"], 0),
                    "config_digest": next((info.config for info in self._announced(exporter["node"])), ""),
                }
                for exporter in self._initiator.status()
            ],
            "config_digest": settings.config.digest,
            "refused": sorted(self._mesh.catalog.problems),
            "refused_enclosures": sorted(self._mesh.enclosures.problems),
            "slot_problems": list(self._mesh.tree.slot_problems),
            "control": self._control,
            "config_state": self._config_watch.state(),
            "log": self._log_state(),
            "recent": {
                "disk_errors": recent("disk_errors"),
                "path_losses": recent("path_losses"),
                "path_forgeries": recent("path_forgeries"),
                "counters": recent("counters"),
            },
        }

    def _announced(self, node: str) -> tuple[DiskInfo, ...]:
        exporter = self._initiator.exporters.get(node)
        return () if exporter is None else exporter.disks

    # --- problems ----------------------------------------------------------------------

    def _counts(self) -> Mapping[str, Mapping[str, int]]:
        paths = [
            (path_key(MountExporterRecord(exporter), PathRecord(path)), path)
            for exporter in self._initiator.status()
            for path in exporter["channels"]
        ]
        return {
            "disk_errors": self._initiator.errors(),
            "path_losses": {key: path["losses"] for key, path in paths},
            "path_forgeries": {key: path["bad_signatures"] for key, path in paths},
            "counters": {"internal_errors": bugs.count()},
        }

    async def _find(self) -> list[Problem]:
        return await _slow_problems(await self._slow_findings())


def _describe_enclosure(enclosure: CatalogEnclosure) -> MountEnclosure:
    info = enclosure.info
    return {
        "id": info.id,
        "node": info.node,
        "name": info.name,
        "kind": info.kind.value,
        "access": info.access.value,
        "state": enclosure.state,
        "why": info.why,
        "vendor": info.vendor,
        "product": info.product,
        "revision": info.revision,
        "size_bytes": info.size_bytes,
        "changed_ns": info.changed_ns,
        "slots": [
            {
                "name": slot.name,
                "text": slot.text,
                "number": slot.number,
                "status": slot.status,
                "locate": slot.locate,
                "fault": slot.fault,
                "disk": slot.disk,
                "why": slot.why,
            }
            for slot in info.slots
        ],
        "present": enclosure.present,
    }


async def _slow_problems(findings: MountFindings) -> list[Problem]:
    """Return the problems that `mount_problems` finds, and let I/O go on between the rules."""
    found: list[Problem] = []
    for some in steps(MOUNT_RULES, MountRecord(findings)):
        found += some
        await trio.lowlevel.checkpoint()
    return found
