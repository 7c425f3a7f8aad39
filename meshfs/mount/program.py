"""Composition root of the mount process: options, config and keys, initiator, tree, FUSE.

    initiator --on_change--> catalog -> tree <-- operations <-- FUSE loop
    ports of the initiator <--------------------'

The command returns when the tree serves: every exporter has been tried, or has had
``limits.MOUNT_SETTLE_S`` to answer. An exporter that is down stops nothing; its disks come
with it. The process ends with umount(8), or unmounts at SIGTERM and SIGINT; SIGHUP reloads (mount_reload.py).
"""

import errno
import logging
import logging.handlers
import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from meshfs import limits
from meshfs.buffers import keep_freed_memory
from meshfs.cluster import config as cluster_config
from meshfs.cluster.keys import Keyring
from meshfs.errors import ConfigError, MountFailed
from meshfs.fuse.front import FrontEnd
from meshfs.fuse.mountpoint import refuse_second_mount
from meshfs.fuse.pyfuse3_front.session import serve
from meshfs.initiator import Initiator
from meshfs.linux.background import Ready, run_in_background
from meshfs.linux.inherited import let_go_of_starter, open_standard_streams
from meshfs.linux.systemd import be_spared_at_shutdown, notify, notify_reloading
from meshfs.mount.awaited import expanded, missing_disks
from meshfs.mount.control import mount_control
from meshfs.mount.log import MountLog
from meshfs.mount.mesh import Exporters, Mesh, Settings
from meshfs.mount.options import (
    USAGE,
    MountOptions,
    UsageError,
    answer_without_mounting,
    kernel_options,
    parse_arguments,
)
from meshfs.mount.reload import Reloader
from meshfs.mount.remount import remount
from meshfs.mount.unmounting import OwnMount, unmount_when_free
from meshfs.program.command import run_command
from meshfs.program.control import serve_control
from meshfs.telemetry.fields import printable
from meshfs.telemetry.metrics_place import MetricsPlace

if TYPE_CHECKING:
    from meshfs.telemetry.prometheus import MetricsServer, Snapshot

log = logging.getLogger(__name__)

# mount(8), "EXIT STATUS"; 2 is also what every command of meshfs gives for a bad config.
EXIT_USAGE: Final = 1
EXIT_CONFIG: Final = 2
EXIT_FAILURE: Final = 32


async def run(settings: Settings, initiator: Exporters, mount_log: MountLog, on_ready: Ready, front: FrontEnd) -> None:
    """Mount and serve until the unmount or a signal. Raises MountFailed."""
    keep_freed_memory()
    be_spared_at_shutdown()
    mesh = Mesh(settings, initiator, mount_log.state)
    metrics = MetricsPlace(partial(_open_metrics, mesh.slow_document))
    try:
        metrics.move_to(settings.options.metrics)
    except ConfigError as error:
        raise MountFailed(str(error)) from error
    reloader = Reloader(settings, mesh, mount_log, metrics)
    with closing(metrics), mount_control() as control:
        async with trio.open_nursery() as nursery:
            own, serving = OwnMount(settings.mountpoint), trio.CancelScope()
            nursery.start_soon(_stop_on_signal, serving, own)
            await nursery.start(initiator.run)
            nursery.start_soon(mesh.run)
            nursery.start_soon(_reload_on_signal, reloader)
            nursery.start_soon(metrics.run)
            if control is not None:
                mesh.control = control.getsockname()
                nursery.start_soon(serve_control, control, {"reload": reloader.answer})
            served = trio.Event()
            nursery.start_soon(_announce, served, own, mesh, settings, on_ready)
            with serving:
                with trio.move_on_after(limits.MOUNT_SETTLE_S):
                    await mesh.settled.wait()
                options = kernel_options(settings.options, str(settings.config.path), root=os.geteuid() == 0)
                await front(mesh.operations, settings.mountpoint, options, on_ready=served.set)
            # Also after a signal: the owners have what was written, and their disks get it now.
            await initiator.settle()
            nursery.cancel_scope.cancel()


def _open_metrics(snapshot: "Snapshot", place: tuple[str, int]) -> "MetricsServer":
    # The library takes time and memory, so it is loaded for those who use it.
    from meshfs.mount.metrics import open_mount_metrics

    return open_mount_metrics(place, snapshot)


async def _announce(served: trio.Event, own: OwnMount, mesh: Mesh, settings: Settings, on_ready: Ready) -> None:
    """Call ``on_ready`` once the tree is served and the disks of ``-o wait=`` can be used, or their time is over."""
    await served.wait()
    own.note()
    timeout_s = settings.options.wait_timeout_s
    with trio.move_on_after(timeout_s):
        while missing_disks(settings.awaited, mesh.document()):
            await mesh.changed.wait()
    for line in missing_disks(settings.awaited, mesh.document()):
        text = printable(f"{settings.mountpoint} is mounted, and after {timeout_s:g} s (wait_timeout) {line}")
        log.warning("%s", text)
        if not settings.options.foreground:
            # The command's standard error, until on_ready; in the foreground the log is there.
            print(f"meshfs: {text}", file=sys.stderr)
    on_ready()


async def _stop_on_signal(serving: trio.CancelScope, own: OwnMount) -> None:
    """The first signal unmounts when nobody uses the mount any more, the second one at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            async for number in signals:
                log.info("%s: unmounting", signal.Signals(number).name)
                if nursery.child_tasks:
                    break
                nursery.start_soon(_unmount, serving, own)
            nursery.cancel_scope.cancel()
    serving.cancel()


async def _unmount(serving: trio.CancelScope, own: OwnMount) -> None:
    await unmount_when_free(own)
    serving.cancel()


async def _reload_on_signal(reloader: Reloader) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            notify_reloading()
            await reloader.reload()
            notify("READY=1")


def main() -> int:
    """The command ``meshfs``, and mount(8)'s helper when called ``mount.meshfs``."""
    return run_command("meshfs", _main)


def _main() -> int:
    text = answer_without_mounting(sys.argv[0], sys.argv[1:])
    if text:
        print(text)
        return 0
    open_standard_streams()
    try:
        options = parse_arguments(sys.argv[0], sys.argv[1:])
        if options.remount:
            return 0 if options.fake else remount(_with_absolute_log(options))
        settings = prepare(options)
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
    options = _with_absolute_log(options)
    mountpoint = _mountpoint(options.mountpoint)
    if not options.fake:
        refuse_second_mount(mountpoint)
    awaited = expanded(options.wait, config, node)
    return Settings(config, node, Keyring(config, node), mountpoint, options, awaited)


def _with_absolute_log(options: MountOptions) -> MountOptions:
    """The process that serves has another current directory."""
    if options.log_path is None:
        return options
    path = os.path.abspath(options.log_path)
    return replace(options, log_path=path, said=(*options.said, f"log={path}"))


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


def _work(settings: Settings, on_ready: Ready) -> int:
    """Everything from here runs in the process that serves; the exit status."""
    status = 0
    try:
        trio.run(run, settings, Initiator(settings), MountLog(settings.options), on_ready, serve)
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
