"""What a mount needs of the initiator: Protocols, so that a mount can be tried without a network."""

from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from meshfs.fuse.handles import DiskPort
from meshfs.initiator import ExporterState
from meshfs.model import DiskInfo
from meshfs.mount.settings import Settings
from meshfs.telemetry.documents import DiskIoDocument, RemoteExporterStatus


class ExporterView(Protocol):
    """What the mount reads of the session to one exporter."""

    @property
    def state(self) -> ExporterState:
        """The state of the mount's session with it."""

    @property
    def disks(self) -> tuple[DiskInfo, ...]:
        """The disks that it announced last."""


class Exporters(Protocol):
    """The initiator, as the mount uses it."""

    on_change: Callable[[], None]

    @property
    def exporters(self) -> Mapping[str, ExporterView]: ...

    def port(self, disk_id: str) -> DiskPort: ...

    def status(self) -> list[RemoteExporterStatus]: ...

    def io(self, disk_id: str) -> DiskIoDocument: ...

    def errors(self) -> Mapping[str, int]:
        """Return the count of I/O errors of each disk that was used so far."""

    def reload(self, settings: Settings) -> None: ...

    async def settle(self) -> None:
        """Flush what was written and not flushed. It is bounded in time and never raises."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...
