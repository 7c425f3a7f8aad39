"""The life of a mount's process: it mounts, serves, reloads and unmounts.

The command returns when the tree is served. Before that, every exporter is tried, but for at most
``limits.MOUNT_SETTLE_S``. An exporter that is down does not stop the mount, and its disks appear when it connects. The
process ends after umount(8), and it unmounts at SIGTERM and SIGINT. SIGHUP reloads (reload.py).
"""

import logging
import os
import signal
import sys
from contextlib import closing
from functools import partial

import trio

from meshfs import limits
from meshfs.buffers import keep_freed_memory
from meshfs.errors import ConfigError, MountFailed
from meshfs.fuse.front import FrontEnd
from meshfs.linux.background import Ready
from meshfs.linux.systemd import be_spared_at_shutdown, notify, notify_reloading
from meshfs.mount.awaited import missing_disks
from meshfs.mount.control import mount_control
from meshfs.mount.exporters import Exporters
from meshfs.mount.log import MountLog
from meshfs.mount.mount import Mount
from meshfs.mount.options import kernel_options
from meshfs.mount.reload import Reloader
from meshfs.mount.settings import Settings
from meshfs.mount.unmounting import OwnMount, unmount_when_free
from meshfs.program.control import serve_control
from meshfs.telemetry.fields import printable
from meshfs.telemetry.metrics_place import ListeningServer, MetricsPlace, Place, Snapshot

logger = logging.getLogger(__name__)


async def run(settings: Settings, initiator: Exporters, mount_log: MountLog, on_ready: Ready, front: FrontEnd) -> None:
    """Mount, and serve until the unmount or a signal. Raises MountFailed."""
    keep_freed_memory()
    be_spared_at_shutdown()
    with mount_control() as control:
        path = "" if control is None else control.getsockname()
        mount = Mount(settings, initiator, mount_log.state, path)
        metrics = MetricsPlace(partial(_open_metrics, mount.status.slow_document))
        try:
            metrics.move_to(settings.options.metrics)
        except ConfigError as error:
            raise MountFailed(str(error)) from error
        reloader = Reloader(settings, mount, mount_log, metrics)
        with closing(metrics):
            async with trio.open_nursery() as nursery:
                own, serving = OwnMount(settings.mountpoint), trio.CancelScope()
                nursery.start_soon(_stop_on_signal, serving, own)
                await nursery.start(initiator.run)
                nursery.start_soon(mount.run)
                nursery.start_soon(_reload_on_signal, reloader)
                nursery.start_soon(metrics.run)
                verbs = {
                    "reload": reloader.answer,
                    "discard": mount.discarder.answer,
                    "check": mount.check.answer,
                }
                if control is not None:
                    nursery.start_soon(serve_control, control, verbs)
                served = trio.Event()
                nursery.start_soon(_announce, served, own, mount, settings, on_ready)
                with serving:
                    with trio.move_on_after(limits.MOUNT_SETTLE_S):
                        await mount.mesh.settled.wait()
                    options = kernel_options(settings.options, str(settings.config.path), root=os.geteuid() == 0)
                    await front(mount.operations, settings.mountpoint, options, on_ready=served.set)
                # This also runs after a signal. The owners have received all writes, and now flush them to their disks.
                await initiator.settle()
                nursery.cancel_scope.cancel()


def _open_metrics(snapshot: Snapshot, place: Place) -> ListeningServer:
    # The Prometheus library takes time and memory, so it is loaded only if metrics are configured.
    from meshfs.mount.metrics import open_mount_metrics

    return open_mount_metrics(place, snapshot)


async def _announce(served: trio.Event, own: OwnMount, mount: Mount, settings: Settings, on_ready: Ready) -> None:
    """Call ``on_ready`` when the tree is served and the disks of ``-o wait=`` can be used, or wait_timeout is over."""
    await served.wait()
    own.note()
    timeout_s = settings.options.wait_timeout_s
    with trio.move_on_after(timeout_s):
        while missing_disks(settings.awaited, mount.status.document()):
            await mount.mesh.changed.wait()
    for line in missing_disks(settings.awaited, mount.status.document()):
        text = printable(f"{settings.mountpoint} is mounted, and after {timeout_s:g} s (wait_timeout) {line}")
        logger.warning("%s", text)
        if not settings.options.foreground:
            # Until on_ready, this is the command's standard error. In the foreground, the log is written there anyway.
            print(f"meshfs: {text}", file=sys.stderr)
    on_ready()


async def _stop_on_signal(serving: trio.CancelScope, own: OwnMount) -> None:
    """Unmount at a signal. The first signal unmounts when nobody uses the mount any more, the second one at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            async for number in signals:
                logger.info("unmounting on %s", signal.Signals(number).name)
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
