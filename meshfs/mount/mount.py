"""The composition root of a mount. Only this module makes the parts and connects them.

    initiator --on_change--> Mesh (catalogs, tree) <-- Operations <-- front end
     its ports <--------------------------------------'   |
                                       Status <-- open files

The initiator is an argument here, and the front end is an argument in process.py. So a mount can be tested without a
network and without the kernel.
"""

import grp
from collections.abc import Callable

import trio

from meshfs import limits
from meshfs.cluster.config_watch import ConfigWatch, LoadedConfig
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import Operations
from meshfs.mount.check import MeshCheck
from meshfs.mount.discarding import Discarder
from meshfs.mount.exporters import Exporters
from meshfs.mount.in_force import InForce
from meshfs.mount.mesh import Mesh
from meshfs.mount.settings import Settings
from meshfs.mount.status import Status
from meshfs.telemetry.documents import LogState


class Mount:
    """Holds the parts of a mount.

    ``log_state`` returns the status document's "log". ``control`` is the path of the control socket, or "" without one.
    """

    def __init__(
        self, settings: Settings, initiator: Exporters, log_state: Callable[[], LogState], control: str = ""
    ) -> None:
        self.in_force = InForce(settings)
        self.config_watch = ConfigWatch(settings.config.given, settings.node, self.in_force.changes)
        files, gone = OpenFiles(), GonePages()
        self.mesh = Mesh(settings, initiator, gone)
        self.status = Status(settings, self.mesh, initiator, files.of_disk, self.config_watch, log_state, control)
        self.operations = Operations(
            self.mesh.tree,
            lambda info: initiator.port(info.id),
            initiator.enclosure,
            self.status.text,
            files,
            gone,
            io_class=settings.options.io_class,
            page_cache=settings.options.page_cache,
            disk_gid=_group("disk"),
        )
        self.discarder = Discarder(self.mesh, lambda info: initiator.port(info.id), self.operations)
        initiator.on_change = self.mesh.refresh
        initiator.shown_disks = self.mesh.shown_disks
        self.check = MeshCheck(settings.node, self.mesh, initiator)
        self.mesh.refresh()

    def reload(self, settings: Settings, loaded: LoadedConfig) -> None:
        """Put other settings of the same node in force. ``loaded`` is the config that was read for them."""
        self.status.settings = settings
        self.in_force.take(loaded)
        self.operations.io_class = settings.options.io_class
        self.operations.page_cache = settings.options.page_cache
        self.mesh.reload(settings)

    async def look(self) -> None:
        """Compare the config again and look for problems, because a reload may have changed both."""
        await self.config_watch.look(again=True)
        await self.status.problem_watch.look()

    async def run(self) -> None:
        """Watch the config, and look for problems, until cancelled.

        The first look for problems waits until every exporter was tried, but at most MOUNT_SETTLE_S.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.config_watch.run)
            with trio.move_on_after(limits.MOUNT_SETTLE_S):
                await self.mesh.settled.wait()
            nursery.start_soon(self.status.problem_watch.run)


def _group(name: str) -> int:
    """Return the number of the group, or that of root's group if this system has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
