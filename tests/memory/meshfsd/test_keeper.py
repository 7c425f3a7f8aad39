"""The keeper of a disk, with a real image and a scripted engine: states, answers, and the end of the descriptor."""

import errno
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import Config, load
from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.discovery.look import Sight
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.errnos import Sign
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.file.verifier import make_verifier
from meshfs.errors import TookTooLong
from meshfs.model import DiskState, FlowKey, IoClass
from meshfs.scheduler.learn.cost import CostModel
from meshfsd.keeper import DiskKeeper
from meshfsd.served import ServedDisk, make_served
from meshlab.fakes.scripted_engine import ScriptedEngine
from meshlab.suites.disk import Batch

SIZE_BYTES = 1 << 20
CONFIG = """
[cluster]
name = "test"
[[node]]
name = "n1"
addresses = ["127.0.0.1"]
  [[node.disk]]
  name = "disk0"
  path = "disk.img"
  cache = "writeback"
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE_BYTES))
    return path


@pytest.fixture
def cluster(image: Path) -> Config:
    path = image.parent / "cluster.toml"
    path.write_text(CONFIG)
    return load(path)


class Bench:
    """Holds a running keeper, and the states that it has announced."""

    def __init__(self, cluster: Config, state_folder: Path) -> None:
        self.engine = ScriptedEngine()
        self.served: ServedDisk = make_served("n1", cluster.node("n1").disks[0], cluster)
        self.keeper = DiskKeeper(
            self.served, self.engine, BufferPool(), lambda name, identity: CostModel(), state_folder
        )
        self.announced: list[DiskState] = []
        self.returned: list[bool] = []
        self.keeper.changed = lambda served: self.announced.append(served.offered.info.state)
        self.keeper.returning = lambda served: self.returned.append(served.disk is None)
        self.results: list[int] = []

    @property
    def disk(self) -> FileDisk:
        assert self.served.disk is not None
        return self.served.disk

    def submit(self, op: Op = Op.READ) -> None:
        """Submit a request through the queue. Its result is appended to ``results``."""
        request = Batch(self.served.runner.disk).make(op, 0, 0 if op == Op.FLUSH else 4096)
        request.on_done, request.flow = self._done, FlowKey("n2", IoClass.APP)
        self.served.runner.submit(request)

    def _done(self, request: DiskRequest) -> None:
        self.results.append(request.result)

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - the keeper's own task moves on
                await trio.sleep(0.01)

    async def until_state(self, state: DiskState) -> None:
        await self.until(lambda: self.served.health.state is state)


@pytest.fixture
async def bench(cluster: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("meshfs.limits.DISK_RETRY_MIN_S", 0.05)
    bench = Bench(cluster, tmp_path / "state")
    await bench.keeper.claim()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.keeper.run)
        yield bench
        nursery.cancel_scope.cancel()
    await bench.keeper.close()


async def test_a_device_that_turns_out_not_to_discard_is_announced_so(bench: Bench) -> None:
    assert bench.served.offered.info.discard_granularity_bytes == 4096
    bench.submit(Op.DISCARD)
    bench.engine.answer(-errno.EOPNOTSUPP)
    bench.keeper.poke()
    await bench.until(lambda: bench.served.offered.info.discard_granularity_bytes == 0)
    assert bench.results == [-errno.EOPNOTSUPP]
    assert bench.announced == [DiskState.OK] * 2


async def test_a_flood_of_errors_is_announced_once(bench: Bench) -> None:
    assert bench.announced == [DiskState.OK]
    for _ in range(50):
        bench.submit()
        bench.engine.answer(-errno.EIO)
    await bench.until_state(DiskState.FAILING)
    for _ in range(50):
        bench.submit()
        bench.engine.answer(-errno.ENODATA)
        await trio.sleep(0.001)
    assert bench.announced == [DiskState.OK, DiskState.FAILING]
    assert bench.served.offered.info.why == "read: Input/output error"
    assert set(bench.results) == {-errno.EIO}


async def test_while_a_disk_is_gone_io_ends_at_once_and_the_descriptor_stays_for_io_in_flight(
    bench: Bench, image: Path
) -> None:
    disk = bench.disk
    bench.submit(Op.WRITE)
    bench.submit()
    bench.engine.answer(-errno.ESTALE, newest=True)
    await bench.until_state(DiskState.GONE)
    await bench.until(lambda: bench.served.runner.disk is disk and bench.announced[-1] is DiskState.GONE)
    for _ in range(100):
        bench.submit()
    assert bench.results == [-errno.EIO] * 101
    # While the write is in flight, the descriptor and its claim stay, and the keeper claims nothing.
    await trio.sleep(0.3)
    assert bench.served.health.state is DiskState.GONE
    os.fstat(disk.fd)
    bench.engine.answer(-errno.EIO)
    await bench.until_state(DiskState.OK)
    assert bench.results == [-errno.EIO] * 102
    assert bench.disk is not disk


async def test_late_errors_of_a_removed_device_do_not_count_for_the_one_that_came_back(bench: Bench) -> None:
    for op in (Op.WRITE, Op.WRITE, Op.READ):
        bench.submit(op)
    bench.engine.answer(-errno.ENODEV, newest=True)
    await bench.until_state(DiskState.GONE)
    bench.engine.answer(-errno.ENODEV)
    bench.engine.answer(-errno.ENODEV)
    await bench.until_state(DiskState.OK)
    await bench.keeper.look()
    assert bench.announced == [DiskState.OK, DiskState.GONE, DiskState.OK]
    assert bench.returned == [True]


async def test_earlier_writes_count_as_lost_and_opens_end_before_the_disk_is_served_again(bench: Bench) -> None:
    before = bench.served.runner.disk.verifier
    bench.disk.on_error(Op.WRITE, errno.ENODEV, Sign.GONE)
    await bench.until(lambda: bench.announced[-2:] == [DiskState.GONE, DiskState.OK])
    assert bench.served.runner.disk.verifier != before
    assert bench.returned == [True]
    # The loss was noted when the device went away, so also for a meshfsd that starts meanwhile.
    assert bench.served.remembered is not None
    assert make_verifier(bench.disk.facts.instance, bench.served.remembered.record.seed) == bench.disk.verifier
    bench.submit()
    bench.engine.answer()
    assert bench.results == [4096]


@pytest.mark.parametrize("ended", [True, False])
async def test_a_long_flush_that_has_ended_by_the_time_the_disk_is_closed_is_no_loss(
    bench: Bench, tmp_path: Path, ended: bool
) -> None:
    remembered, verifier = bench.served.remembered, bench.disk.verifier
    instance = bench.disk.facts.instance
    assert remembered is not None
    bench.submit(Op.FLUSH)
    remembered.doubt(limits.FLUSH_DOUBT_S + 1)
    if ended:
        bench.engine.answer(0)
    assert await bench.keeper.close() is ended
    kept = json.loads((tmp_path / "state" / "disk0.disk.json").read_text())
    assert (make_verifier(instance, kept["seed"]) == verifier) is ended


async def test_another_image_under_the_path_is_not_taken(bench: Bench, image: Path) -> None:
    (image.parent / "other").mkdir()
    other = image.parent / "other" / "disk.img"
    other.write_bytes(bytes(SIZE_BYTES))
    other.rename(image)
    bench.disk.on_error(Op.WRITE, errno.ENODEV, Sign.GONE)
    await bench.until(lambda: "is another device or image" in bench.served.health.why)
    assert bench.served.health.why.startswith("write: No such device; ")
    with image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("how", ["an error", "no answer"])
async def test_the_end_of_an_image_that_shrank_stays_when_a_later_look_fails(
    bench: Bench, image: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """If the old end were restored, a write would extend the image again, with zeros in place of its data."""
    os.truncate(image, SIZE_BYTES // 2)
    await bench.keeper.look()
    assert bench.disk.end_bytes == SIZE_BYTES // 2

    def failing_look(fd: int, facts: DiskFacts) -> Sight:
        if how == "no answer":
            raise TookTooLong("not answered")
        return Sight(None, error=errno.EIO)

    monkeypatch.setattr("meshfsd.keeper.look", failing_look)
    await bench.keeper.look()
    assert bench.disk.end_bytes == SIZE_BYTES // 2
    assert bench.served.health.state is DiskState.FAILING


async def test_a_smaller_one_is_not_taken(bench: Bench, image: Path) -> None:
    bench.disk.on_error(Op.WRITE, errno.ENODEV, Sign.GONE)
    os.truncate(image, SIZE_BYTES // 2)
    await bench.until(lambda: f"came back with {SIZE_BYTES // 2} of {SIZE_BYTES} bytes" in bench.served.health.why)
    os.truncate(image, SIZE_BYTES)
    await bench.until_state(DiskState.OK)


async def test_a_missing_disk_refuses_at_once_and_is_taken_when_it_comes(
    cluster: Config, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshfs.limits.DISK_RETRY_MIN_S", 0.05)
    hidden = tmp_path / "hidden"
    os.rename(image, hidden)
    bench = Bench(cluster, tmp_path / "state")
    start = time.monotonic()
    await bench.keeper.claim()
    assert time.monotonic() - start < 5, "the claim does not wait for a missing disk"
    assert (bench.served.health.state, bench.served.offered.size_bytes) == (DiskState.MISSING, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.keeper.run)
        os.rename(hidden, image)
        await bench.until_state(DiskState.OK)
        assert bench.served.offered.size_bytes == SIZE_BYTES
        nursery.cancel_scope.cancel()
    await bench.keeper.close()
    assert bench.returned == []
