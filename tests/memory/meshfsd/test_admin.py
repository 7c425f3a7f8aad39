"""The verbs "suspend", "drain", "resume" and "admin" with a real image and a scripted engine."""

import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from meshfs.buffers import BufferPool
from meshfs.cluster.config import Config, load
from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.errnos import Sign
from meshfs.disk.file.disk import FileDisk
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import DiskState, FlowKey, IoClass
from meshfs.program.control import answer
from meshfs.scheduler.learn.cost import CostModel
from meshfs.smb.auth import Accounts
from meshfsd.admin import DiskAdmin
from meshfsd.calibration import Calibration
from meshfsd.disks import Disks
from meshfsd.keeper import DiskKeeper
from meshfsd.served import ServedDisk
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
  path = "disk0.img"
  cache = "writeback"
  [[node.disk]]
  name = "disk1"
  path = "disk1.img"
"""


class Bench:
    """Holds a node's disks, and asks its control socket."""

    def __init__(self, folder: Path) -> None:
        self.engine = ScriptedEngine()
        self.exporter = Exporter("n1", Accounts({}))
        self.rediscovered = 0
        self.informed = True
        self.disks = Disks(self.exporter, self.engine, BufferPool(), Calibration(folder / "state"))
        self.admin = DiskAdmin("n1", self.disks, self, self._rediscover)
        self.results: list[int] = []
        self.config: Config = load(folder / "cluster.toml")

    @property
    def all_informed(self) -> bool:
        return self.informed

    def _rediscover(self) -> None:
        self.rediscovered += 1

    @property
    def served(self) -> ServedDisk:
        return self.disks.served["disk0"]

    @property
    def state(self) -> DiskState:
        return self.served.offered.info.state

    async def ask(self, verb: str, **request: object) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(
            await answer(json.dumps({"verb": verb, **request}).encode(), self.admin.verbs())
        )
        return made

    async def disk(self, verb: str, **request: object) -> dict[str, Any]:
        made = await self.ask(verb, disk="disk0", **request)
        assert "error" not in made, made
        (disk,) = made["disks"]
        assert isinstance(disk, dict)
        return disk

    def submit(self, op: Op = Op.READ) -> None:
        request = Batch(self.served.runner.disk).make(op, 0, 0 if op == Op.FLUSH else 4096)
        request.on_done, request.flow = self._done, FlowKey("n2", IoClass.APP)
        self.served.runner.submit(request)

    def _done(self, request: DiskRequest) -> None:
        self.results.append(request.result)

    async def apply(self) -> None:
        disks = self.config.node("n1").disks
        await self.disks.apply(disks, self.config, await self.disks.check(disks))

    async def withdraw_all(self) -> None:
        """Withdraw both disks. Each is flushed before it is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.disks.apply, [], self.config, {})
            await self.flushed()
            await self.flushed()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - the tasks of the verbs move on
                await trio.sleep(0.01)

    async def flushed(self) -> None:
        """Answer the flush that a verb sends to the device."""
        await self.until(lambda: self.engine.unanswered[:1] == [("sync", 0, 0, False)])
        self.engine.answer(0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    for name in ("disk0.img", "disk1.img"):
        (tmp_path / name).write_bytes(bytes(SIZE_BYTES))
    (tmp_path / "cluster.toml").write_text(CONFIG)
    bench = Bench(tmp_path)
    await bench.apply()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.disks.run)
        nursery.start_soon(bench.admin.run)
        await trio.testing.wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()
    await bench.disks.close()


async def test_a_suspension_is_settled_when_the_requests_at_the_device_are_done_and_flushed(bench: Bench) -> None:
    bench.submit(Op.WRITE)
    disk = await bench.disk("suspend", for_s=60)
    assert (disk["admin"], disk["state"], disk["settled"], disk["in_flight"]) == ("suspending", "suspended", False, 1)
    assert disk["ends_in_s"] == pytest.approx(60, abs=1)
    bench.submit()
    bench.engine.answer()
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    disk = await bench.disk("admin")
    assert (disk["admin"], disk["flushed"], disk["queued"], disk["in_flight"]) == ("suspended", True, 1, 0)
    assert bench.results == [4096]
    assert bench.engine.unanswered == [], "nothing is sent to the device"
    disk = await bench.disk("resume")
    assert (disk["admin"], disk["state"], disk["flushed"], disk["ends_in_s"]) == ("serving", "ok", False, None)
    assert [call[0] for call in bench.engine.unanswered] == ["read"]
    bench.engine.answer()
    assert bench.results == [4096, 4096]


async def test_a_suspension_whose_flush_fails_has_flushed_nothing(bench: Bench) -> None:
    verifier = bench.served.runner.disk.verifier
    await bench.disk("suspend")
    await bench.until(lambda: bool(bench.engine.unanswered))
    bench.engine.answer(-errno.EIO)
    await bench.until(lambda: bench.served.admin.settled)
    assert not (await bench.disk("admin"))["flushed"]
    assert bench.served.runner.disk.verifier != verifier, "the writers learn of it"


async def test_a_suspension_ends_by_itself_and_a_second_one_sets_the_time_again(bench: Bench) -> None:
    await bench.disk("suspend", for_s=0.05)
    await bench.disk("suspend", for_s=0.4)
    await trio.sleep(0.2)
    assert bench.state is DiskState.SUSPENDED
    await bench.until(lambda: bench.state is DiskState.OK)
    assert (bench.served.runner.paused, bench.rediscovered) == (False, 1)


async def test_a_reload_keeps_a_suspension_and_a_drain(bench: Bench) -> None:
    await bench.disk("suspend")
    await bench.flushed()
    bench.submit()
    await bench.apply()
    assert (bench.state, bench.results) == (DiskState.SUSPENDED, [])
    await bench.disk("drain")
    bench.engine.answer()
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    await bench.apply()
    assert bench.state is DiskState.DRAINED


async def test_a_drained_disk_is_closed_and_the_same_disk_when_it_is_resumed(bench: Bench) -> None:
    bench.submit(Op.WRITE)
    file = bench.served.disk
    assert file is not None
    verifier = file.verifier
    disk = await bench.disk("drain")
    assert (disk["admin"], disk["state"], disk["settled"]) == ("draining", "drained", False)
    assert not bench.served.offered.takes_opens
    bench.engine.answer()
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    assert (bench.served.disk, bench.results) == (None, [4096])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.fd)
    # A keeper that is poked, as by an event of a device, claims nothing.
    bench.disks.poke()
    await trio.sleep(0.1)
    assert bench.served.disk is None
    assert (await bench.ask("suspend", disk="disk0"))["error"].startswith("disk disk0: it is drained")
    disk = await bench.disk("resume")
    assert (disk["settled"], bench.served.offered.takes_opens) == (False, False), "nothing is claimed yet"
    await bench.until(lambda: bench.state is DiskState.OK)
    assert bench.served.offered.takes_opens
    assert bench.served.disk is not None
    assert bench.served.disk.verifier == verifier
    assert (await bench.disk("admin"))["settled"]


async def test_a_drain_that_is_taken_back_goes_on_serving(bench: Bench) -> None:
    bench.submit()
    await bench.disk("drain")
    disk = await bench.disk("resume")
    assert (disk["admin"], disk["state"]) == ("serving", "ok")
    assert bench.served.offered.takes_opens
    bench.engine.answer()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.engine.unanswered == [], "no flush is sent"
    assert bench.state is DiskState.OK


async def test_writes_that_a_drain_lets_go_are_lost_if_the_device_goes_away_before_they_are_flushed(
    bench: Bench,
) -> None:
    await bench.disk("suspend")
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    bench.submit(Op.WRITE)
    file = bench.served.disk
    assert file is not None
    verifier = file.verifier
    await bench.disk("drain")
    bench.engine.answer()
    assert bench.results == [4096]
    # The image is removed before the flush of the drain has ended.
    file.on_error(Op.WRITE, errno.ENODEV, Sign.GONE)
    await bench.until(lambda: file.verifier != verifier)
    bench.engine.answer(-errno.EIO)
    await bench.until(lambda: bench.served.admin.settled)
    assert not bench.served.admin.flushed


async def test_a_disk_that_is_resumed_before_its_device_is_closed_stays_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, looked = trio.Event(), trio.Event()
    keeper = bench.disks._keepers["disk0"]

    async def look() -> None:
        looking.set()
        await looked.wait()

    monkeypatch.setattr(keeper, "look", look)
    keeper.poke()
    await looking.wait()
    await bench.disk("drain")
    await bench.flushed()
    await bench.until(lambda: keeper._let_go is not None)
    file = bench.served.disk
    await bench.disk("resume")
    looked.set()
    await bench.until(lambda: keeper._let_go is None)
    bench.submit()
    bench.engine.answer()
    assert (bench.served.disk, bench.results, bench.state) == (file, [4096], DiskState.OK)


async def test_the_end_of_a_suspension_does_not_concern_a_disk_that_took_the_name(bench: Bench) -> None:
    await bench.disk("suspend", for_s=0.2)
    await bench.flushed()
    await bench.withdraw_all()
    await bench.apply()
    await trio.sleep(0.3)
    assert (bench.rediscovered, bench.state) == (0, DiskState.OK)


async def test_a_disk_that_a_reload_replaces_stays_drained(bench: Bench, tmp_path: Path) -> None:
    await bench.disk("drain")
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    (tmp_path / "new.img").write_bytes(bytes(SIZE_BYTES))
    (tmp_path / "new.img").rename(tmp_path / "disk0.img")
    before = bench.served
    await bench.apply()
    assert bench.served is not before
    assert (bench.state, bench.served.disk) == (DiskState.DRAINED, None)
    await bench.disk("resume")
    await bench.until(lambda: bench.state is DiskState.OK)


async def test_a_drained_node_serves_no_disk_that_is_added(bench: Bench) -> None:
    await bench.withdraw_all()
    made = await bench.ask("drain")
    assert (made["drained"], made["disks"]) == (True, [])
    await bench.apply()
    assert {served.offered.info.state for served in bench.disks.served.values()} == {DiskState.DRAINED}
    assert {served.disk for served in bench.disks.served.values()} == {None}
    made = await bench.ask("resume")
    assert (made["drained"], len(made["disks"])) == (False, 2)
    await bench.until(lambda: bench.state is DiskState.OK)


async def test_a_node_that_is_drained_while_a_disk_is_claimed_does_not_serve_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.withdraw_all()
    claimed, go_on = trio.Event(), trio.Event()

    async def costs(keeper: DiskKeeper, disk: FileDisk) -> CostModel:
        claimed.set()
        await go_on.wait()
        return CostModel()

    monkeypatch.setattr(DiskKeeper, "_costs", costs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.apply)
        await claimed.wait()
        await bench.ask("drain")
        go_on.set()
    assert (bench.state, bench.served.offered.takes_opens) == (DiskState.DRAINED, False)
    await bench.until(lambda: bench.served.disk is None)
    await bench.disk("resume")
    await bench.until(lambda: bench.state is DiskState.OK)


async def test_the_machine_may_write_to_a_drained_device(bench: Bench, tmp_path: Path) -> None:
    await bench.disk("drain")
    await bench.flushed()
    await bench.until(lambda: bench.served.admin.settled)
    record = json.loads((tmp_path / "state" / "disk0.disk.json").read_bytes())
    assert not record["clean"], "the time of the claim counts as the time of the last write"


async def test_a_stop_announces_all_disks_as_drained_and_waits_for_the_mounts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshfs.limits.DRAIN_NEWS_S", 0.2)
    bench.informed = False
    start_s = trio.current_time()
    await bench.admin.leave()
    assert trio.current_time() - start_s == pytest.approx(0.2, abs=0.1)
    assert (bench.state, bench.served.offered.takes_opens) == (DiskState.DRAINED, True)


@pytest.mark.parametrize(
    ("verb", "request_", "error"),
    [
        ("suspend", {}, "names no disk"),
        ("suspend", {"disk": "odd"}, "there is no disk 'odd', expected one of disk0, disk1"),
        ("suspend", {"disk": "disk0", "for_s": 0}, "for_s: found 0, expected more than 0"),
        ("suspend", {"disk": "disk0", "for_s": 1e9}, "for_s: found 1000000000.0"),
        ("suspend", {"disk": "disk0", "for_s": True}, "for_s: found true"),
        ("suspend", {"disk": "disk0", "for_s": "x"}, "for_s: found 'x'"),
        ("drain", {"disk": ["disk0"]}, "there is no disk"),
        ("resume", {"dsik": "disk0"}, "dsik"),
        ("admin", {"for_s": 1}, "for_s"),
    ],
)
async def test_malformed_requests_change_nothing(
    bench: Bench, verb: str, request_: dict[str, object], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    assert error in (await bench.ask(verb, **request_))["error"]
    assert bench.state is DiskState.OK
    assert not caplog.records
