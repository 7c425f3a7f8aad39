"""Keeps all exporters of the cluster as seen from one node."""

import errno
import functools
import logging
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol
from weakref import WeakValueDictionary

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.cluster.keys import Keyring
from meshfs.enclosure_info import EnclosureInfo
from meshfs.initiator.attached.enclosure import RemoteEnclosure
from meshfs.initiator.attached.port import Port
from meshfs.initiator.attached.port_meter import PortMeter
from meshfs.initiator.remote.dialing import TcpWays, UnixWay, Ways
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.status import exporter_status, reach_of
from meshfs.initiator.session.negotiation import Policy
from meshfs.linux.interfaces import Interface, KnownInterfaces
from meshfs.mesh_view import DiskView, MountView, ViewExchange
from meshfs.smb.auth import Login
from meshfs.telemetry.documents import DiskIoDocument, RemoteExporterStatus

logger = logging.getLogger(__name__)


class InitiatorSettings(Protocol):
    """Gives an initiator what it is configured with."""

    @property
    def config(self) -> Config: ...

    @property
    def node(self) -> str: ...

    @property
    def keyring(self) -> Keyring: ...

    @property
    def io_timeout_s(self) -> float: ...


class Initiator:
    """Keeps a session to every exporter, and has a port for every disk and enclosure that they advertise."""

    def __init__(self, settings: InitiatorSettings, *, policy: Policy | None = None) -> None:
        self._settings = settings
        self._ports: dict[str, Port] = {}
        # The ports of enclosures that are in use, by node and id.
        self._enclosures: WeakValueDictionary[tuple[str, str], RemoteEnclosure] = WeakValueDictionary()
        self._nursery: trio.Nursery | None = None
        self._pool = BufferPool()
        #: Is called when the state or the disks of an exporter changed. It must not await.
        self.on_change: Callable[[], None] = lambda: None
        #: Returns the disks of a node that the mount shows, for the views of the mesh.
        self.shown_disks: Callable[[str], tuple[DiskView, ...]] = lambda _: ()
        self._interfaces: tuple[Interface, ...] = ()
        self._policy = policy or Policy(settings.config.cluster.security)
        # All exporters see the same ClientGuid (MS-SMB2 3.2.1.1), and a new one after a restart.
        self._guid = uuid.uuid4().bytes_le
        self.exporters: dict[str, RemoteExporter] = {
            node.name: self._exporter(node) for node in settings.config.nodes if node.may_have_disks
        }

    def _exporter(self, node: NodeConfig) -> RemoteExporter:
        multichannel = self._settings.config.multichannel
        return RemoteExporter(
            node.name,
            self._ways(node),
            functools.partial(self._login, node.name),
            policy=self._policy,
            guid=self._guid,
            pool=self._pool,
            on_change=self._changed,
            channels=multichannel.channels,
            dead_after_s=multichannel.dead_after_s,
            io_timeout_s=self._settings.io_timeout_s,
            own_view=functools.partial(self._view, node.name),
        )

    def _changed(self) -> None:
        self.on_change()
        for exporter in self.exporters.values():
            exporter.views.changed()

    def _view(self, node: str) -> MountView:
        """Return what this mount sees of the disks of a node, and how it reaches every exporter."""
        reach = (reach_of(exporter) for exporter in self.exporters.values())
        return MountView(self.shown_disks(node), tuple(reach))

    async def exchange_views(self, node: str) -> ViewExchange:
        """Return the views of all mounts from the exporter of a node, within CHECK_TIMEOUT_S.

        Raises KeyError if the config has no such exporter, ChannelLost if it is away, StatusError if it refuses, and
        TimeoutError.
        """
        return await self.exporters[node].views.exchange(trio.current_time() + limits.CHECK_TIMEOUT_S)

    def reload(self, settings: InitiatorSettings) -> None:
        """Use other settings of the same node from now on. The caller then looks at ``exporters`` again.

        Removed nodes lose their sessions, new nodes get one, and the others keep theirs.
        """
        assert self._nursery is not None, "sessions are made while the initiator runs"
        self._settings = settings
        before, self.exporters = self.exporters, {}
        multichannel = settings.config.multichannel
        for node in settings.config.nodes:
            known = before.pop(node.name, None) if node.may_have_disks else None
            if known is not None:
                known.configure(
                    self._ways(node), multichannel.channels, multichannel.dead_after_s, settings.io_timeout_s
                )
                self.exporters[node.name] = known
            elif node.may_have_disks:
                made = self.exporters[node.name] = self._exporter(node)
                self._nursery.start_soon(made.run)
        for gone in before.values():
            gone.remove()
        for disk_id, port in list(self._ports.items()):
            port.io_timeout_s = settings.io_timeout_s
            if port.exporter in before.values():
                self._ports.pop(disk_id).remove()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all sessions, until cancelled. The task counts as started at once, even if exporters are down."""
        with closing(KnownInterfaces()) as known:
            self._interfaces = known.current
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(known.run)
                nursery.start_soon(self._follow_interfaces, known)
                for exporter in self.exporters.values():
                    nursery.start_soon(exporter.run)
                task_status.started()
                await trio.sleep_forever()

    async def _follow_interfaces(self, known: KnownInterfaces) -> None:
        """Plan the paths to every exporter again whenever an interface of this machine changes."""
        while True:
            self._interfaces = await known.changed_from(self._interfaces)
            for exporter in self.exporters.values():
                exporter.interfaces_changed()

    def port(self, disk_id: str) -> Port:
        """Return the port of an advertised disk. It is the same one as long as the disk's owner is the same.

        Raises KeyError for an id that no exporter ever advertised.
        """
        port = self._ports.get(disk_id)
        others = [exporter for exporter in self.exporters.values() if port is None or exporter is not port.exporter]
        for exporter in others if port is None else [port.exporter, *others]:
            info = next((info for info in exporter.disks if info.id == disk_id and info.node == exporter.node), None)
            if info is None:
                continue
            if port is None or port.exporter is not exporter:
                port = self._ports[disk_id] = Port(info, exporter, self._settings.io_timeout_s, self._spawn)
            port.announced(info)
            return port
        return self._ports[disk_id]

    def enclosure(self, info: EnclosureInfo) -> RemoteEnclosure:
        """Return the port of an advertised enclosure. Raises OSError ENODEV if its node has left the cluster."""
        exporter = self.exporters.get(info.node)
        if exporter is None:
            raise OSError(errno.ENODEV, f"enclosure {info.id}: node {info.node} is not in the config any more")
        port = self._enclosures.get((info.node, info.id))
        if port is None or port.exporter is not exporter:
            port = self._enclosures[info.node, info.id] = RemoteEnclosure(info.id, exporter, self._spawn)
        return port

    async def settle(self) -> None:
        """Flush at the owners what this mount wrote and nobody flushed, within UMOUNT_FLUSH_TIMEOUT_S."""
        with trio.move_on_after(limits.UMOUNT_FLUSH_TIMEOUT_S) as patience:
            async with trio.open_nursery() as nursery:
                for disk_id, port in self._ports.items():
                    nursery.start_soon(self._settle, disk_id, port)
        if patience.cancelled_caught:
            logger.warning(
                "unmounted before all writes were flushed: it took more than %g s", limits.UMOUNT_FLUSH_TIMEOUT_S
            )

    async def _settle(self, disk_id: str, port: Port) -> None:
        try:
            await port.settle()
        except OSError as error:
            logger.error("disk %s: writes that nobody flushed may be lost: %s", disk_id, error)

    def status(self) -> list[RemoteExporterStatus]:
        """Return the exporters' part of the mount's status, for `meshctl paths`."""
        now = trio.current_time()
        return [exporter_status(exporter, now) for exporter in self.exporters.values()]

    def io(self, disk_id: str) -> DiskIoDocument:
        """Return what the openers of a disk got so far, for the mount's status. All counts are 0 before the first."""
        port, now = self._ports.get(disk_id), trio.current_time()
        return (PortMeter(now) if port is None else port.meter).status(now)

    def errors(self) -> dict[str, int]:
        """Return how many calls of the openers have failed so far, for each disk that was opened."""
        return {disk_id: port.meter.errors for disk_id, port in self._ports.items()}

    def _spawn(self, function: Callable[[], Any]) -> None:
        assert self._nursery is not None, "ports work while the initiator runs"
        self._nursery.start_soon(function)

    def _ways(self, node: NodeConfig) -> Ways:
        """Return the ways to a node's exporter. Only this node's own exporter is reached by a Unix socket."""
        if node.name == self._settings.node:
            return UnixWay(node.socket)
        own = self._settings.config.node(self._settings.node)
        return TcpWays(node.addresses, node.port, own.addresses, lambda: self._interfaces)

    def _login(self, exporter: str) -> Login:
        """Return a new login at the exporter. Raises KeyFileError while the exporter's public key is missing."""
        settings = self._settings
        password = settings.keyring.password_to(exporter)
        return Login(settings.node, password, settings.config.cluster.name)
