"""The disks and enclosures that a mount shows. The catalogs and the tree follow the sessions with the exporters.

initiator --on_change--> refresh -> catalogs -> tree
"""

import time

import trio

from meshfs.enclosure_info import EnclosureInfo
from meshfs.fuse.gone_pages import GonePages
from meshfs.initiator import ExporterState
from meshfs.mesh_view import DiskView
from meshfs.model import DiskInfo
from meshfs.mount.exporters import Exporters
from meshfs.mount.settings import Settings
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.enclosures import EnclosureCatalog
from meshfs.namespace.tree import MeshTree


class Mesh:
    """Updates the catalogs and the tree. ``gone`` collects the inodes whose cached pages are no longer valid."""

    def __init__(self, settings: Settings, initiator: Exporters, gone: GonePages) -> None:
        nodes = [node.name for node in settings.config.nodes]
        self.catalog = Catalog(nodes)
        self.enclosures = EnclosureCatalog(nodes)
        self.tree = MeshTree(self.catalog.nodes, time.time_ns())
        #: Every change of an exporter or of its disks sets this event and replaces it by a new one.
        self.changed = trio.Event()
        #: This event is set when the first attempt to reach each exporter has succeeded or failed.
        self.settled = trio.Event()
        self._initiator = initiator
        self._gone = gone
        self._seen: dict[str, tuple[bool, tuple[DiskInfo, ...], tuple[EnclosureInfo, ...]]] = {}

    def refresh(self) -> None:
        """Update the catalogs and the tree to the present state of the sessions."""
        changed = False
        for node, exporter in self._initiator.exporters.items():
            seen = (exporter.state is ExporterState.CONNECTED, exporter.disks, exporter.enclosures)
            if seen == self._seen.get(node):
                continue
            self._seen[node] = seen
            changed = True
            if seen[0]:
                self.catalog.announce(node, exporter.disks)
                self.enclosures.announce(node, exporter.enclosures)
            else:
                self.catalog.lost(node)
                self.enclosures.lost(node)
        if changed:
            self._update()
        if all(exporter.state is not ExporterState.CONNECTING for exporter in self._initiator.exporters.values()):
            self.settled.set()

    def shown_disks(self, node: str) -> tuple[DiskView, ...]:
        """Return the disks of a node that the tree shows, and that the node's exporter offers now."""
        disks = self.catalog.disks.values()
        infos = (disk.info for disk in disks if disk.present and disk.info.node == node)
        return tuple(DiskView(info.id, info.size_bytes, info.instance) for info in infos)

    def _update(self) -> None:
        self._gone.add(self.tree.update(self.catalog.disks, time.time_ns(), self.enclosures.enclosures))
        changed_now, self.changed = self.changed, trio.Event()
        changed_now.set()

    def reload(self, settings: Settings) -> None:
        """Show the disks and enclosures of another config of the same node."""
        nodes = [node.name for node in settings.config.nodes]
        self.catalog.take_nodes(nodes)
        self.enclosures.take_nodes(nodes)
        self.tree.take_nodes(nodes)
        # Forget what was seen, so that `refresh` looks at every exporter again.
        self._seen.clear()
        self._initiator.reload(settings)
        for node in nodes:
            if node not in self._initiator.exporters:
                # The config has no disks of this node (any more). So there is no session that would report that.
                self.catalog.announce(node, ())
                self.enclosures.announce(node, ())
        self.refresh()
        self._update()
