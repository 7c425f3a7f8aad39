"""A fake initiator with exporters in memory, so that a mount runs without a network."""

from collections.abc import Callable
from typing import Any, Protocol

import trio

from meshfs.cluster.config import Config
from meshfs.enclosure_info import EnclosureInfo
from meshfs.initiator import ExporterState
from meshfs.initiator.attached.port_meter import PortMeter
from meshfs.mesh_view import DiskView, MountView, SeenView, ViewExchange
from meshfs.model import DiskInfo
from meshfs.telemetry.documents import DiskIoDocument, RemoteExporterStatus
from meshlab.fakes.enclosure_port import FakeEnclosurePort
from meshlab.fakes.port import FakePort, fake_disk

DISK_BYTES = 1 << 20


class HasConfig(Protocol):
    """Declares the part of a mount's settings that the fake initiator uses."""

    @property
    def config(self) -> Config: ...


class FakeExporter:
    """Stands for an exporter: its state, and the disks and enclosures that it offers."""

    def __init__(self) -> None:
        self.state = ExporterState.CONNECTING
        self.disks: tuple[DiskInfo, ...] = ()
        self.enclosures: tuple[EnclosureInfo, ...] = ()


class FakeInitiator:
    """Connects to every node with disks once it runs, as an initiator does.

    A node whose name begins with ``silent`` never answers. A node without disks is down.
    """

    def __init__(self, settings: HasConfig) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.shown_disks: Callable[[str], tuple[DiskView, ...]] = lambda _: ()
        self.exporters = {node.name: FakeExporter() for node in settings.config.nodes}
        self.ports: dict[str, FakePort] = {}
        self.enclosures: dict[str, FakeEnclosurePort] = {}
        self._config = settings.config

    def port(self, disk_id: str) -> FakePort:
        return self.ports[disk_id]

    def enclosure(self, info: EnclosureInfo) -> FakeEnclosurePort:
        return self.enclosures.setdefault(info.id, FakeEnclosurePort(info))

    def status(self) -> list[RemoteExporterStatus]:
        return [_exporter_status(node, exporter.state.value) for node, exporter in self.exporters.items()]

    def io(self, disk_id: str) -> DiskIoDocument:
        io = PortMeter(0.0).status(0.0)
        io["reads"] = len(self.ports[disk_id].calls) if disk_id in self.ports else 0
        return io

    def errors(self) -> dict[str, int]:
        return {}

    def reload(self, settings: HasConfig) -> None:
        """Take over the config's nodes. Exporters of new nodes stay silent; a node without disks has no exporter."""
        known = self.exporters
        nodes = [node.name for node in settings.config.nodes if node.disks]
        self.exporters = {node: known.get(node, FakeExporter()) for node in nodes}

    async def exchange_views(self, node: str) -> ViewExchange:
        """Return what the exporter offers, and the view of this mount."""
        disks = self.shown_disks(node)
        return ViewExchange(disks, (SeenView("n1", 0.0, MountView(disks)),))

    async def settle(self) -> None:
        """Do nothing: there are never unflushed writes."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        for node in self._config.nodes:
            exporter = self.exporters[node.name]
            if node.name.startswith("silent"):
                continue
            exporter.disks = tuple(fake_disk(node.name, disk.name, DISK_BYTES) for disk in node.disks)
            exporter.state = ExporterState.CONNECTED if node.disks else ExporterState.DOWN
            self.ports |= {info.id: FakePort(info) for info in exporter.disks}
            self.on_change()
        await trio.sleep_forever()


def _exporter_status(node: str, state: str) -> RemoteExporterStatus:
    """Return the status of an exporter that has no paths."""
    return {
        "node": node,
        "state": state,
        "why": "",
        "since_s": 0.0,
        "retry_in_s": None,
        "away_s": None,
        "failing_fast": False,
        "hung_disks": [],
        "failures": 0,
        "bad_signatures": 0,
        "nonces_repeated": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "channels": [],
        "waiting": [],
    }
