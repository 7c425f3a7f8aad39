"""The record that an exporter keeps of each disk across restarts: one small file per disk in the node's state folder.

    STATE/DISK.disk.json    a `RememberedDisk`: the device of this name, the seed of its write verifier, and the time of
                            its last write

Theory. The verifier's seed must survive the end of the process, but not a crash of the machine
(meshfs/disk/file/losses.py). So a new seed is only written into the page cache. The write goes in place, into a block
that the file already has, so that it succeeds on a full file system. A thread does it, because the state folder may be
on a disk that hangs.

If the record cannot be written when the disk is claimed, the exporter uses a new seed. The verifier then differs from
the one before the restart, and every writer with unflushed writes gets EIO once. That is the safe mistake.

The time of the last write is only stored at a clean end. After any other end, the time of the claim counts as the time
of the last write, unless the disk is an image with a modification time. The end of a drained disk is not clean, because
the machine may write to its device afterwards.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import trio

from meshfs import limits
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.file.disk import FileDisk
from meshfs.loop import reactor

logger = logging.getLogger(__name__)

# The record is one sector, because a power failure does not tear a sector.
_RECORD_BYTES = 512


@dataclass(frozen=True, slots=True)
class RememberedDisk:
    """Holds what is stored of one disk.

    device      `Identity.instance` of the device or image when it was claimed
    place       its `Identity.place`
    sequence    its `Identity.sequence`
    boot_id     the id of the boot in which it was claimed
    instance    the instance announced to initiators; it differs from ``device`` only for a device recognised by place
    seed        the seed of the write verifier
    written_ns  the time of the last write in ns since the epoch; the time of the claim unless ``clean``
    clean       whether the exporter ended in an orderly way
    """

    device: str
    place: str
    sequence: str
    boot_id: str
    instance: str
    seed: str
    written_ns: int
    clean: bool = False


def next_record(
    old: RememberedDisk | None,
    device: Identity,
    boot_id: str,
    *,
    seed: str,
    now_ns: int,
    image_ns: int | None,
    flushed: bool = False,
) -> RememberedDisk:
    """Return the record for a new claim. Pure. ``image_ns`` is the modification time of an image; ``seed`` a new seed.

    A device without a serial number or similar name is recognised by its place after a reboot, and within a boot by
    diskseq, which is part of ``device.instance``. If a device vanished and came back while no meshfsd ran, the contents
    of its cache and of the page cache may be lost. Such a device gets the new seed, unless this process has ``flushed``
    everything before the device went away.
    """
    found = RememberedDisk(device.instance, device.place, device.sequence, boot_id, device.instance, seed, now_ns)
    if old is None:
        return found if image_ns is None else replace(found, written_ns=image_ns)
    recognised = device.place and device.place == old.place and boot_id != old.boot_id
    if device.instance != old.device and not recognised:
        # This is another disk. Programs that compare modification times must see a change.
        return replace(found, written_ns=max(now_ns, old.written_ns + 1))
    since_ns = image_ns if image_ns is not None else 0 if old.clean else now_ns
    came_back = boot_id == old.boot_id and device.sequence != old.sequence and not flushed
    return replace(
        found, instance=old.instance, seed=seed if came_back else old.seed, written_ns=max(since_ns, old.written_ns)
    )


class Remembered:
    """Keeps one disk's record while the disk is served."""

    def __init__(self, name: str, record: RememberedDisk, fd: int | None) -> None:
        self.record = record
        self._name = name
        self._fd = fd
        self._waiting: list[tuple[str, Callable[[], object]]] = []
        self._wanted = trio.Event()
        # The thread that writes to the file or closes it holds this lock.
        self._using = threading.Lock()
        # The seed to restore when a slow flush has succeeded, or None without such a flush.
        self._trusted: str | None = None

    def attach(self, disk: FileDisk) -> None:
        """Give the disk its earlier verifier, and have every change of the seed stored."""
        disk.recall(self.record.seed, self.keep)

    @property
    def _latest_seed(self) -> str:
        return self._waiting[-1][0] if self._waiting else self.record.seed

    def doubt(self, flush_age_s: float) -> None:
        """Store a slow flush as a loss, and undo that when the flush has succeeded.

        Otherwise the loss would be hidden if the process is killed before the flush fails.
        """
        slow = flush_age_s > limits.FLUSH_DOUBT_S
        if slow and self._trusted is None:
            self._trusted = self._latest_seed
            self._write_down(uuid.uuid4().hex, lambda: None)
        elif not slow and self._trusted is not None:
            self._write_down(self._trusted, lambda: None)
            self._trusted = None

    def keep(self, seed: str, then: Callable[[], object]) -> None:
        """Store a new seed, then call ``then``. A callback of the reactor may also call this method."""
        self._trusted = None
        self._write_down(seed, then)

    def _write_down(self, seed: str, then: Callable[[], object]) -> None:
        if self._fd is None:
            # The record could not be written at the claim, so the next start uses a new seed anyway.
            self.record = replace(self.record, seed=seed)
            then()
            return
        self._waiting.append((seed, then))
        self._wanted.set()
        reactor.current().give_turn()

    async def run(self) -> None:
        """Store the seeds from `keep` and `doubt` while the disk is served."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self._store()

    async def _store(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._fd is None:
            return
        self.record = replace(self.record, seed=waiting[-1][0])
        with trio.move_on_after(limits.LOSS_KEEP_TIMEOUT_S) as patience:
            try:
                await trio.to_thread.run_sync(self._write_now, abandon_on_cancel=True)
            except OSError as error:
                self._complain(error.strerror or str(error))
        if patience.cancelled_caught:
            self._complain(f"not written within {limits.LOSS_KEEP_TIMEOUT_S:g} s")
        for _, then in waiting:
            then()

    def _write_now(self) -> None:
        """Write the record, in a thread.

        The thread may begin after `end` has closed the file, when its number may belong to another file.
        """
        with self._using:
            if self._fd is not None:
                _write(self._fd, self.record)

    def _complain(self, why: str) -> None:
        logger.error(
            "disk %s: its lost writes are not noted in the state folder (%s): a restart of meshfsd before the"
            " initiators' next fsync hides them",
            self._name,
            why,
        )

    def end(self, written_ns: int, *, clean: bool) -> None:
        """Store the time of the last write when the disk is closed. The end is clean unless I/O is in flight.

        This call blocks, but waits at most LOSS_KEEP_TIMEOUT_S for an earlier write that hangs.
        """
        if not self._using.acquire(timeout=limits.LOSS_KEEP_TIMEOUT_S):
            # A thread hangs in a write to the descriptor. It must stay open, or its number may become another file's.
            self._fd = None
            logger.warning("disk %s: the time of its last write is not kept: the state folder hangs", self._name)
            return
        try:
            self._end(written_ns, clean=clean)
        finally:
            self._using.release()

    def _end(self, written_ns: int, *, clean: bool) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        written_ns = max(written_ns, self.record.written_ns)
        self.record = replace(self.record, seed=self._latest_seed, written_ns=written_ns, clean=clean)
        try:
            _write(fd, self.record)
            os.fsync(fd)
        except OSError as error:
            logger.warning("disk %s: the time of its last write is not kept: %s", self._name, error.strerror)
        finally:
            os.close(fd)


def is_remembered(folder: Path, name: str) -> bool:
    """Return whether the node has served a disk of this name before. Blocks. False if the folder cannot be read."""
    try:
        return _path(folder, name).exists()
    except OSError as error:
        logger.warning("disk %s: nobody knows whether it was offered before: %s", name, error)
        return False


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.disk.json"


def recall(folder: Path, name: str, disk: FileDisk, flushed: bool = False) -> Remembered:
    """Read the record of the disk ``name``, and store a new one for the claimed device or image. Blocks.

    ``flushed`` says that everything was flushed before the device was removed.
    """
    image_ns = None if disk.facts.is_block_device else os.fstat(disk.fd).st_mtime_ns
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    old: RememberedDisk | None = None
    fd: int | None = None
    path = _path(folder, name)
    seed = uuid.uuid4().hex
    try:
        fd = _open(path)
        old = _decode(os.pread(fd, _RECORD_BYTES, 0), path)
        record = next_record(
            old, disk.facts.device, boot_id, seed=seed, now_ns=time.time_ns(), image_ns=image_ns, flushed=flushed
        )
        _write(fd, record)
        os.fsync(fd)
    except OSError as error:
        logger.warning(
            "disk %s: %s cannot be kept (%s): at a restart of meshfsd every writer with unflushed writes gets EIO",
            name,
            path,
            error.strerror,
        )
        if fd is not None:
            os.close(fd)
        record = next_record(old, disk.facts.device, boot_id, seed=seed, now_ns=time.time_ns(), image_ns=image_ns)
        return Remembered(name, replace(record, seed=seed), None)
    return Remembered(name, record, fd)


def forgotten(name: str, disk: FileDisk) -> Remembered:
    """Return a record with a new seed that is never stored, for a state folder that does not answer."""
    facts = disk.facts.device
    record = RememberedDisk(
        facts.instance, facts.place, facts.sequence, "", facts.instance, uuid.uuid4().hex, time.time_ns()
    )
    return Remembered(name, record, None)


def _open(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return fd


def _write(fd: int, record: RememberedDisk) -> None:
    text = json.dumps(asdict(record)).encode()
    os.pwrite(fd, text.ljust(_RECORD_BYTES - 1) + b"\n", 0)


def _decode(data: bytes, path: Path) -> RememberedDisk | None:
    """Return the record in a file, or None for a new file. For invalid contents, log a warning and return None."""
    if not data:
        return None
    try:
        kept = json.loads(data)
        record = RememberedDisk(**{name: kept[name] for name in RememberedDisk.__slots__})
        texts: Sequence[object] = (
            record.device,
            record.place,
            record.sequence,
            record.boot_id,
            record.instance,
            record.seed,
        )
        if not all(isinstance(text, str) for text in texts) or type(record.written_ns) is not int:
            raise ValueError("a value has another type than expected")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s has invalid contents and is replaced: %s", path, error)
        return None
    return record
