"""The composition root of an exporter: config, keys, disks, queues, sockets and signals.

    start     all mistakes are found before any disk is served
    SIGHUP    the config and the keys are read again; a broken config changes nothing
    SIGTERM   the disks are announced as drained, so that mounts know that this is no failure; then there are no new
              connections or requests; I/O in flight may end within DRAIN_TIMEOUT_S; then everything is closed

There is one task for the I/O engine's completions, one per disk (it sleeps unless the disk's queue names a time), and
one per listening socket and per connection. More tasks watch the network interfaces, the signals and the control
socket, and report to systemd's watchdog.
"""

import gc
import logging
import math
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.cluster.config_watch import LoadedConfig, read
from meshfs.disk.base import Engine
from meshfs.disk.engines.choice import choose_engine
from meshfs.endpoint import format_endpoint
from meshfs.errors import ConfigError, TookTooLong
from meshfs.exporter.kinds.registry import ticks
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.serving.interfaces import offered
from meshfs.exporter.serving.listener import Listener
from meshfs.exporter.state.exporter import Exporter
from meshfs.linux.inherited import let_go_of_starter
from meshfs.linux.interfaces import KnownInterfaces, is_here
from meshfs.linux.systemd import notify, notify_reloading
from meshfs.linux.uevent import Devices
from meshfs.loop.bounded import Bounded
from meshfs.program.control import Handler, Request, serve_control
from meshfs.smb.auth import Accounts
from meshfs.telemetry.exporter_documents import ExporterFacts, ExporterStatus
from meshfs.telemetry.metrics_place import ListeningServer, MetricsPlace
from meshfs.telemetry.process_facts import raise_descriptor_limit
from meshfsd.admin import DiskAdmin
from meshfsd.calibration import Calibration, state_folder
from meshfsd.discovery import DiskDiscovery
from meshfsd.disks import Disks, status_text, without_doubles
from meshfsd.enclosures import NodeEnclosures
from meshfsd.flows import FlowControl
from meshfsd.places import Places
from meshfsd.status import make_status
from meshfsd.watch import NODE_UNTIL_RESTART, ExporterWatch
from meshfsd.watchdog import report_alive

logger = logging.getLogger(__name__)


async def run(config_path: Path, node_name: str | None, engine_name: str = "auto") -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if the exporter cannot start."""
    loaded = read(config_path, node_name)
    let_go_of_starter()
    engine = choose_engine(engine_name)
    exporter = NodeExporter(loaded, engine)
    try:
        await exporter.open()
        # The program itself has about 50,000 objects that are never freed. Without freezing, each full garbage
        # collection would visit them all, for 10 ms or more in which no request is served.
        gc.collect()
        gc.freeze()
        await exporter.serve()
    finally:
        with trio.CancelScope(shield=True):
            idle = await exporter.close()
    if idle:
        engine.close()


class NodeExporter:
    """Runs one node's exporter with its disks and sockets."""

    def __init__(self, loaded: LoadedConfig, engine: Engine) -> None:
        config = self._config = loaded.config
        node = self._node = loaded.node
        self._engine = engine
        pool = BufferPool()
        self._interfaces = KnownInterfaces()
        self._exporter = Exporter(
            node.name,
            Accounts(loaded.keyring.passwords()),
            config.cluster.security,
            pool=pool,
            interfaces=lambda: offered(self._node.addresses, self._interfaces.current),
            descriptors=raise_descriptor_limit(limits.DESCRIPTORS_WANTED),
        )
        if node.scratch_size_bytes is not None:
            self._exporter.scratch = ScratchVolume(node.scratch_size_bytes, self._exporter.now_filetime())
        folder = state_folder(node.state)
        self._devices_changed = trio.Event()
        self._images_changed = trio.Event()
        self._disks = Disks(
            self._exporter, engine, pool, Calibration(folder), self._on_disk_change, self._on_device_change
        )
        self._discovery = DiskDiscovery(folder)
        self._enclosures = NodeEnclosures(
            self._exporter, self._disks, folder, lambda: self._discovery.verdicts, lambda: self._images_changed.set()
        )
        #: Held while the disks are taken over from a config, a discovery or the folders, one after the other.
        self._taking = trio.Lock()
        self._reading = Bounded(f"the config {config.given}")
        self._saving = Bounded(f"the state folder {self._disks.calibration.folder}")
        self._flows = FlowControl(
            node.name, lambda: self._disks.served, lambda: self._config.node_names, time.monotonic
        )
        self._admin = DiskAdmin(node.name, self._disks, self._exporter.disk_watchers, self._look_again)
        self._places = Places(MetricsPlace(self._open_metrics))
        self._exporter.config_digest = config.digest
        self._exporter.processor.configure(config.processor_policy())
        self._started = time.monotonic()
        self._watch = ExporterWatch(loaded, self._facts)

    async def open(self) -> None:
        """Claim the disks, then listen at the addresses. Raises ConfigError. No request is served yet."""
        node = self._node
        await self._disks.check(node.disks)
        await self._take_config(self._config, node)
        self._places.open(node)

    async def close(self) -> bool:
        """Close everything. Return False if I/O is still in flight; its engine must then stay open."""
        self._places.close()
        self._interfaces.close()
        self._enclosures.folders.close()
        await self._save_calibration()
        return await self._disks.close()

    async def serve(self) -> None:
        assert self._places.control is not None
        listener = Listener(self._exporter, self._places.sockets, self._config.addresses)
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._engine.run)
                nursery.start_soon(self._disks.run)
                nursery.start_soon(self._enclosures.run)
                nursery.start_soon(self._admin.run)
                nursery.start_soon(self._discover)
                nursery.start_soon(self._follow_images)
                nursery.start_soon(listener.run)
                nursery.start_soon(self._interfaces.run)
                nursery.start_soon(self._keep_calibration)
                nursery.start_soon(self._watch.config.run)
                nursery.start_soon(self._watch.problems.run)
                if calls := ticks(self._exporter):
                    nursery.start_soon(self._tick, calls)
                nursery.start_soon(serve_control, self._places.control, self._verbs())
                nursery.start_soon(self._places.metrics.run)
                nursery.start_soon(report_alive)
                self._log_ready()
                self._tell_systemd("READY=1")
                async for number in signals:
                    if number == signal.SIGHUP:
                        await self._reload(listener)
                        continue
                    logger.info("stopping on %s", signal.Signals(number).name)
                    notify("STOPPING=1")
                    await self._drain(listener)
                    nursery.cancel_scope.cancel()
                    break

    async def _keep_calibration(self) -> None:
        await trio.to_thread.run_sync(self._disks.calibration.probe)
        while True:
            await trio.sleep(limits.CALIBRATION_SAVE_S)
            await self._save_calibration()

    async def _save_calibration(self) -> None:
        """Save the cost models, within a time limit, because the state folder's file system may be stuck."""
        save, learnt = self._disks.calibration.save, self._disks.learnt()
        with suppress(TookTooLong):
            await self._saving.call(save, learnt, timeout_s=limits.DISK_CALL_TIMEOUT_S)

    async def _tick(self, calls: list[Callable[[Exporter], None]]) -> None:
        while True:
            await trio.sleep(limits.KIND_TICK_S)
            for call in calls:
                call(self._exporter)

    def _log_ready(self) -> None:
        node = self._node
        places = ", ".join([*(format_endpoint(address, node.port) for address in node.addresses), str(node.socket)])
        names = ", ".join(disk.name for disk in self._exporter.disks.all() if not disk.is_away) or "no disks"
        logger.info("node %s serves %s on %s", node.name, names, places)

    def _tell_systemd(self, *assignments: str) -> None:
        notify(*assignments, f"STATUS={status_text(self._disks.served)}")

    async def _drain(self, listener: Listener) -> None:
        """Wait until I/O in flight has ended and its replies are sent, for at most DRAIN_TIMEOUT_S."""
        await self._admin.leave()
        listener.stop()
        with trio.move_on_after(limits.DRAIN_TIMEOUT_S) as patience:
            await self._disks.wait_idle()
            await listener.sent_all()
        if patience.cancelled_caught:
            logger.warning("stopped with I/O still in flight after %g s", limits.DRAIN_TIMEOUT_S)

    # --- reload ------------------------------------------------------------------------

    async def _reload(self, listener: Listener) -> None:
        notify_reloading()
        try:
            loaded = await self._reading.call(
                read, self._config.given, self._node.name, timeout_s=limits.CONFIG_READ_TIMEOUT_S
            )
            await self._disks.check(loaded.node.disks)
        except (ConfigError, TookTooLong) as error:
            logger.error("not reloaded, the old config stays in force: %s", error)
        else:
            config, accounts = loaded.config, Accounts(loaded.keyring.passwords())
            kept = (*NODE_UNTIL_RESTART, *self._places.move(loaded.node, listener))
            node = replace(loaded.node, **{name: getattr(self._node, name) for name in kept})
            await self._apply(config, node, accounts)
            listener.know(config.addresses)
            self._exporter.take_config(config.digest)
            await self._watch.reloaded(loaded, kept)
            logger.info("reloaded %s", config.path)
        self._tell_systemd("READY=1")

    async def _apply(self, config: Config, node: NodeConfig, accounts: Accounts) -> None:
        self._config, self._node = config, node
        exporter = self._exporter
        exporter.take_accounts(accounts)
        exporter.processor.configure(config.processor_policy())
        exporter.take_security(config.cluster.security)
        await self._take_config(config, node)
        # Try the missing disks again, and look whether the others have changed.
        self._disks.poke()
        # The discovery may sleep as long as the old config has asked for.
        self._devices_changed.set()

    # --- disks and enclosures ----------------------------------------------------------

    async def _take_config(self, config: Config, node: NodeConfig) -> None:
        """Serve the enclosures and the disks of a config that has passed `Disks.check`."""
        async with self._taking:
            await self._enclosures.configure(node)
            await self._discovery.find(node.discovery, node.disks, self._disks)
            await self._take_disks(config, node, again=None)

    async def _take_disks(self, config: Config, node: NodeConfig, again: Collection[str] | None) -> None:
        """Serve the listed disks of the config, those that were discovered, and the images in folders.

        A disk that was correct at `Disks.check` and has become a mistake since is offered as missing. ``again`` has the
        names of disks that are looked at although they are served. None stands for all disks. Images that other files
        have replaced are always looked at.
        """
        wanted = [*node.disks, *self._discovery.found, *self._enclosures.images]
        wanted += self._disks.suspended_without_device(wanted)
        self._enclosures.place(wanted)
        if again is not None:
            again = {*again, *self._enclosures.folders.replaced(self._disks.identities())}
        facts, mistakes = await self._disks.scan(wanted, again)
        for mistake in mistakes:
            logger.error("%s", mistake)
        await self._disks.apply(without_doubles(wanted, facts), config, facts)
        self._enclosures.renew()

    async def _follow_images(self) -> None:
        """Serve the images in folders, as they come, go, grow and move."""
        while True:
            await self._images_changed.wait()
            self._images_changed = trio.Event()
            async with self._taking:
                grown = self._enclosures.folders.take_resized()
                await self._take_disks(self._config, self._node, again=())
            self._disks.poke(grown)

    async def _discover(self) -> None:
        """Discover disks again when a device has changed, and from time to time while a disk is in use."""
        while True:
            with trio.move_on_after(self._discovery_interval_s()):
                await self._devices_changed.wait()
            freed_only = not self._devices_changed.is_set() and self._disks.hears_of_devices
            self._devices_changed = trio.Event()
            node = self._node
            if node.discovery is not None:
                async with self._taking:
                    await self._discovery.find(node.discovery, node.disks, self._disks, freed_only=freed_only)
                    await self._take_disks(self._config, self._node, again=())

    def _on_disk_change(self) -> None:
        self._tell_systemd()
        self._enclosures.renew_soon()

    def _on_device_change(self, devices: Devices) -> None:
        """Have the devices looked for that may have appeared. A disk that moves also changes an enclosure's slot."""
        self._enclosures.look_soon()
        if Devices.BLOCK in devices:
            self._devices_changed.set()

    def _look_again(self) -> None:
        """Look for devices and images again, because that of a resumed disk may have left during the suspension."""
        self._devices_changed.set()
        self._images_changed.set()

    def _discovery_interval_s(self) -> float:
        if self._node.discovery is None:
            return math.inf
        if not self._disks.hears_of_devices:
            return limits.DISK_CHECK_S
        return limits.DISCOVERY_FREED_S if self._discovery.wants_another_look else math.inf

    def _facts(self) -> ExporterFacts:
        missing = [each for each in self._node.addresses if not is_here(each, self._interfaces.current)]
        uptime_s = time.monotonic() - self._started
        return make_status(
            self._node,
            self._config.cluster.security,
            self._exporter,
            self._disks,
            self._discovery.verdicts,
            self._enclosures.folders,
            uptime_s,
            missing,
        )

    def _open_metrics(self, place: tuple[str, int]) -> ListeningServer:
        # The Prometheus library takes time and memory, so it is loaded only if metrics are configured.
        from meshfsd.metrics import open_exporter_metrics

        return open_exporter_metrics(place, self._metrics_document)

    async def _metrics_document(self) -> dict[str, object]:
        return {"status": self._watch.document(), "flows": await self._flows.show({})}

    def _verbs(self) -> dict[str, Handler]:
        async def status(_: Request) -> ExporterStatus:
            return self._watch.document()

        return {
            "status": status,
            "flows": self._flows.show,
            "flows-set": self._flows.change,
            **self._admin.verbs(),
        }
