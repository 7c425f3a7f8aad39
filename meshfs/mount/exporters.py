"""Protocols of the initiator's methods that a mount uses, so that a mount can be tested without a network."""

from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from meshfs.enclosure_info import EnclosureInfo
from meshfs.fuse.enclosure_files import EnclosurePort
from meshfs.fuse.handles import DiskPort
from meshfs.initiator import ExporterState
from meshfs.mesh_view import DiskView, ViewExchange
from meshfs.model import DiskInfo
from meshfs.mount.settings import Settings
from meshfs.telemetry.documents import DiskIoDocument, RemoteExporterStatus


class ExporterView(Protocol):
    """Declares what a mount reads of the session to one exporter."""

    @property
    def state(self) -> ExporterState:
        """Return the state of the mount's session to the exporter."""

    @property
    def disks(self) -> tuple[DiskInfo, ...]:
        """Return the disks that the exporter announced last."""

    @property
    def enclosures(self) -> tuple[EnclosureInfo, ...]:
        """Return the enclosures that the exporter announced last."""


class Exporters(Protocol):
    """Declares the methods of the initiator that a mount uses."""

    on_change: Callable[[], None]
    shown_disks: Callable[[str], tuple[DiskView, ...]]

    @property
    def exporters(self) -> Mapping[str, ExporterView]: ...

    def port(self, disk_id: str) -> DiskPort: ...

    def enclosure(self, info: EnclosureInfo) -> EnclosurePort:
        """Return the port of an enclosure. Raises OSError ENODEV if its node has left the cluster."""

    def status(self) -> list[RemoteExporterStatus]: ...

    def io(self, disk_id: str) -> DiskIoDocument: ...

    def errors(self) -> Mapping[str, int]:
        """Return the number of I/O errors of each disk that has been used."""

    def reload(self, settings: Settings) -> None: ...

    async def exchange_views(self, node: str) -> ViewExchange:
        """Return the views of all mounts from the exporter of a node, within a time limit.

        Raises KeyError if the config has no such exporter, MeshfsError if it does not answer, and TimeoutError.
        """

    async def settle(self) -> None:
        """Flush all writes that are not flushed yet. Never raises; has a time limit."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...
