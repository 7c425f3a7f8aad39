"""The enclosures of a node: what is advertised and when, calls that hang or fail, rights, and the slots of disks."""

import errno
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel

from meshfs import limits
from meshfs.cluster.config import load
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.disk.discovery.selection import DiskVerdict
from meshfs.enclosure.base import EnclosureReading
from meshfs.enclosure.directory import FolderImages, scan_folder
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, EnclosureState, SlotInfo
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Access, DiskState
from meshfs.smb.auth import Accounts
from meshfsd import folders
from meshfsd.enclosures import NodeEnclosures
from meshfsd.folders import FolderDisk
from meshfsd.served import DiskPlace
from meshfsd.ses_finder import MatchedReading
from support.waiting import until

HEAD = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n'
LISTED = '[[node.disk]]\nname = "a"\npath = "/dev/sda"\n[[node.disk]]\nname = "b"\npath = "/dev/sdb"\n'
SES = "enc-0x5000000000000001"


class FakeSes:
    """Stands for a SES device with two slots, which have the disks ``inside`` by the kernel's names."""

    kind = EnclosureKind.SES

    def __init__(self, name: str = SES) -> None:
        self.id = self.name = name
        self.inside: dict[str, tuple[str, ...]] = {}
        self.lamps = [False, False]
        self.error: OSError | None = None
        self.holding: threading.Event | None = None
        self.reads = 0
        self.pages: list[bytes] = []
        self.closed = False

    def read(self) -> EnclosureReading:
        self.reads += 1
        if self.holding is not None:
            self.holding.wait(10)
        if self.error is not None:
            raise self.error
        slots = tuple(SlotInfo(f"s{at}", f"s{at}", at, "ok", lamp) for at, lamp in enumerate(self.lamps))
        info = EnclosureInfo(self.id, "", self.name, self.kind, Access.READ_WRITE, size_bytes=7, slots=slots)
        return MatchedReading(b"content", info, self.inside)

    poll = read

    def control(self, page: bytes) -> None:
        if page == b"bad":
            raise OSError(errno.EINVAL, "it is malformed")
        self.pages.append(page)
        self.lamps[0] = True

    def close(self) -> None:
        self.closed = True


class FakeFinder:
    def __init__(self) -> None:
        self.found: list[FakeSes] = []
        self.missed = False

    async def find(self) -> Sequence[Any]:
        await trio.lowlevel.checkpoint()
        return list(self.found)


class FakeDisks:
    """Stands for the disks of the node. Each has a kernel name of its own."""

    hears_of_devices = True

    def __init__(self) -> None:
        self.served: dict[str, Any] = {}
        self.places: dict[str, DiskPlace] = {}

    def serve(self, name: str, kernel_name: str = "", *, disk_id: str = "") -> None:
        self.served[name] = SimpleNamespace(
            name=name,
            offered=SimpleNamespace(info=SimpleNamespace(id=disk_id or f"meshfs-n1-{name}", why="")),
            health=SimpleNamespace(state=DiskState.OK),
            disk=SimpleNamespace(facts=SimpleNamespace(kernel_name=kernel_name)),
        )

    def change(self, name: str, state: DiskState, why: str) -> None:
        """Change what is measured of a disk, and the reason that is announced, such as that of an administrator."""
        self.served[name].health.state = state
        self.served[name].offered.info.why = why

    def place(self, places: dict[str, DiskPlace]) -> None:
        self.places = places


@dataclass
class Stage:
    """Runs the enclosures of node n1. ``changes`` has the name of each enclosure whose watchers were notified."""

    folder: Path
    exporter: Exporter = field(default_factory=lambda: Exporter("n1", Accounts({})))
    disks: FakeDisks = field(default_factory=FakeDisks)
    finder: FakeFinder = field(default_factory=FakeFinder)
    verdicts: list[DiskVerdict] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    images: int = 0

    def __post_init__(self) -> None:
        def count() -> None:
            self.images += 1

        disks, finder = self.disks, self.finder
        self.enclosures = NodeEnclosures(
            self.exporter,
            disks,
            self.folder / "state",
            lambda: self.verdicts,
            count,
            finder,  # type: ignore[arg-type]
        )
        self.exporter.enclosures.on_change.append(lambda _, enclosure: self.changes.append(enclosure.name))

    def config(self, text: str) -> NodeConfig:
        (self.folder / "cluster.toml").write_text(HEAD + text)
        return load(self.folder / "cluster.toml").node("n1")

    async def take(self, text: str) -> None:
        """Take over a config, as the exporter does."""
        node = self.config(text)
        await self.enclosures.configure(node)
        self.enclosures.place([*node.disks, *self.enclosures.images])
        self.enclosures.renew()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.enclosures.run)
            yield
            nursery.cancel_scope.cancel()

    def info(self, name: str) -> EnclosureInfo:
        (found,) = [each.info for each in self.exporter.enclosures.all() if each.name == name]
        return found

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.exporter.enclosures.all()]

    async def read(self, name: str = SES) -> EnclosureReading | OSError:
        return await self._answer(self._offered(name).device.read)

    async def control(self, page: bytes, name: str = SES) -> OSError | None:
        return await self._answer(lambda then: self._offered(name).device.control(page, then))

    def _offered(self, name: str) -> Any:
        found = self.exporter.enclosures.find(name, "n1")
        assert found is not None
        return found

    async def _answer(self, ask: Callable[[Callable[[Any], None]], None]) -> Any:
        answers: list[Any] = []
        ask(answers.append)
        await until(lambda: answers)
        assert len(answers) == 1
        return answers[0]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# --- bays ----------------------------------------------------------------------------------


async def test_a_node_without_ses_devices_has_bays_for_its_disks(stage: Stage) -> None:
    stage.disks.serve("a")
    stage.disks.serve("b")
    await stage.take(LISTED)
    info = stage.info("bays")
    assert (info.id, info.node, info.kind) == ("enc-n1-bays", "n1", EnclosureKind.VIRTUAL)
    assert [(slot.name, slot.disk) for slot in info.slots] == [("bay01", "meshfs-n1-a"), ("bay02", "meshfs-n1-b")]
    assert stage.disks.places == {"a": DiskPlace("enc-n1-bays", "bay01"), "b": DiskPlace("enc-n1-bays", "bay02")}


async def test_a_bay_shows_the_state_of_its_disk(stage: Stage) -> None:
    stage.disks.serve("a")
    stage.disks.serve("b")
    await stage.take(LISTED)
    stage.disks.change("a", DiskState.FAILING, "EIO")
    stage.disks.change("b", DiskState.GONE, "removed")
    stage.enclosures.renew()
    assert [(slot.status, slot.disk, slot.why) for slot in stage.info("bays").slots] == [
        ("critical", "meshfs-n1-a", "EIO"),
        ("not-installed", "meshfs-n1-b", "removed"),
    ]
    assert stage.info("bays").state is EnclosureState.OK


async def test_a_bay_stays_when_its_disk_leaves_and_the_disk_returns_to_it(stage: Stage) -> None:
    node = stage.config(LISTED)
    await stage.take(LISTED)
    stage.enclosures.place(node.disks[1:])
    stage.enclosures.renew()
    assert [slot.name for slot in stage.info("bays").slots] == ["bay01", "bay02"]
    assert stage.disks.places == {"b": DiskPlace("enc-n1-bays", "bay02")}
    stage.enclosures.place(node.disks)
    assert stage.disks.places["a"] == DiskPlace("enc-n1-bays", "bay01")


async def test_bays_are_the_same_after_a_restart(stage: Stage, tmp_path: Path) -> None:
    node = stage.config(LISTED)
    await stage.take(LISTED)
    async with stage.running():
        stage.enclosures.place(node.disks[1:])
        await until(lambda: (tmp_path / "state/bays.enclosure.json").exists())
    again = Stage(tmp_path)
    await again.take(LISTED.replace('name = "a"', 'name = "c"'))
    assert again.disks.places["b"] == DiskPlace("enc-n1-bays", "bay02")


async def test_nobody_is_notified_if_nothing_has_changed(stage: Stage) -> None:
    stage.disks.serve("a")
    await stage.take(LISTED)
    before, stage.changes = stage.info("bays"), []
    for _ in range(3):
        stage.enclosures.renew()
    assert stage.changes == []
    assert stage.info("bays") == before
    stage.disks.served["a"].offered.info.why = "slow"
    stage.enclosures.renew()
    assert stage.changes == ["bays"]
    assert stage.info("bays").changed_ns > before.changed_ns


async def test_none_offers_no_bays_and_a_reload_changes_that(stage: Stage) -> None:
    await stage.take('enclosures = "none"\n' + LISTED)
    assert (stage.names, set(stage.disks.places.values())) == ([], {DiskPlace()})
    await stage.take(LISTED)
    assert stage.names == ["bays"]
    await stage.take('enclosures = "none"\n' + LISTED)
    assert (stage.names, set(stage.disks.places.values())) == ([], {DiskPlace()})


async def test_rights_follow_the_config(stage: Stage) -> None:
    await stage.take(LISTED)
    assert stage.exporter.enclosures.all()[0].access_of("n2") is Access.READ_WRITE
    second = '[[node]]\nname = "n2"\naddresses = ["10.0.0.2"]\n'
    await stage.take('[node.enclosures]\naccess = "ro"\nnodes = { n2 = "none" }\n' + LISTED + second)
    assert stage.exporter.enclosures.all()[0].access_of("n1") is Access.READ_ONLY
    assert stage.exporter.enclosures.find("bays", "n2") is None


# --- SES devices ---------------------------------------------------------------------------


async def test_a_ses_device_takes_the_place_of_the_bays_and_knows_its_disks(stage: Stage) -> None:
    ses = FakeSes()
    ses.inside = {"s1": ("sdb",)}
    stage.finder.found = [ses]
    stage.disks.serve("a", "sda")
    stage.disks.serve("b", "sdb")
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        assert [(slot.name, slot.disk) for slot in stage.info(SES).slots] == [("s0", ""), ("s1", "meshfs-n1-b")]
        assert stage.disks.places == {"a": DiskPlace(), "b": DiskPlace(SES, "s1")}
        stage.finder.found = []
        stage.enclosures.look_soon()
        await until(lambda: stage.names == ["bays"])
        await until(lambda: ses.closed)


async def test_a_device_that_is_no_disk_of_the_mesh_has_its_reason_in_the_slot(stage: Stage) -> None:
    ses = FakeSes()
    ses.inside = {"s0": ("sdx",)}
    stage.finder.found = [ses]
    device: Any = SimpleNamespace(name="sdx", id="wwn-0x1")
    stage.verdicts.append(DiskVerdict(device, None, ""))
    stage.verdicts[0] = replace(stage.verdicts[0], refusal=object(), why="it is mounted")  # type: ignore[arg-type]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        assert (stage.info(SES).slots[0].disk, stage.info(SES).slots[0].why) == ("", "it is mounted")


async def test_control_pages_are_carried_out_and_a_reading_renews_what_is_advertised(stage: Stage) -> None:
    ses = FakeSes()
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        assert await stage.control(b"page") is None
        assert ses.pages == [b"page"]
        reading = await stage.read()
        assert isinstance(reading, EnclosureReading)
        assert reading.content == b"content"
        assert stage.info(SES).slots[0].locate
        refused = await stage.control(b"bad")
        assert refused is not None
        assert refused.errno == errno.EINVAL


async def test_a_device_that_fails_is_gone_until_it_answers(stage: Stage) -> None:
    ses = FakeSes()
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        ses.error = OSError(errno.ENODEV, "No such device")
        answer = await stage.read()
        assert isinstance(answer, OSError)
        assert (stage.info(SES).state, stage.info(SES).why) == (EnclosureState.GONE, "No such device")
        assert len(stage.info(SES).slots) == 2
        ses.error = None
        await stage.read()
        assert stage.info(SES).state is EnclosureState.OK


async def test_a_device_that_hangs_fails_calls_within_the_bound_and_holds_up_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENCLOSURE_CALL_TIMEOUT_S", 0.3)
    ses, other = FakeSes(), FakeSes("enc-other")
    stage.finder.found = [ses, other]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES, "enc-other"])
        ses.holding = threading.Event()
        for _ in range(2):
            answer = await stage.read()
            assert isinstance(answer, OSError)
            assert answer.errno == errno.ETIMEDOUT
        assert stage.info(SES).state is EnclosureState.GONE
        assert isinstance(await stage.read("enc-other"), EnclosureReading)
        ses.holding.set()
        ses.holding = None
        await trio.sleep(0.1)
        assert isinstance(await stage.read(), EnclosureReading)


async def test_calls_that_wait_are_answered_when_the_enclosure_is_withdrawn(stage: Stage) -> None:
    ses = FakeSes()
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        ses.holding = threading.Event()
        answers: list[Any] = []
        offered = stage.exporter.enclosures.all()[0]
        offered.device.read(answers.append)
        await trio.sleep(0.05)
        offered.device.control(b"page", answers.append)
        stage.finder.found = []
        stage.enclosures.look_soon()
        await until(lambda: answers)
        assert [answer.errno for answer in answers] == [errno.ENODEV]
        ses.holding.set()
        await until(lambda: len(answers) == 2)
        offered.device.control(b"page", answers.append)
        assert answers[2].errno == errno.ENODEV
        assert ses.pages == []


async def test_ses_devices_are_read_from_time_to_time_and_virtual_ones_are_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENCLOSURE_POLL_S", 0.05)
    ses = FakeSes()
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: ses.reads > 3)
        ses.lamps[1] = True
        await until(lambda: stage.info(SES).slots[1].locate)


# --- folders -------------------------------------------------------------------------------


def shelf(path: Path, **keys: int) -> str:
    more = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[[node.enclosure]]\nname = "shelf"\nkind = "directory"\npath = "{path}"\n{more}'


@pytest.fixture
def images(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("02-a", "b"):
        (images / name).write_bytes(b"data")
    if not all(image.id for image in scan_folder(images, {}).images):
        pytest.skip("this file system has no extended attributes")
    return images


def ids(images: Path) -> dict[str, str]:
    return {image.path.name: image.id for image in scan_folder(images, {}).images}


async def test_the_images_of_a_folder_are_disks_with_slots(stage: Stage, images: Path) -> None:
    await stage.take(shelf(images, slots=3))
    known = ids(images)
    assert {config.name: config.path.name for config in stage.enclosures.images} == {
        known["02-a"]: "02-a",
        known["b"]: "b",
    }
    assert stage.disks.places == {
        known["02-a"]: DiskPlace("enc-n1-shelf", "slot02"),
        known["b"]: DiskPlace("enc-n1-shelf", "slot01"),
    }
    assert [slot.name for slot in stage.info("shelf").slots] == ["slot01", "slot02", "slot03"]
    assert stage.names == ["shelf"]


async def test_a_folder_that_hangs_keeps_its_images_and_holds_up_no_other(
    stage: Stage, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISK_CALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "FOLDER_CHECK_S", 0.1)
    ends = threading.Event()
    holding = False

    def scan(folder: Path, offered: Any) -> FolderImages:
        if holding and folder == images:
            ends.wait(10)
        return scan_folder(folder, offered)

    monkeypatch.setattr(folders, "scan_folder", scan)
    other = images.with_name("other")
    other.mkdir()
    await stage.take(shelf(images) + shelf(other).replace('"shelf"', '"second"'))
    async with stage.running():
        holding = True
        (images / "new").write_bytes(b"data")
        (other / "x").write_bytes(b"data")
        await until(lambda: len(stage.enclosures.images) == 3)
        await until(lambda: stage.enclosures.folders.why("shelf"))
        stage.enclosures.renew()
        assert stage.info("shelf").state is EnclosureState.GONE
        assert "did not answer" in stage.info("shelf").why or "has not been answered" in stage.info("shelf").why
        assert stage.info("second").state is EnclosureState.OK
        assert len(stage.enclosures.images) == 3
        ends.set()
        await until(lambda: len(stage.enclosures.images) == 4)
        stage.enclosures.renew()
        assert stage.info("shelf").state is EnclosureState.OK


async def test_a_reload_may_be_interrupted_by_changes_of_disks(
    stage: Stage, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(folder: Path, offered: Any) -> FolderImages:
        time.sleep(0.05)
        return scan_folder(folder, offered)

    monkeypatch.setattr(folders, "scan_folder", scan)
    other = shelf(images.with_name("other")).replace('"shelf"', '"second"')

    async def renew_always(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            stage.enclosures.renew()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(renew_always)
        for text in (LISTED, shelf(images) + LISTED, shelf(images) + other, other, LISTED, 'enclosures = "none"\n'):
            await stage.take(text)
        nursery.cancel_scope.cancel()
    assert stage.names == []


async def test_a_folder_that_is_missing_is_gone_and_comes(stage: Stage, images: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    await stage.take(shelf(missing))
    assert stage.info("shelf").state is EnclosureState.GONE
    assert stage.info("shelf").why == f"its folder {missing} cannot be read: No such file or directory"
    async with stage.running():
        images.rename(missing)  # noqa: ASYNC240 - renames in microseconds
        await until(lambda: len(stage.enclosures.images) == 2)


async def test_an_image_that_moves_between_two_folders_of_a_node_is_one_disk(stage: Stage, images: Path) -> None:
    other = images.with_name("other")
    other.mkdir()
    await stage.take(shelf(images) + shelf(other).replace('"shelf"', '"second"'))
    name = ids(images)["02-a"]

    def served() -> Sequence[FolderDisk]:
        return stage.enclosures.folders.disks

    async with stage.running():
        (images / "02-a").rename(other / "05-a")
        await until(
            lambda: {disk.config.name: disk.folder for disk in stage.enclosures.folders.disks}[name] == "second"
        )
        await until(lambda: not stage.enclosures.folders.refused)
        assert len(stage.enclosures.images) == 2


async def test_without_inotify_folders_are_looked_at_often(
    stage: Stage, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(folders, "FolderChanges", refuse)
    monkeypatch.setattr(limits, "FOLDER_RETRY_S", 0.05)
    await stage.take(shelf(images))
    async with stage.running():
        (images / "new").write_bytes(b"data")
        await until(lambda: len(stage.enclosures.images) == 3)


async def test_a_device_that_hangs_is_closed_when_it_answers_after_its_removal(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENCLOSURE_CALL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(limits, "ENCLOSURE_CLOSE_RETRY_S", 0.05)
    ses, again = FakeSes(), FakeSes()
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        ses.holding = threading.Event()
        offered = stage.exporter.enclosures.all()[0]
        offered.device.read(lambda _: None)
        await trio.sleep(0.02)
        # The same enclosure returns as another device, before the call to the earlier one has failed.
        stage.finder.found = [again]
        stage.enclosures.look_soon()
        await until(lambda: again.reads and stage.names == [SES])
        await trio.sleep(0.2)
        assert stage.info(SES).state is EnclosureState.OK
        assert not ses.closed
        ses.holding.set()
        await until(lambda: ses.closed)


async def test_a_device_whose_close_fails_ends_nothing_else(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    ses = FakeSes()
    monkeypatch.setattr(ses, "close", fail)
    stage.finder.found = [ses]
    await stage.take(LISTED)
    async with stage.running():
        await until(lambda: stage.names == [SES])
        stage.finder.found = []
        stage.enclosures.look_soon()
        await until(lambda: stage.names == ["bays"])
        await trio.sleep(0.05)


async def test_a_late_look_at_a_folder_never_replaces_a_newer_one(
    stage: Stage, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, slow = threading.Event(), False

    def scan(folder: Path, offered: Any) -> FolderImages:
        found = scan_folder(folder, offered)
        if slow and folder == images:
            ends.wait(10)
        return found

    monkeypatch.setattr(folders, "scan_folder", scan)
    other = images.with_name("other")
    other.mkdir()
    await stage.take(shelf(images))
    async with stage.running():
        slow = True
        (images / "new").write_bytes(b"data")
        await trio.sleep(0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.take, shelf(other))
            await trio.sleep(0.1)
            ends.set()
        for _ in range(20):
            await trio.sleep(0.01)
            assert stage.enclosures.images == []
