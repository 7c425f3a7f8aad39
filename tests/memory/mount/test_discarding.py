"""The verb "discard" of a mount: what it asks the disk for, what it refuses, and which cached pages it drops."""

import errno
from typing import Any

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import Operations
from meshfs.model import IoClass
from meshfs.mount.discarding import Discarder
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.tree import MeshTree
from meshfs.program.control import RefusedError
from meshlab.fakes.enclosure_port import FakeEnclosurePort
from meshlab.fakes.port import FakePort, fake_disk

SIZE = 64 * 1024
INFO = fake_disk("n1", "a", SIZE)


class Pages:
    """Records the ranges that are dropped."""

    def __init__(self) -> None:
        self.dropped: list[tuple[int, int, int]] = []

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint()
        self.dropped.append((inode, start, stop))

    async def drop_file(self, inode: int) -> None:
        raise AssertionError("only a range is dropped")


class Mesh:
    """Holds the catalog of a mount with one disk."""

    def __init__(self) -> None:
        self.catalog = Catalog(["n1"])
        self.catalog.announce("n1", [INFO])


class Bench:
    """Holds a mount with one disk, whose cached pages are recorded."""

    def __init__(self) -> None:
        self.port = FakePort(INFO)
        self.port.data[:] = b"\xaa" * SIZE
        mesh = Mesh()
        tree = MeshTree(["n1"], 1)
        tree.update(mesh.catalog.disks, 2)
        self.operations = Operations(
            tree, lambda info: self.port, FakeEnclosurePort, lambda whole: b"{}", OpenFiles(), GonePages()
        )
        self.pages = Pages()
        self.operations._pages = self.pages
        file = tree.disk_file(INFO.id)
        assert file is not None
        self.inode = file.inode
        self.discarder = Discarder(mesh, lambda info: self.port, self.operations)  # type: ignore[arg-type]

    async def ask(self, **changed: Any) -> int:
        request = {"verb": "discard", "disk": INFO.id, "offset": 0, "length": SIZE, **changed}
        done = (await self.discarder.answer(request))["done"]
        assert isinstance(done, int)
        return done


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def refusal(bench: Bench, **changed: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        await bench.ask(**changed)
    return str(caught.value)


@pytest.mark.parametrize("zero", [False, True])
async def test_a_range_is_cleared_and_flushed_by_class_system(bench: Bench, zero: bool) -> None:
    bench.port.zero_max_bytes = 4096
    assert await bench.ask(offset=100, length=10000, zero=zero) == 10000
    name, through = ("zero", False) if zero else ("discard", None)
    assert bench.port.calls == [
        (name, 100, 4096, through),
        (name, 4196, 4096, through),
        (name, 8292, 1808, through),
        ("flush", 0, 0, None),
    ]
    assert bench.port.opened == [(IoClass.SYSTEM, True)]
    assert bench.port.handles == 0
    # The pages are dropped before and after.
    assert bench.pages.dropped == [(bench.inode, 0, 12288)] * 2
    assert bench.port.data[100:10100] == (bytes(10000) if zero else b"\xaa" * 10000)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"disk": "another"}, "there is no disk another"),
        ({"disk": 5}, "needs a disk"),
        ({"zero": "yes"}, "true or false"),
        ({"force": 1}, "true or false"),
        ({"length": 0}, "must be positive"),
        ({"length": True}, "must be positive"),
        ({"offset": -1}, "offset and a length"),
        ({"offset": 1}, "past the end"),
        ({"length": 1 << 100}, "past the end"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(bench: Bench, changed: dict[str, Any], why: str) -> None:
    assert why in await refusal(bench, **changed)
    assert bench.port.calls == []


async def test_a_disk_that_is_open_in_the_mount_is_only_cleared_by_force(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.operations.files.of_disk[INFO.id] = 2
    assert "has 2 open files in this mount" in await refusal(bench)
    assert bench.port.calls == []
    assert await bench.ask(force=True) == SIZE


async def test_a_file_that_was_just_closed_does_not_count(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    bench.operations.files.of_disk[INFO.id] = 1

    async def closes() -> None:
        await trio.sleep(limits.DISCARD_CLOSE_S / 2)
        bench.operations.files.of_disk[INFO.id] = 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(closes)
        assert await bench.ask() == SIZE


async def test_a_step_ends_after_its_time_so_that_progress_is_seen(
    bench: Bench, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.port.zero_max_bytes = 1024
    slow = bench.port.enter

    async def enter(*call: Any) -> None:
        await trio.sleep(0.3 * limits.DISCARD_STEP_S)
        await slow(*call)

    monkeypatch.setattr(bench.port, "enter", enter)
    assert await bench.ask() == 4 * 1024


async def test_an_error_is_the_answer_unless_a_part_is_done(bench: Bench) -> None:
    bench.port.zero_max_bytes = 1024
    bench.port.error = errno.EOPNOTSUPP
    assert await refusal(bench) == f"disk {INFO.id}: Operation not supported"
    bench.port.error, bench.port.error_after = None, 2
    # The third call fails, and so does the flush after it. The bytes are then not known to be stable.
    assert "Input/output error" in await refusal(bench)
    assert bench.port.handles == 0
    assert len(bench.pages.dropped) == 4


async def test_a_part_that_is_done_before_an_error_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.port.zero_max_bytes = 1024
    sound = bench.port.enter

    async def enter(operation: str, offset: int, *rest: Any) -> None:
        if operation == "discard" and offset >= 2048:
            raise OSError(errno.EIO, "broken")
        await sound(operation, offset, *rest)

    monkeypatch.setattr(bench.port, "enter", enter)
    assert await bench.ask() == 2048
    assert bench.port.calls[-1][0] == "flush"
    assert "broken" in await refusal(bench, offset=2048, length=1024)


async def test_the_disk_is_closed_if_the_mount_ends_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    started = trio.Event()

    async def enter(operation: str, *rest: Any) -> None:
        if operation == "discard":
            started.set()
            await trio.sleep_forever()

    monkeypatch.setattr(bench.port, "enter", enter)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.ask)
        await started.wait()
        nursery.cancel_scope.cancel()
    assert bench.port.handles == 0
