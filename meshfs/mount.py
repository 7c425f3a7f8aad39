"""Composition root of the mount process: options, config and keys, initiator, tree, FUSE.

    initiator --on_change--> catalog -> tree <-- operations <-- FUSE loop
    ports of the initiator <--------------------'

The command returns when the tree serves: every exporter has been tried, or has had
``limits.MOUNT_SETTLE_S`` to answer. An exporter that is down stops nothing; its disks come
with it. The process ends with umount(8), or unmounts at SIGTERM, SIGINT and SIGHUP.
"""

import errno
import grp
import json
import logging
import logging.handlers
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from meshfs import config as cluster_config
from meshfs import limits
from meshfs.awaited import expanded, missing_disks
from meshfs.background import Ready, run_in_background
from meshfs.buffers import keep_freed_memory
from meshfs.config import Config
from meshfs.errors import ConfigError
from meshfs.fuse.operations import Operations, Port
from meshfs.fuse.session import MountFailed, serve
from meshfs.inherited import let_go_of_starter, open_standard_streams
from meshfs.initiator import Initiator
from meshfs.keys import Keyring
from meshfs.model import DiskInfo
from meshfs.mount_options import USAGE, MountOptions, UsageError, kernel_options, parse_arguments
from meshfs.mountinfo import read_mounts, topmost
from meshfs.namespace.catalog import Catalog, CatalogDisk
from meshfs.namespace.tree import Tree
from meshfs.systemd import notify

if TYPE_CHECKING:
    from meshfs.metrics import MetricsServer, Snapshot

log = logging.getLogger(__name__)

# mount(8), "EXIT STATUS"; 2 is also what every command of meshfs gives for a bad config.
EXIT_USAGE: Final = 1
EXIT_CONFIG: Final = 2
EXIT_FAILURE: Final = 32

STATUS_VERSION: Final = 1
_SYSLOG: Final = "/dev/log"
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SYSLOG_FORMAT: Final = "meshfs[%(process)d]: %(levelname)s %(name)s: %(message)s"


class Exporter(Protocol):
    """What the mount reads of the session to one exporter."""

    @property
    def state(self) -> str:
        """connected, connecting (not tried yet) or down."""

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
    """The tree and what keeps it true to the exporters."""

    def __init__(self, settings: Settings, initiator: Exporters) -> None:
        self._settings = settings
        self._initiator = initiator
        self._started_s = time.monotonic()
        self._catalog = Catalog([node.name for node in settings.config.nodes])
        self._tree = Tree(self._catalog.nodes, time.time_ns())
        self._seen: dict[str, tuple[bool, tuple[DiskInfo, ...]]] = {}
        self._reported: frozenset[str] = frozenset()
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
            seen = (exporter.state == "connected", exporter.disks)
            if seen == self._seen.get(node):
                continue
            self._seen[node] = seen
            changed = True
            if seen[0]:
                self._catalog.announce(node, exporter.disks)
            else:
                self._catalog.lost(node)
        if changed:
            self.operations.gone(self._tree.update(self._catalog.disks, time.time_ns()))
            self._report()
            changed_now, self.changed = self.changed, trio.Event()
            changed_now.set()
        if all(exporter.state != "connecting" for exporter in self._initiator.exporters.values()):
            self.settled.set()

    def _report(self) -> None:
        problems = frozenset(self._catalog.problems)
        for problem in sorted(problems - self._reported):
            log.warning("not shown: %s", problem)
        self._reported = problems

    def status(self) -> bytes:
        """The text of the status file."""
        return json.dumps(self.document()).encode() + b"\n"

    def document(self) -> dict[str, Any]:
        """Plain values, none of which changes later."""
        return {**self._document(), "disks": [self._describe(*known) for known in self._catalog.disks.items()]}

    async def slow_document(self) -> dict[str, Any]:
        """The same, made while I/O goes on: each disk's part is of another moment."""
        disks = []
        for known in list(self._catalog.disks.items()):
            disks.append(self._describe(*known))
            await trio.lowlevel.checkpoint()
        return {**self._document(), "disks": disks}

    def _describe(self, disk_id: str, disk: CatalogDisk) -> dict[str, Any]:
        return {
            **asdict(disk.info),
            "state": disk.state,
            "present": disk.present,
            "opens": self.operations.opens[disk_id],
            "local": disk.info.node == self._settings.node,
            "io": self._initiator.io(disk_id),
        }

    def _document(self) -> dict[str, Any]:
        """All but the disks."""
        return {
            "version": STATUS_VERSION,
            "mountpoint": self._settings.mountpoint,
            "config": str(self._settings.config.path),
            "node": self._settings.node,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "io_timeout_s": self._settings.io_timeout_s,
            "exporters": self._initiator.status(),
            "problems": sorted(self._reported),
        }


async def run(settings: Settings, initiator: Exporters, on_ready: Ready) -> None:
    """Mount and serve until the unmount or a signal. Raises MountFailed."""
    keep_freed_memory()
    mesh = Mesh(settings, initiator)
    with _metrics(settings.options.metrics, mesh.slow_document) as metrics:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await nursery.start(initiator.run)
            if metrics is not None:
                nursery.start_soon(metrics.run)
            with trio.move_on_after(limits.MOUNT_SETTLE_S):
                await mesh.settled.wait()
            options = kernel_options(settings.options, str(settings.config.path), root=os.geteuid() == 0)
            served = trio.Event()
            nursery.start_soon(_announce, served, mesh, settings, on_ready)
            await serve(mesh.operations, settings.mountpoint, options, on_ready=served.set)
            nursery.cancel_scope.cancel()


async def _announce(served: trio.Event, mesh: Mesh, settings: Settings, on_ready: Ready) -> None:
    """Call ``on_ready`` once the tree is served and the disks of ``-o wait=`` can be used, or their time is over."""
    await served.wait()
    timeout_s = settings.options.wait_timeout_s
    with trio.move_on_after(timeout_s):
        while missing_disks(settings.awaited, mesh.document()):
            await mesh.changed.wait()
    for line in missing_disks(settings.awaited, mesh.document()):
        text = f"{settings.mountpoint} is mounted, and after {timeout_s:g} s (wait_timeout) {line}"
        log.warning("%s", text)
        if not settings.options.foreground:
            # The command's standard error, until on_ready; in the foreground the log is there.
            print(f"meshfs: {text}", file=sys.stderr)
    on_ready()


@contextmanager
def _metrics(place: tuple[str, int] | None, snapshot: "Snapshot") -> "Iterator[MetricsServer | None]":
    """The server that tells Prometheus, when one is wanted. Raises MountFailed."""
    if place is None:
        yield None
        return
    # The library takes time and memory, so it is loaded for those who use it.
    from meshfs.mount_metrics import open_mount_metrics

    try:
        server = open_mount_metrics(place, snapshot)
    except ConfigError as error:
        raise MountFailed(str(error)) from error
    with closing(server):
        yield server


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            scope.cancel()


def main() -> int:
    """The command ``meshfs``, and mount(8)'s helper when called ``mount.meshfs``."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print(USAGE, end="")
        return 0
    open_standard_streams()
    try:
        settings = prepare(parse_arguments(sys.argv[0], sys.argv[1:]))
    except UsageError as error:
        print(f"meshfs: {error}\n{USAGE.splitlines()[0]}", file=sys.stderr)
        return EXIT_USAGE
    except ConfigError as error:
        print(f"meshfs: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except MountFailed as error:
        print(f"meshfs: {error}", file=sys.stderr)
        return EXIT_FAILURE
    if settings.options.fake:
        return 0
    let_go_of_starter()
    if settings.options.foreground:
        return _work(settings, lambda: notify("READY=1"))
    return run_in_background(lambda on_ready: _work(settings, on_ready), EXIT_FAILURE)


def prepare(options: MountOptions) -> Settings:
    """Check everything that can be checked at once. Raises ConfigError and MountFailed."""
    config = cluster_config.load(options.config)
    node = config.own_node(options.node).name
    if options.log_path is not None:
        options = replace(options, log_path=os.path.abspath(options.log_path))
    mountpoint = _mountpoint(options.mountpoint)
    if not options.fake:
        _refuse_second_mount(mountpoint)
    awaited = expanded(options.wait, config, node)
    return Settings(config, node, Keyring(config, node), mountpoint, options, awaited)


def _mountpoint(text: str) -> str:
    """The directory without symlinks, as the kernel will list it."""
    try:
        path = Path(text).resolve(strict=True)
        is_directory = path.is_dir()
        # Unlike stat's, its answer is never the kernel's memory of a process that died.
        os.statvfs(path)
    except OSError as error:
        dead = "; a mount whose process died is still there: umount it first"
        raise MountFailed(f"{text}: {error.strerror}{dead if error.errno == errno.ENOTCONN else ''}") from error
    if not is_directory:
        raise MountFailed(f"{text}: not a directory")
    return str(path)


def _refuse_second_mount(mountpoint: str) -> None:
    """Raise MountFailed where a mesh is mounted already: a second one would hide the first unnoticed."""
    mount = topmost(read_mounts(), mountpoint)
    # The devices differ where another mount on a folder above hides this one.
    if mount is not None and mount.is_mesh and mount.device == os.stat(mountpoint).st_dev:
        raise MountFailed(f"{mountpoint}: {mount.source} is mounted here already; umount it first")


def _work(settings: Settings, on_ready: Ready) -> int:
    """Everything from here runs in the process that serves; the exit status."""
    status = 0
    try:
        _start_logging(settings.options)
        trio.run(run, settings, Initiator(settings), on_ready)
    except* (MountFailed, OSError) as group:
        status = EXIT_FAILURE
        for error in _leaves(group):
            log.error("%s", error)
            print(f"meshfs: {error}", file=sys.stderr)
    return status


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _start_logging(options: MountOptions) -> None:
    handler: logging.Handler
    if options.log_path is not None:
        handler = logging.FileHandler(options.log_path)
    elif options.foreground:
        handler = logging.StreamHandler()
    elif os.path.exists(_SYSLOG):
        handler = logging.handlers.SysLogHandler(_SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.append_nul = False
    else:
        print(f"meshfs: there is no {_SYSLOG}: nothing will be logged (-o log=FILE)", file=sys.stderr)
        handler = logging.NullHandler()
    syslog = isinstance(handler, logging.handlers.SysLogHandler)
    handler.setFormatter(logging.Formatter(_SYSLOG_FORMAT if syslog else _LOG_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if options.debug else logging.INFO)


def _group(name: str) -> int:
    """The group's number; root's where this system has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
