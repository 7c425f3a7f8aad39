"""Writes are late or lost on two channels: no old write lands over a newer one, and fsync reports what was lost."""

import errno
import mmap
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshfs.smb.constants import NtStatus
from meshlab.smb.frame_relay import Unanswered
from meshlab.smb.frames import FrameSplitter, Message, messages
from meshlab.smb.holds import Held, Hold
from meshlab.smb.proxy import Proxy
from support.commands import fio
from support.direct import errno_of
from support.stamps import BLOCK_BYTES, StampedLoad
from support.two_paths import TwoPaths, exporter_alone, fio_load, two_paths

pytestmark = [pytest.mark.mounted, pytest.mark.network]

AREA_BYTES = 4 * MIB
ROUNDS = 5
RESTARTS = 1
KILLS = 3
WAIT_S = 30.0


class Nth:
    """Wants the nth WRITE of all that any proxy passes, and no other.

    The proxies call this object in threads of their own, so counting and comparing is one step under a lock.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._seen = 0
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> bool:
        if not message.is_write():
            return False
        with self._lock:
            self._seen += 1
            return self._seen == self._number


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoPaths]:
    with two_paths(tmp_path) as pair:
        yield pair


@dataclass
class Watched:
    """Two nodes with a proxy in front of each of the exporter's interfaces. The disk is open all the time."""

    pair: TwoPaths
    proxies: list[Proxy]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with exporter_alone(tmp_path) as pair, ExitStack() as stack:
        port = pair.cluster.nodes["n1"].port
        proxies = [stack.enter_context(Proxy.before(nic, port)) for nic in pair.theirs]
        pair.cluster.mount("n2")
        pair.await_both()
        with pair.disk.open("rb"):
            yield Watched(pair, proxies)


def fill(pair: TwoPaths, byte: int) -> None:
    """Write the area at random and at depth. A part of the requests goes by both channels at once."""
    fio(
        pair.disk,
        "--rw=randwrite",
        "--bsrange=4k-1m",
        "--blockalign=4k",
        f"--size={AREA_BYTES}",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        f"--buffer_pattern={byte:#04x}",
        "--end_fsync=1",
        folder=pair.cluster.folder,
    )


def check_area(pair: TwoPaths, byte: int) -> None:
    """Check the area on the image, and as the mount reads it."""
    buffer = mmap.mmap(-1, AREA_BYTES)
    fd = os.open(pair.disk, os.O_RDONLY | os.O_DIRECT)
    assert os.preadv(fd, [buffer], 0) == AREA_BYTES
    os.close(fd)
    with pair.image.open("rb") as image:
        for what, data in (("image", image.read(AREA_BYTES)), ("mount", buffer[:])):
            assert data.count(byte) == AREA_BYTES, f"{what}: {AREA_BYTES - data.count(byte)} bytes are not the newest"


def hold_one(proxies: list[Proxy], number: int) -> list[Hold]:
    wanted = Nth(number)
    return [proxy.hold(wanted) for proxy in proxies]


def caught(holds: list[Hold], filling: Future[None]) -> Held:
    """Return the write that one of the proxies holds."""
    for _ in range(200):
        for hold in holds:
            with suppress(TimeoutError):
                return hold.wait(0.05)
        assert not filling.done(), "all was written, and nothing held"
    raise AssertionError("no write came")


def held_writes(held: Held) -> list[Message]:
    frames = FrameSplitter().feed(held.relay.held())
    return [message for frame in frames for message in messages(frame) if message.is_write()]


def test_writes_held_back_are_refused_once_they_were_replayed(watched: Watched) -> None:
    pair, order = watched.pair, random.Random(5)
    refused = 0
    with ThreadPoolExecutor() as threads:
        for number in range(ROUNDS):
            old, new = 2 * number + 1, 2 * number + 2
            holds = hold_one(watched.proxies, order.randint(1, 12))
            filling = threads.submit(fill, pair, old)
            held = caught(holds, filling)
            filling.result(WAIT_S)
            check_area(pair, old)
            fill(pair, new)
            late = held_writes(held)
            held.release()
            statuses = {held.relay.status(message.message_id) for message in late}
            assert statuses == {NtStatus.FILE_NOT_AVAILABLE}, f"round {number}: {[hex(each) for each in statuses]}"
            check_area(pair, new)
            refused += len(late)
            held.relay.cut()
            pair.await_both()
    print(f"{refused} writes refused in {ROUNDS} rounds")
    assert pair.cluster.control("n1")["counters"]["stale_requests"] >= refused


def test_writes_held_back_over_a_restart_are_refused(watched: Watched) -> None:
    pair, order = watched.pair, random.Random(6)
    with ThreadPoolExecutor() as threads:
        for number in range(RESTARTS):
            old, new = 2 * number + 1, 2 * number + 2
            holds = hold_one(watched.proxies, order.randint(1, 12))
            filling = threads.submit(fill, pair, old)
            held = caught(holds, filling)
            pair.cluster.stop_exporter("n1", signal.SIGKILL)
            pair.cluster.start_exporter("n1")
            filling.result(WAIT_S)
            check_area(pair, old)
            fill(pair, new)
            assert held_writes(held)
            with pytest.raises(Unanswered, match="gone"):
                held.release()
            with pytest.raises(Unanswered, match=r"closed|reset"):
                held.release_anew()
            check_area(pair, new)
            held.relay.cut()
            pair.await_both()


def test_an_exporter_killed_under_load_on_two_channels_costs_no_byte(pair: TwoPaths) -> None:
    first = 56 * 256
    loads = [StampedLoad(pair.disk, range(start, start + 64), start) for start in (first, first + 64, first + 128)]
    kept = [BLOCK_BYTES * (first + 256), BLOCK_BYTES * (first + 257)]
    fd = os.open(pair.disk, os.O_RDWR | os.O_DIRECT)
    with fio_load(pair) as job:
        for load in loads:
            load.start()
        for number in range(1, KILLS + 1):
            flushed = write(fd, kept[number % 2], number)
            os.fsync(fd)
            before = [load.writes for load in loads]
            pair.cluster.stop_exporter("n1", signal.SIGKILL)
            with pair.image.open("rb") as image:
                assert os.pread(image.fileno(), BLOCK_BYTES, kept[number % 2]) == flushed
            pair.cluster.start_exporter("n1")
            stalls_s = pair.await_paths(
                lambda before=before: all(now.writes > then + 20 for now, then in zip(loads, before, strict=True)),
                f"progress after {number} kills; errors: {[load.errors for load in loads]}",
                WAIT_S,
            )
            print(f"kill {number}: all go on {stalls_s:.2f} s after the restart")
            pair.await_both()
        print(job.finish())
        for load in loads:
            load.finish(WAIT_S)
    os.close(fd)


def write(fd: int, offset: int, number: int) -> bytes:
    block = mmap.mmap(-1, BLOCK_BYTES)
    block[:] = bytes([number]) * BLOCK_BYTES
    assert os.pwritev(fd, [block], offset) == BLOCK_BYTES
    return block[:]


def test_lost_unflushed_writes_are_told_once_by_fsync(tmp_path: Path) -> None:
    """The machine of the exporter crashed: it has another boot id, and a write of the page cache is not on the disk."""
    with two_paths(tmp_path, prefix=[starter(tmp_path)], cache="writeback") as pair:
        fds = [os.open(pair.disk, os.O_RDWR | os.O_DIRECT) for _ in range(2)]
        safe, lost = (0, BLOCK_BYTES)
        flushed = write(fds[0], safe, 1)
        os.fsync(fds[0])
        write(fds[1], lost, 2)
        pair.cluster.stop_exporter("n1", signal.SIGKILL)
        with pair.image.open("r+b") as image:
            os.pwrite(image.fileno(), bytes(BLOCK_BYTES), lost)
        crash(tmp_path)
        pair.cluster.start_exporter("n1")
        assert [errno_of(lambda: os.fsync(fds[1])) for _ in range(2)] == [errno.EIO, 0]
        assert errno_of(lambda: os.fsync(fds[0])) == 0, "nothing of this one's was lost"
        again = write(fds[1], lost, 3)
        os.fsync(fds[1])
        assert pair.image.read_bytes()[: 2 * BLOCK_BYTES] == flushed + again
        pair.await_both()
        for fd in fds:
            os.close(fd)


def starter(folder: Path) -> str:
    """Return a command that starts another one, and provides what `crash` needs."""
    script = folder / "start"
    script.write_text('#!/bin/sh\nexec "$@"\n')
    script.chmod(0o755)
    return str(script)


def crash(folder: Path) -> None:
    """Let every process that is started from now on see another boot id, in a mount namespace of its own."""
    other = folder / "boot_id"
    other.write_text("00000000-0000-4000-8000-000000000000\n")
    mount = f"mount --bind {other} /proc/sys/kernel/random/boot_id"
    (folder / "start").write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{mount} && exec "$@"\' sh "$@"\n')
