"""The disks that a mount shows: the catalog and the tree, kept true to the sessions with the exporters.

initiator --on_change--> refresh -> catalog -> tree
"""

import time

import trio

from meshfs.fuse.gone_pages import GonePages
from meshfs.initiator import ExporterState
from meshfs.model import DiskInfo
from meshfs.mount.exporters import Exporters
from meshfs.mount.settings import Settings
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.tree import MeshTree


class Mesh:
    """Keeps catalog and tree true to the exporters. ``gone`` collects inodes whose cached pages are no longer valid."""

    def __init__(self, settings: Settings, initiator: Exporters, gone: GonePages) -> None:
        self.catalog = Catalog([node.name for node in settings.config.nodes])
        self.tree = MeshTree(self.catalog.nodes, time.time_ns())
        #: Set, and replaced by another, at every change of an exporter or of its disks.
        self.changed = trio.Event()
        #: Set when every exporter was reached or given up once.
        self.settled = trio.Event()
        self._initiator = initiator
        self._gone = gone
        self._seen: dict[str, tuple[bool, tuple[DiskInfo, ...]]] = {}

    def refresh(self) -> None:
        """Bring the tree to what the sessions with the exporters say now."""
        changed = False
        for node, exporter in self._initiator.exporters.items():
            seen = (exporter.state is ExporterState.CONNECTED, exporter.disks)
            if seen == self._seen.get(node):
                continue
            self._seen[node] = seen
            changed = True
            if seen[0]:
                self.catalog.announce(node, exporter.disks)
            else:
                self.catalog.lost(node)
        if changed:
            self._update()
        if all(exporter.state is not ExporterState.CONNECTING for exporter in self._initiator.exporters.values()):
            self.settled.set()

    def _update(self) -> None:
        self._gone.add(self.tree.update(self.catalog.disks, time.time_ns()))
        changed_now, self.changed = self.changed, trio.Event()
        changed_now.set()

    def reload(self, settings: Settings) -> None:
        """Show the disks of another config of the same node."""
        nodes = [node.name for node in settings.config.nodes]
        self.catalog.take_nodes(nodes)
        self.tree.take_nodes(nodes)
        # Every exporter is looked at again, those that are new or gone as well.
        self._seen.clear()
        self._initiator.reload(settings)
        for node in nodes:
            if node not in self._initiator.exporters:
                # The config gives the node no disks (any more), so there is no session that would say so.
                self.catalog.announce(node, ())
        self.refresh()
        self._update()
