"""Image files: the disk suite on every engine and cache, the claim, and the choice of the engine."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Engine
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.engines import choice as engines
from meshfs.disk.engines.choice import choose_engine
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.disk.file import claim
from meshfs.disk.file.claim import open_disk
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.file.zero import PUNCH, ZERO
from meshfs.errors import ConfigError, DiskUnavailable
from meshfs.loop.bounded import Bounded
from meshlab.fakes.file_disks import CACHES, SMALL_ENGINES, case_of, opened, running
from meshlab.suites.disk import MIB, Batch, DiskCase, DiskSuite, flush, read, write, zero


def make_image(folder: Path, size_bytes: int) -> Path:
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


@pytest.mark.parametrize("size_bytes", [3 * MIB, 3 * MIB + 1234, 3 * MIB + 512], ids=["even", "odd", "sectors"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
class TestImage(DiskSuite):
    @pytest.fixture
    async def case(self, tmp_path: Path, engine_name: str, cache, size_bytes: int) -> AsyncIterator[DiskCase]:
        path = make_image(tmp_path, size_bytes)
        async with opened(path, engine_name, cache) as disk:
            yield case_of(disk, path)


@pytest.fixture(params=CACHES)
async def disk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FileDisk]:
    async with opened(make_image(tmp_path, MIB + 100), "io_uring", request.param) as disk:
        yield disk


async def test_an_image_cut_behind_our_back_is_an_error_not_data(disk: FileDisk, tmp_path: Path) -> None:
    os.truncate(tmp_path / "disk.img", 10000)
    assert await read(disk, 0, 4096) == bytes(4096)
    assert await read(disk, 8192, 4096) == -errno.EIO
    assert await read(disk, 8192, 4000) == -errno.EIO
    assert await read(disk, 65536, 4096) == -errno.EIO


@pytest.mark.parametrize("cache", CACHES)
async def test_read_only_refuses_writes(tmp_path: Path, cache) -> None:
    async with opened(make_image(tmp_path, MIB), "io_uring", cache, read_only=True) as disk:
        assert disk.read_only
        assert await write(disk, 0, b"x" * 512) == -errno.EROFS
        assert await read(disk, 0, 3) == bytes(3)


async def test_the_verifier_names_the_disk_and_the_boot(tmp_path: Path) -> None:
    path = make_image(tmp_path, MIB)
    async with opened(path, "io_uring", "none") as disk:
        first = disk.verifier
    async with opened(path, "threads", "writeback") as disk:
        assert disk.verifier == first
    (tmp_path / "other").mkdir()
    async with opened(make_image(tmp_path / "other", MIB), "io_uring", "none") as disk:
        assert disk.verifier != first


async def test_closing_with_a_write_in_flight_is_refused(tmp_path: Path) -> None:
    async with opened(make_image(tmp_path, MIB), "io_uring", "none") as disk:
        disk._order.begin(None, 0, 1)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="in flight"):
            disk.close()
        disk._order.end(None)  # type: ignore[arg-type]


# --- the claim ------------------------------------------------------------------------


async def test_a_disk_has_one_owner(tmp_path: Path) -> None:
    path = make_image(tmp_path, MIB)
    async with opened(path, "io_uring", "none"), running(ThreadEngine()) as engine:
        with pytest.raises(DiskUnavailable, match=r"disk\.img is claimed by another exporter"):
            await open_disk(path, engine=engine, claim_timeout_s=0.1)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start another process that claims the image and keeps the claim."""
    script = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", script, make_image(tmp_path, MIB)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


async def test_a_killed_owner_is_waited_for(tmp_path: Path, owner: "subprocess.Popen[bytes]") -> None:
    async with running(ThreadEngine()) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(_kill_soon, owner)
        disk = await open_disk(tmp_path / "disk.img", engine=engine, claim_timeout_s=10)
        disk.close()
    assert owner.returncode == -signal.SIGKILL


async def _kill_soon(owner: "subprocess.Popen[bytes]") -> None:
    await trio.sleep(0.2)
    owner.kill()
    await trio.to_thread.run_sync(owner.wait)


_WRITER = """
import sys, trio
from pathlib import Path
from meshlab.fakes.file_disks import opened
from meshlab.suites.disk import Batch

async def main(path, cache):
    async with opened(path, "io_uring", cache) as disk:
        while True:
            batch = Batch(disk)
            await batch.do([batch.write(offset, b"old " * 16384) for offset in range(0, disk.size_bytes, 65536)])
            print("written", flush=True)

trio.run(main, Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("cache", CACHES)
async def test_a_killed_owners_writes_never_land_over_newer_ones(tmp_path: Path, cache) -> None:
    path = make_image(tmp_path, 4 * MIB)
    for _ in range(3):
        writer = await trio.to_thread.run_sync(_start_writer, path, cache)
        try:
            await trio.sleep(0.1)
            assert writer.poll() is None, "the writer writes until it is killed"
            # The test does not wait for the end of the writer, because the claim has to.
            writer.kill()
            async with opened(path, "io_uring", cache) as disk:
                batch = Batch(disk)
                await batch.do([batch.write(offset, b"new " * 16384) for offset in range(0, 4 * MIB, 65536)])
                for _ in range(20):
                    assert await read(disk, 0, 4 * MIB) == b"new " * MIB
        finally:
            writer.kill()
            writer.communicate()


def _start_writer(path: Path, cache: str) -> "subprocess.Popen[bytes]":
    """Start a process that owns the disk and writes to it as fast as it can, and wait for its first round."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, path, cache], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    return writer


async def test_only_the_expected_device_or_image_is_taken(tmp_path: Path) -> None:
    path = make_image(tmp_path, MIB)
    async with running(ThreadEngine()) as engine:
        disk = await open_disk(path, engine=engine)
        instance = disk.facts.instance
        disk.close()
        again = await open_disk(path, engine=engine, instance=instance)
        again.close()
        (tmp_path / "other").mkdir()
        make_image(tmp_path / "other", MIB).rename(path)
        with pytest.raises(DiskUnavailable, match="is another device or image than before; reload"):
            await open_disk(path, engine=engine, instance=instance)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_stuck_open_is_given_up_and_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stuck, claimed = make_image(tmp_path, MIB), threading.Event(), claim._open_claimed

    def open_late(facts: DiskFacts, direct: bool, writable: bool) -> int:
        stuck.wait(30)
        return claimed(facts, direct, writable)

    monkeypatch.setattr(claim, "_open_claimed", open_late)
    monkeypatch.setattr("meshfs.limits.DISK_CALL_TIMEOUT_S", 0.2)
    calls = Bounded("disk x")
    async with running(ThreadEngine()) as engine:
        for reason in ("did not answer within", "an earlier call"):
            with pytest.raises(DiskUnavailable, match=reason):
                await open_disk(path, engine=engine, calls=calls)
        stuck.set()
        disk = await _opened_when_free(path, engine, calls)
        disk.close()


async def _opened_when_free(path: Path, engine: Engine, calls: Bounded) -> FileDisk:
    """Open the disk as soon as the late claim is given back. Before that, this process is refused a second claim."""
    with trio.fail_after(10):
        while True:
            try:
                return await open_disk(path, engine=engine, calls=calls, claim_timeout_s=0)
            except DiskUnavailable:
                await trio.sleep(0.01)


async def test_a_failed_open_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_image(tmp_path, MIB)
    monkeypatch.setattr("meshfs.disk.file.claim.alignment_of", lambda fd, block: 1 / 0)
    async with running(ThreadEngine()) as engine:
        with pytest.raises(ZeroDivisionError):
            await open_disk(path, engine=engine)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- paths that are no disk -----------------------------------------------------------


async def test_a_path_that_is_no_disk_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    cases = {
        "missing": (DiskUnavailable, "No such file"),
        "folder": (ConfigError, "is a directory"),
        "fifo": (ConfigError, "neither an image file nor a block device"),
        "empty": (DiskUnavailable, "is empty"),
    }
    async with running(ThreadEngine()) as engine:
        for name, (kind, reason) in cases.items():
            with pytest.raises(kind, match=f"{name}:? .*{reason}"):
                await open_disk(tmp_path / name, engine=engine)


# --- the engine's choice --------------------------------------------------------------


def test_the_best_engine_that_works_is_chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    caplog.set_level("INFO")
    chosen = []
    for name in ("io_uring", "aio", "threads"):
        engine = choose_engine()
        chosen.append(engine.name)
        engine.close()
        monkeypatch.setitem(engines._ENGINES, name, refused)
    assert chosen == ["io_uring", "aio", "threads"]
    assert "io_uring: Operation not permitted; aio: Operation not permitted" in caplog.text
    with pytest.raises(ConfigError, match="no I/O engine works"):
        choose_engine()
    with pytest.raises(ConfigError, match="I/O engine aio cannot be used"):
        choose_engine("aio")
    with pytest.raises(ConfigError, match="expected one of auto, io_uring, aio, threads"):
        choose_engine("posix")


@pytest.mark.parametrize("modes", [[PUNCH], [ZERO], [ZERO, PUNCH], []], ids=["punch", "zero", "both", "writes"])
class TestWaysToZero(DiskSuite):
    """However a range is zeroed, nothing else of the disk changes."""

    @pytest.fixture
    async def case(self, tmp_path: Path, modes: list[int]) -> AsyncIterator[DiskCase]:
        path = make_image(tmp_path, 3 * MIB + 1234)
        async with opened(path, "io_uring", "none") as disk:
            disk.zero_modes[:] = modes
            yield case_of(disk, path)


@pytest.mark.parametrize("cache", CACHES)
async def test_zeroing_frees_the_blocks_of_a_sparse_image_and_keeps_those_of_a_full_one(tmp_path: Path, cache) -> None:
    path = make_image(tmp_path, 4 * MIB)
    async with opened(path, "io_uring", cache) as disk:
        assert await write(disk, 0, b"x" * 2 * MIB) == 2 * MIB
        assert await zero(disk, 0, 2 * MIB) == 2 * MIB
        assert await flush(disk) == 0
    assert path.stat().st_blocks * 512 < MIB
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
    async with opened(path, "io_uring", cache) as disk:
        assert await zero(disk, MIB, 2 * MIB) == 2 * MIB
        assert await flush(disk) == 0
    assert path.stat().st_blocks * 512 >= 4 * MIB


async def test_read_only_refuses_to_zero(tmp_path: Path) -> None:
    async with opened(make_image(tmp_path, MIB), "io_uring", "none", read_only=True) as disk:
        assert await zero(disk, 0, 4096) == -errno.EROFS
