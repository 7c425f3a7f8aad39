"""What a mount shows: the tree, kept true to the exporters' sessions, and the status document.

initiator --on_change--> catalog -> tree <-- operations
                                `-> document -> problems (status file, metrics, log)
"""

import grp
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import trio

from meshfs import bugs, limits
from meshfs.cluster.config import Config
from meshfs.cluster.config_changes import Changes, Name, View, compare, mount_view
from meshfs.cluster.config_watch import ConfigWatch, Loaded
from meshfs.cluster.keys import Keyring
from meshfs.fuse.handles import Port
from meshfs.fuse.operations import Operations
from meshfs.initiator import ExporterState
from meshfs.model import DiskInfo
from meshfs.mount.options import MountOptions
from meshfs.mount.status_views import for_others
from meshfs.namespace.catalog import Catalog, CatalogDisk
from meshfs.namespace.tree import Tree
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.problem_finders import path_key
from meshfs.telemetry.problem_watch import ProblemWatch
from meshfs.telemetry.problems import MOUNT_RULES, Problem, mount_problems, steps
from meshfs.telemetry.process_facts import process_facts

STATUS_VERSION: Final = 1
#: Settings of the cluster that hold from the mount to the umount: every login goes by them.
UNTIL_REMOUNT: Final[frozenset[Name]] = frozenset((("", "name of the cluster"), ("", "security")))


class Exporter(Protocol):
    """What the mount reads of the session to one exporter."""

    @property
    def state(self) -> ExporterState:
        """Whether the mount has a session with it."""

    @property
    def disks(self) -> tuple[DiskInfo, ...]:
        """What it announced last."""


class Exporters(Protocol):
    """The initiator, as the mount uses it."""

    on_change: Callable[[], None]

    @property
    def exporters(self) -> Mapping[str, Exporter]: ...

    def port(self, disk_id: str) -> Port: ...

    def status(self) -> list[dict[str, Any]]: ...

    def io(self, disk_id: str) -> dict[str, Any]: ...

    def errors(self) -> Mapping[str, int]:
        """I/O errors of each disk that was used so far."""

    def reload(self, settings: "Settings") -> None: ...

    async def settle(self) -> None:
        """Flush what was written and not flushed; bounded, never raises."""

    async def run(self, *, task_status: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """All a mount needs, checked before anything is started."""

    config: Config
    node: str
    keyring: Keyring
    mountpoint: str
    options: MountOptions
    #: The disks of ``-o wait=``, by id or NODE/NAME.
    awaited: tuple[str, ...] = ()

    @property
    def io_timeout_s(self) -> float:
        chosen = self.options.io_timeout_s
        return self.config.cluster.io_timeout_s if chosen is None else chosen


class Mesh:
    """The tree and what keeps it true to the exporters; ``log_state`` is the document's "log"."""

    def __init__(
        self, settings: Settings, initiator: Exporters, log_state: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self._settings = settings
        self._initiator = initiator
        self._log_state = log_state
        self._started_s = time.monotonic()
        #: The path of the control socket; empty without one.
        self.control = ""
        self._catalog = Catalog([node.name for node in settings.config.nodes])
        self._tree = Tree(self._catalog.nodes, time.time_ns())
        self._seen: dict[str, tuple[bool, tuple[DiskInfo, ...]]] = {}
        self._in_force: View = mount_view(settings.config, settings.node, settings.keyring.prints())
        self.config_watch = ConfigWatch(settings.config.given, settings.node, self.changes)
        self.problem_watch = ProblemWatch(self._counts, self._find)
        #: Set, and replaced by another, at every change of an exporter or of its disks.
        self.changed = trio.Event()
        #: Set when every exporter was reached or given up once.
        self.settled = trio.Event()
        self.operations = Operations(
            self._tree,
            lambda info: initiator.port(info.id),
            self.status,
            io_class=settings.options.io_class,
            page_cache=settings.options.page_cache,
            disk_gid=_group("disk"),
        )
        initiator.on_change = self.refresh
        self.refresh()

    def refresh(self) -> None:
        """Bring the tree to what the exporters' sessions say now."""
        changed = False
        for node, exporter in self._initiator.exporters.items():
            seen = (exporter.state is ExporterState.CONNECTED, exporter.disks)
            if seen == self._seen.get(node):
                continue
            self._seen[node] = seen
            changed = True
            if seen[0]:
                self._catalog.announce(node, exporter.disks)
            else:
                self._catalog.lost(node)
        if changed:
            self._update()
        if all(exporter.state is not ExporterState.CONNECTING for exporter in self._initiator.exporters.values()):
            self.settled.set()

    def _update(self) -> None:
        self.operations.gone.add(self._tree.update(self._catalog.disks, time.time_ns()))
        changed_now, self.changed = self.changed, trio.Event()
        changed_now.set()

    def changes(self, loaded: Loaded) -> Changes:
        """What a config that was read differs in from what is in force."""
        return compare(self._in_force, mount_view(loaded.config, self._settings.node, loaded.prints), UNTIL_REMOUNT)

    def reload(self, settings: Settings, loaded: Loaded) -> None:
        """Go by other settings of the same node."""
        self._settings = settings
        new = mount_view(loaded.config, settings.node, loaded.prints)
        self._in_force = {**new, **{name: self._in_force[name] for name in UNTIL_REMOUNT}}
        self.operations.io_class = settings.options.io_class
        self.operations.page_cache = settings.options.page_cache
        nodes = [node.name for node in settings.config.nodes]
        self._catalog.take_nodes(nodes)
        self._tree.take_nodes(nodes)
        # Every exporter is looked at again, those that are new or gone as well.
        self._seen.clear()
        self._initiator.reload(settings)
        for node in nodes:
            if node not in self._initiator.exporters:
                # The config gives the node no disks (any more), so there is no session that would say so.
                self._catalog.announce(node, ())
        self.refresh()
        self._update()

    async def run(self) -> None:
        """Look for problems until cancelled, once every exporter had its chance."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.config_watch.run)
            with trio.move_on_after(limits.MOUNT_SETTLE_S):
                await self.settled.wait()
            nursery.start_soon(self.problem_watch.run)

    # --- the status document -----------------------------------------------------------

    def status(self, whole: bool) -> bytes:
        """The text of the status file; ``whole``: for one who may see everybody's I/O."""
        document = self.document()
        return json.dumps(document if whole else for_others(document)).encode() + b"\n"

    def document(self) -> dict[str, Any]:
        """Plain values, none of which changes later."""
        disks = [self._describe(*known) for known in self._catalog.disks.items()]
        facts = {**self._facts(), "disks": disks}
        return {**facts, "problems": [problem.as_json() for problem in mount_problems(facts)]}

    async def slow_document(self) -> dict[str, Any]:
        """The same, made while I/O goes on: each disk's part is of another moment."""
        facts = await self._slow_facts()
        return {**facts, "problems": [problem.as_json() for problem in await _slow_problems(facts)]}

    async def _slow_facts(self) -> dict[str, Any]:
        disks = []
        for known in list(self._catalog.disks.items()):
            disks.append(self._describe(*known))
            await trio.lowlevel.checkpoint()
        return {**self._facts(), "disks": disks}

    def _describe(self, disk_id: str, disk: CatalogDisk) -> dict[str, Any]:
        return {
            **asdict(disk.info),
            "state": disk.state,
            "present": disk.present,
            "opens": self.operations.opens[disk_id],
            "local": disk.info.node == self._settings.node,
            "io": self._initiator.io(disk_id),
        }

    def _facts(self) -> dict[str, Any]:
        """All but the disks, and what is found in it."""
        settings = self._settings
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
            "refused": sorted(self._catalog.problems),
            "control": self.control,
            "config_state": self.config_watch.state(),
            "log": self._log_state(),
            "recent": self.problem_watch.recent(),
        }

    def _announced(self, node: str) -> tuple[DiskInfo, ...]:
        exporter = self._initiator.exporters.get(node)
        return () if exporter is None else exporter.disks

    # --- problems ----------------------------------------------------------------------

    def _counts(self) -> Mapping[str, Mapping[str, int]]:
        exporters = [Fields(exporter) for exporter in self._initiator.status()]
        paths = [(path_key(exporter, path), path) for exporter in exporters for path in exporter.items("channels")]
        return {
            "disk_errors": self._initiator.errors(),
            "path_losses": {key: path.integer("losses") or 0 for key, path in paths},
            "path_forgeries": {key: path.integer("bad_signatures") or 0 for key, path in paths},
            "counters": {"internal_errors": bugs.count()},
        }

    async def _find(self) -> list[Problem]:
        return await _slow_problems(await self._slow_facts())


async def _slow_problems(facts: Mapping[str, Any]) -> list[Problem]:
    """What `mount_problems` finds, with turns for I/O between the rules."""
    found: list[Problem] = []
    for some in steps(MOUNT_RULES, facts):
        found += some
        await trio.lowlevel.checkpoint()
    return found


def _group(name: str) -> int:
    """The group's number; root's where this system has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
