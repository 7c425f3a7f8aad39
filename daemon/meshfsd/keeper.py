"""Keep one disk: claim its device or image, check it, release it when it has vanished, and claim it again.

    missing, gone                              ok, failing
      try to claim it: when poked (a device        check it: when poked, at an I/O error,
      appeared), and with a back-off               and every DISK_CHECK_S
           |  claimed                                   |  vanished
           +--------------->  ok                        +---------------> gone:
                                                              all I/O ends with EIO at once,
                                                              the descriptor is closed when
                                                              nothing is in flight on it

The keeper claims only the same device or image again, because a path such as /dev/sdb may lead to any device after the
first one vanished. After a reload of the config, the exporter serves whatever device the path then leads to.

An administrator may suspend or drain the disk (`meshfs.disk.admin_state`). While the disk is suspended and its device
vanishes, its I/O waits until the device is back: everything was flushed, so that no write is lost and no open has to
end. When the disk is drained, `let_go` releases the device, and the keeper does not claim it until the disk is resumed.

When a device has vanished, unflushed writes count as lost (`FileDisk.lose`), and all opens end. An initiator then opens
the disk again, detects the loss by the new verifier, and continues. Any other client gets an error; otherwise it would
not notice the loss.

Calls that may block (a stuck file system, a device in error handling) run in a thread with a time limit.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.disk.absent import AbsentDisk
from meshfs.disk.base import Engine, Op
from meshfs.disk.discovery.look import Judgement, judge, look
from meshfs.disk.errnos import Sign
from meshfs.disk.file.claim import open_disk
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.health import NOT_YET, error_text
from meshfs.enclosure.directory import image_id, is_image_id
from meshfs.errors import ConfigError, DiskUnavailable, TookTooLong
from meshfs.loop import reactor
from meshfs.loop.bounded import Bounded, bounded
from meshfs.model import Access, DiskInfo, DiskState
from meshfs.scheduler.learn.cost import CostModel
from meshfsd.remembered import Remembered, forgotten, recall
from meshfsd.served import ServedDisk, identity_of

logger = logging.getLogger(__name__)

#: Called with the disk whenever its announcement to initiators has changed.
Changed = Callable[[ServedDisk], None]
#: Returns the cost model that was learnt for a disk with this name and identity. May block.
Learnt = Callable[[str, str], CostModel]


def _nobody(served: ServedDisk) -> None:
    """Do nothing; used until the owner of the keeper sets a callback."""


class DiskKeeper:
    """Keeps one disk while ``run`` runs. `claim` may be called before ``run``, and `close` after it has ended."""

    def __init__(
        self, served: ServedDisk, engine: Engine, pool: BufferPool, learnt: Learnt, state_folder: Path
    ) -> None:
        self.served = served
        self.changed: Changed = _nobody
        #: Called before the disk is served again. It ends the earlier opens, which would not notice lost writes.
        self.returning: Changed = _nobody
        self.scope = trio.CancelScope()
        self._engine = engine
        self._pool = pool
        self._learnt = learnt
        self._state_folder = state_folder
        self._calls = Bounded(f"disk {served.name}")
        self._poke = trio.Event()
        # The first error since the last look: the failed operation, the errno, and what the errno says of the disk.
        self._error: tuple[Op, int, Sign] | None = None
        # True if sysfs has shown the device since the claim. If not, the absence of the device there means nothing.
        self._registered = False
        self._claimed = trio.Event()
        self._recording = trio.CancelScope()
        # Set when the device has been released. None while nobody wants the device to be released.
        self._let_go: trio.Event | None = None
        #: Held during an attempt to claim the disk.
        self.claiming = trio.Lock()

    async def run(self) -> None:
        """Keep the disk until ``scope`` is cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.served.runner.run)
                nursery.start_soon(self._keep_record)
                await self._keep()

    def poke(self) -> None:
        """Have the keeper look at the disk now, or try to claim it, because a change may concern the disk."""
        self._poke.set()

    async def _keep(self) -> None:
        retry_s = limits.DISK_RETRY_MIN_S
        while True:
            if self._let_go is not None:
                await self._release_on_purpose(self._let_go)
            if self.served.disk is not None:
                await self._wait(limits.DISK_CHECK_S)
                # A disk that is withdrawn may be closed already when a poke has ended the wait.
                if self._let_go is None and self.served.disk is not None:
                    await self.look()
                retry_s = limits.DISK_RETRY_MIN_S
                continue
            if self.served.admin.drains:
                await self._wait(math.inf)
                continue
            poked = await self._wait(retry_s)
            retry_s = limits.DISK_RETRY_MIN_S if poked else min(2 * retry_s, limits.DISK_RETRY_MAX_S)
            await self.claim(claim_timeout_s=0)

    async def _wait(self, timeout_s: float) -> bool:
        """Wait for `poke`, but at most ``timeout_s``. Return whether it was called."""
        with trio.move_on_after(timeout_s) as patience:
            await self._poke.wait()
        self._poke = trio.Event()
        return not patience.cancelled_caught

    # --- claiming ----------------------------------------------------------------------

    async def claim(self, claim_timeout_s: float = limits.DISK_CLAIM_TIMEOUT_S) -> None:
        """Try once to claim the disk. If another exporter has it, wait at most ``claim_timeout_s`` for its release."""
        async with self.claiming:
            if not self.served.admin.drains:
                await self._claim(claim_timeout_s)

    async def _claim(self, claim_timeout_s: float) -> None:
        served, config = self.served, self.served.config
        try:
            disk = await open_disk(
                config.path,
                engine=self._engine,
                cache=config.cache,
                read_only=config.access is Access.READ_ONLY,
                instance=served.instance,
                claim_timeout_s=claim_timeout_s,
                pool=self._pool,
                calls=self._calls,
            )
            self._check_size(disk)
            await self._check_image(disk)
        except (ConfigError, DiskUnavailable) as error:
            why = str(error).removeprefix("disk ")
            self._change(lambda: served.health.refused(why, time.monotonic()))
            return
        try:
            costs = await self._costs(disk)
            remembered = await self._recall(disk)
        except BaseException:
            disk.close()
            raise
        remembered.attach(disk)
        admin = served.admin
        if served.instance and not admin.flushed:
            self.returning(served)
        admin.flushed = admin.flushed and admin.waits
        # An error from before the device was closed says nothing about the device that was claimed now.
        self._error = None
        disk.on_error = self._on_error
        self._registered = False
        served.attach(disk, costs, remembered)
        self._claimed.set()
        self._change(lambda: served.health.claimed(time.monotonic()))
        served.runner.pump()

    def _check_size(self, disk: FileDisk) -> None:
        """Refuse a disk that became smaller while it was away, because earlier opens rely on its old size."""
        before_bytes = self.served.offered.size_bytes
        if disk.size_bytes < before_bytes:
            disk.close()
            sizes = f"came back with {disk.size_bytes} of {before_bytes} bytes"
            raise DiskUnavailable(f"{disk.facts.path}: {sizes}; reload meshfsd to serve its present size")

    async def _check_image(self, disk: FileDisk) -> None:
        """Refuse a file that is not the image of this disk.

        Since the folder was looked at, another file may have taken the name, even one that is still being copied, or a
        symbolic link to a device of the machine.
        """
        config = self.served.config
        if not is_image_id(config.id):
            return
        try:
            found = await self._calls.call(image_id, disk.fd, timeout_s=limits.DISK_CALL_TIMEOUT_S)
        except (OSError, TookTooLong) as error:
            disk.close()
            raise DiskUnavailable(f"{config.path}: the id of the image cannot be read: {error}") from error
        except BaseException:
            disk.close()
            raise
        if found != config.id:
            disk.close()
            raise DiskUnavailable(f"{config.path}: another file has taken the name of the image")

    async def _costs(self, disk: FileDisk) -> CostModel:
        served = self.served
        if served.instance:
            return served.queue.costs
        what = f"the learnt costs of disk {served.name}"
        try:
            return await bounded(
                what, self._learnt, served.name, identity_of(served.config, disk), timeout_s=limits.DISK_CALL_TIMEOUT_S
            )
        except TookTooLong:
            return CostModel()

    async def _recall(self, disk: FileDisk) -> Remembered:
        """Return the disk's record in the state folder. The folder may be on a file system that is stuck."""
        name, what = self.served.name, f"the record of disk {self.served.name}"
        try:
            return await bounded(
                what,
                recall,
                self._state_folder,
                name,
                disk,
                self.served.admin.flushed,
                timeout_s=limits.DISK_CALL_TIMEOUT_S,
                late=lambda remembered: remembered.end(0, clean=False),
            )
        except TookTooLong:
            return forgotten(name, disk)

    async def _keep_record(self) -> None:
        """While the disk is claimed, write its losses to its record. Continue after each further claim."""
        while True:
            self._claimed = trio.Event()
            remembered = self.served.remembered
            if remembered is None:
                await self._claimed.wait()
                continue
            with trio.CancelScope() as self._recording:
                await remembered.run()

    # --- looking -----------------------------------------------------------------------

    def _on_error(self, op: Op, number: int, sign: Sign) -> None:
        """Record the error, and have the keeper look at the disk. The engine calls this between completions."""
        if self._error is None or sign is Sign.GONE:
            self._error = (op, number, sign)
        self._poke.set()
        reactor.current().give_turn()

    async def look(self) -> None:
        """Check the claimed disk, and release it if it has vanished."""
        served, disk = self.served, self.served.disk
        assert disk is not None
        if served.remembered is not None:
            served.remembered.doubt(disk.flush_age_s())
        error, self._error = self._error, None
        judgement = await self._judge(disk)
        vanished = judgement.vanished
        if error is not None and error[2] is Sign.GONE:
            vanished = vanished or f"{error_text(*error[:2])}"
        if vanished:
            self._change(lambda: served.health.vanished(vanished, time.monotonic()))
            if not served.admin.flushed:
                # Record the loss now, because meshfsd may end before the device is back.
                disk.lose("the device went away")
            await self._release()
            return
        grown = await self._resize(disk, judgement.size_bytes)
        self._change(lambda: self._take(error, judgement.fault), always=grown)
        if error is not None:
            # Many errors in a row must not cause many looks, so wait before the next one.
            await trio.sleep(limits.DEVICE_SETTLE_S)

    def _take(self, error: tuple[Op, int, Sign] | None, fault: str) -> None:
        health, now_s = self.served.health, time.monotonic()
        if error is not None:
            health.failed(error_text(*error[:2]), now_s)
        counts = self.served.runner.status()
        done = counts.reads + counts.writes + counts.zeroes + counts.discards + counts.flushes
        health.looked(fault, done - counts.errors, now_s)

    async def _judge(self, disk: FileDisk) -> Judgement:
        served_bytes, end_bytes = disk.size_bytes, disk.end_bytes
        try:
            sight = await self._calls.call(look, disk.fd, disk.facts, timeout_s=limits.DISK_CALL_TIMEOUT_S)
        except TookTooLong:
            return Judgement(end_bytes, fault="checking it takes too long: its file system or device is stuck")
        self._registered = self._registered or sight.registered
        if not self._registered:
            sight = replace(sight, registered=True)
        return judge(disk.facts, sight, served_bytes, end_bytes)

    async def _resize(self, disk: FileDisk, size_bytes: int) -> bool:
        """Take over the disk's present size. Return whether the disk grew."""
        if size_bytes == disk.end_bytes:
            return False
        before_bytes = disk.size_bytes
        try:
            await self._calls.call(disk.resize, size_bytes, timeout_s=limits.DISK_CALL_TIMEOUT_S)
        except (OSError, TookTooLong) as error:
            logger.warning("disk %s: its new size cannot be taken over: %s", self.served.name, error)
            return False
        if disk.size_bytes == before_bytes:
            return False
        logger.info("disk %s grew from %d to %d bytes", self.served.name, before_bytes, disk.size_bytes)
        return True

    # --- letting go --------------------------------------------------------------------

    async def let_go(self) -> None:
        """Have the device of a drained disk released, and return when it is closed. The disk has no opens any more."""
        if self._let_go is None:
            self._let_go = trio.Event()
            self.poke()
        released = self._let_go
        await released.wait()

    async def _release_on_purpose(self, released: trio.Event) -> None:
        served = self.served
        # The disk may have been resumed since.
        if served.disk is not None and served.admin.drains:
            served.health.released(time.monotonic())
            await self._release()
        self._let_go = None
        released.set()

    async def _release(self) -> None:
        """Fail all I/O with an error, and close the descriptor when no I/O is in flight on it.

        If the disk is suspended, its I/O waits instead.
        """
        self.served.runner.refuse(AbsentDisk.errno)
        await self.served.runner.wait_idle()
        while self.served.busy:  # noqa: ASYNC110 - the end of the exporter's own flush has no event
            await trio.sleep(limits.DEVICE_SETTLE_S)
        await self.close()

    async def close(self) -> bool:
        """Close the device or image, and return True. With I/O in flight, leave it open and return False."""
        served, idle = self.served, not self.served.busy
        close = served.release(clean=idle)
        self._recording.cancel()
        if self.scope.cancel_called and self._let_go is not None:
            self._let_go.set()
        try:
            # The close does not use `_calls`: an abandoned call there must not keep the disk open.
            await bounded(f"closing disk {served.name}", close, timeout_s=limits.DISK_CALL_TIMEOUT_S)
        except TookTooLong:
            # The thread closes the disk as soon as it can. Until then, no exporter can claim it.
            return idle
        except OSError as error:
            logger.warning("disk %s: closing it failed: %s", served.name, os.strerror(error.errno or 0))
        return idle

    # --- announcing --------------------------------------------------------------------

    def _change(self, what: Callable[[], None], *, always: bool = False) -> None:
        """Call ``what``, which may change the disk's state. If it did, log the transition.

        Announce the disk if that changes its announcement, or ``always``.
        """
        served, health = self.served, self.served.health
        state, why, since_s = health.state, health.why, health.since_s
        what()
        if (health.state, health.why) != (state, why):
            first = why == NOT_YET
            log_transition(served.name, state, health.state, health.why, time.monotonic() - since_s, first=first)
            always = True
        now, shown = served.describe(), served.offered.info
        # The announcement may differ although the state is as before, if the disk was drained meanwhile, or if a
        # discard has shown that its device cannot discard.
        if always or _told(now) != _told(shown):
            served.update_offered()
            self.changed(served)


def _told(info: DiskInfo) -> tuple[DiskState, str, int]:
    """Return what of an announcement may change while the disk is claimed."""
    return info.state, info.why, info.discard_granularity_bytes


def log_transition(name: str, before: DiskState, now: DiskState, why: str, lasted_s: float, *, first: bool) -> None:
    """Log a change of a disk's state or of its reason, in one line. ``first``: this is the disk's first known state."""
    if now is DiskState.OK:
        if first:
            logger.info("disk %s is ok", name)
        else:
            logger.warning("disk %s is ok again, after %.1f s in which it was %s", name, lasted_s, before)
    elif now is before and not first:
        logger.debug("disk %s is still %s: %s", name, now, why)
    else:
        logger.error("disk %s is %s: %s", name, now, why)
