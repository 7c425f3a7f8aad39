"""What an exporter remembers of a disk after its own end: one small file for each disk in the node's state folder.

    STATE/DISK.disk.json    Record: which device has the name, the seed of its write verifier, its last write

Theory. The verifier's seed must outlive the process, not the machine (meshfs/disk/file/losses.py): a new one is written
into the page cache, in place, into a block that the file has already, so that a full file system is no obstacle. A
thread does it, as the state folder may be on a disk that hangs. A record that could not be written when the disk was
claimed makes the seed one that never was: the verifier then differs from that before the restart, and every writer
with unflushed writes gets EIO once, which is the safe mistake.

The time of the last write is written at a clean end only. After any other end the disk's time starts at the claim,
unless the file system of its image knows better.
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

# One sector, which a power failure does not tear.
_RECORD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one disk.

    device      `Identity.instance` of the device or image, as it was found
    place       `Identity.place`
    sequence    `Identity.sequence`
    boot_id     of the boot in which it was found
    instance    what initiators are told: equal to ``device`` but for a device that was recognised by its place
    seed        of the write verifier
    written_ns  the last write, ns of the epoch; of the claim unless ``clean``
    clean       the exporter ended in an orderly way
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
    old: Record | None, device: Identity, boot_id: str, *, seed: str, now_ns: int, image_ns: int | None
) -> Record:
    """What is kept from a claim on; pure. ``image_ns``: the modification time of an image; ``seed``: a new one.

    A device without a name of its own is known by its place after a reboot, and within a boot by
    diskseq, which is part of ``device.instance``. One that came back while no meshfsd ran may have
    lost what was in its cache and in the page cache, so that it gets the new seed.
    """
    found = Record(device.instance, device.place, device.sequence, boot_id, device.instance, seed, now_ns)
    if old is None:
        return found if image_ns is None else replace(found, written_ns=image_ns)
    recognised = device.place and device.place == old.place and boot_id != old.boot_id
    if device.instance != old.device and not recognised:
        # Another disk: whoever compares times has to find it changed.
        return replace(found, written_ns=max(now_ns, old.written_ns + 1))
    since_ns = image_ns if image_ns is not None else 0 if old.clean else now_ns
    came_back = boot_id == old.boot_id and device.sequence != old.sequence
    return replace(
        found, instance=old.instance, seed=seed if came_back else old.seed, written_ns=max(since_ns, old.written_ns)
    )  # fmt: skip


class Remembered:
    """One disk's record while the disk is served."""

    def __init__(self, name: str, record: Record, fd: int | None) -> None:
        self.record = record
        self._name = name
        self._fd = fd
        self._waiting: list[tuple[str, Callable[[], object]]] = []
        self._wanted = trio.Event()
        # Held by the thread that writes to the file, or that closes it.
        self._using = threading.Lock()
        # The seed that counts again when a flush that takes long succeeds; None without such a flush.
        self._trusted: str | None = None

    def attach(self, disk: FileDisk) -> None:
        """Give the disk the verifier it had, and keep it when it changes."""
        disk.recall(self.record.seed, self.keep)

    @property
    def _latest_seed(self) -> str:
        return self._waiting[-1][0] if self._waiting else self.record.seed

    def doubt(self, flush_age_s: float) -> None:
        """Note a flush that takes long as a loss, in case that the process is killed before it fails; and take
        the note back when it has succeeded."""
        slow = flush_age_s > limits.FLUSH_DOUBT_S
        if slow and self._trusted is None:
            self._trusted = self._latest_seed
            self._write_down(uuid.uuid4().hex, lambda: None)
        elif not slow and self._trusted is not None:
            self._write_down(self._trusted, lambda: None)
            self._trusted = None

    def keep(self, seed: str, then: Callable[[], object]) -> None:
        """Write a new seed down, then call ``then``; from a callback of the reactor, too."""
        self._trusted = None
        self._write_down(seed, then)

    def _write_down(self, seed: str, then: Callable[[], object]) -> None:
        if self._fd is None:
            # The next start makes a seed that never was, as nothing could be written at this one.
            self.record = replace(self.record, seed=seed)
            then()
            return
        self._waiting.append((seed, then))
        self._wanted.set()
        reactor.current().give_turn()

    async def run(self) -> None:
        """Write down what `keep` wants, as long as the disk is served."""
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
        """In a thread, which may begin after `end` closed the file: its number may be another file's by then."""
        with self._using:
            if self._fd is not None:
                _write(self._fd, self.record)

    def _complain(self, why: str) -> None:
        logger.error(
            "disk %s: its lost writes are not noted in the state folder (%s): a restart of meshfsd before the"
            " initiators' next fsync hides them",
            self._name, why,
        )  # fmt: skip

    def end(self, written_ns: int, *, clean: bool) -> None:
        """Write down the time of the last write at the end of the process, which is clean unless I/O is in flight.

        Blocking, for LOSS_KEEP_TIMEOUT_S at most when an earlier write hangs.
        """
        if not self._using.acquire(timeout=limits.LOSS_KEEP_TIMEOUT_S):
            # A thread hangs in the descriptor, which therefore stays open: its number must not become another file's.
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


def recall(folder: Path, name: str, disk: FileDisk) -> Remembered:
    """Read what was kept of the disk ``name``, and keep what is true of the device or image it is now. Blocks."""
    image_ns = None if disk.facts.is_block_device else os.fstat(disk.fd).st_mtime_ns
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    old: Record | None = None
    fd: int | None = None
    path = folder / f"{name}.disk.json"
    seed = uuid.uuid4().hex
    try:
        fd = _open(path)
        old = _decode(os.pread(fd, _RECORD_BYTES, 0), path)
        record = next_record(old, disk.facts.device, boot_id, seed=seed, now_ns=time.time_ns(), image_ns=image_ns)
        _write(fd, record)
        os.fsync(fd)
    except OSError as error:
        logger.warning(
            "disk %s: %s cannot be kept (%s): at a restart of meshfsd every writer with unflushed writes gets EIO",
            name, path, error.strerror,
        )  # fmt: skip
        if fd is not None:
            os.close(fd)
        record = next_record(old, disk.facts.device, boot_id, seed=seed, now_ns=time.time_ns(), image_ns=image_ns)
        return Remembered(name, replace(record, seed=seed), None)
    return Remembered(name, record, fd)


def forgotten(name: str, disk: FileDisk) -> Remembered:
    """For a state folder that does not answer: a seed that never was, and nothing is kept."""
    facts = disk.facts.device
    record = Record(facts.instance, facts.place, facts.sequence, "", facts.instance, uuid.uuid4().hex, time.time_ns())
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


def _write(fd: int, record: Record) -> None:
    text = json.dumps(asdict(record)).encode()
    os.pwrite(fd, text.ljust(_RECORD_BYTES - 1) + b"\n", 0)


def _decode(data: bytes, path: Path) -> Record | None:
    """The record in a file; None for a new file, and (logged) for one that makes no sense."""
    if not data:
        return None
    try:
        kept = json.loads(data)
        record = Record(**{name: kept[name] for name in Record.__slots__})
        texts: Sequence[object] = (
            record.device, record.place, record.sequence, record.boot_id, record.instance, record.seed
        )  # fmt: skip
        if not all(isinstance(text, str) for text in texts) or type(record.written_ns) is not int:
            raise ValueError("a value has another type than expected")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s makes no sense and is made new: %s", path, error)
        return None
    return record
