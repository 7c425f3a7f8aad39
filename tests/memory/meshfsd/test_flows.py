"""The verbs "flows" and "flows-set" of the control socket in memory, and requests that are malformed."""

import json
import logging
import time
from typing import Any, cast

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.program.control import Handler, Request, answer, converse
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy, Overrides
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshfs.scheduler.usage import DiskMeter
from meshfs.telemetry.histogram import COARSE_BOUNDS_MS
from meshfsd.flows import FlowControl
from meshfsd.served import ServedDisk
from meshlab.fakes.memory_disk import MemoryDisk

POOL = BufferPool()
NODES = ("n1", "n2", "n3")
N2_APP, N2_SYSTEM = FlowKey("n2", IoClass.APP), FlowKey("n2", IoClass.SYSTEM)


class Exporter:
    """Holds the disks of node n1, and answers as its control socket does."""

    def __init__(self, **queues: FairQueue | FifoQueue) -> None:
        self.disks: dict[str, ServedDisk] = {}
        for name, queue in queues.items():
            policy = queue.policy if isinstance(queue, FairQueue) else DiskPolicy()
            runner = Runner(queue, MemoryDisk(1 << 20), now=time.monotonic)
            nothing = cast(Any, None)
            self.disks[name] = ServedDisk(nothing, nothing, runner, nothing, queue, policy, nothing)
        self.flows = FlowControl("n1", lambda: self.disks, lambda: NODES, time.monotonic)
        self.verbs: dict[str, Handler] = {"flows": self.flows.show, "flows-set": self.flows.change}

    async def ask(self, verb: str = "flows", **request: object) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(await answer(json.dumps({"verb": verb, **request}).encode(), self.verbs))
        return made

    async def set(self, disk: str | None = "disk0", **values: object) -> dict[str, Any]:
        return await self.ask("flows-set", disk=disk, set=values)

    def submit(self, op: Op, flow: object, disk: str = "disk0") -> list[DiskRequest]:
        done: list[DiskRequest] = []
        buffer = None if op is Op.FLUSH else POOL.acquire(512)
        length = 0 if op is Op.FLUSH else 512
        self.disks[disk].runner.submit(DiskRequest(op, 0, length, buffer, HEADROOM_BYTES, done.append, flow=flow))
        return done

    def stall(self, disk: str = "disk0") -> None:
        cast(MemoryDisk, self.disks[disk].runner.disk).stall()


@pytest.fixture
async def exporter() -> Exporter:
    return Exporter(disk0=FairQueue(DiskPolicy()), disk1=FairQueue(DiskPolicy()))


# --- flows --------------------------------------------------------------------------------


async def test_the_document_of_disks_that_were_never_used(exporter: Exporter) -> None:
    made = await exporter.ask()
    assert (made["version"], made["node"]) == (1, "n1")
    assert [disk["name"] for disk in made["disks"]] == ["disk0", "disk1"]
    disk = made["disks"][0]
    assert (disk["discipline"], disk["in_flight"], disk["queued"], disk["flows"]) == ("fair", 0, 0, [])
    floor = {"system_floor": 0.2, "limit_iops": None, "limit_bytes_per_s": None, "source": "config"}
    assert disk["policy"] == floor
    assert disk["jain"] == {name: {"1s": None, "60s": None} for name in ("app", "system")}
    assert disk["cost"]["read_fixed_us"] > 0
    assert disk["cost"]["calibrated"] is False


async def test_flows_tell_what_they_did(exporter: Exporter) -> None:
    for flow in (N2_APP, FlowKey("n1", IoClass.SYSTEM)):
        for op in (Op.READ, Op.READ, Op.WRITE, Op.FLUSH):
            assert exporter.submit(op, flow)
    [disk] = (await exporter.ask(disk="disk0"))["disks"]
    local, remote = disk["flows"]
    assert (local["node"], local["class"], local["local"]) == ("n1", "system", True)
    assert (remote["node"], remote["class"], remote["local"]) == ("n2", "app", False)
    expected = {"reads": 2, "writes": 1, "flushes": 1, "errors": 0, "read_bytes": 1024, "written_bytes": 512}
    assert {key: remote[key] for key in expected} == expected
    assert (sum(remote["read_histogram"]), sum(remote["write_histogram"])) == (2, 1)
    assert len(remote["read_histogram"]) == len(COARSE_BOUNDS_MS) + 1
    assert remote["latency_ms"]["p99"] >= remote["latency_ms"]["p50"] > 0
    assert remote["disk_latency_ms"]["p50"] > 0
    assert remote["cost_s"] > 0
    assert (remote["weight"], remote["reservation"], remote["limit_iops"], remote["source"]) == (1, 0, None, "config")


async def test_a_flow_that_waits_is_listed_before_it_is_served(exporter: Exporter) -> None:
    exporter.stall()
    for _ in range(limits.DISK_DEPTH_MAX + 5):
        exporter.submit(Op.READ, N2_APP)
    [disk] = (await exporter.ask(disk="disk0"))["disks"]
    [flow] = disk["flows"]
    assert flow["queued"] == disk["queued"] >= 5
    assert flow["queued"] + flow["in_flight"] == limits.DISK_DEPTH_MAX + 5
    assert flow["in_flight"] == disk["in_flight"] <= disk["depth"]
    assert (flow["reads"], flow["latency_ms"]) == (0, {"p50": None, "p99": None})
    assert flow["entitlement"] == 1


async def test_a_fifo_is_shown_but_takes_no_settings() -> None:
    exporter = Exporter(disk0=FairQueue(DiskPolicy()), disk1=FifoQueue(8))
    exporter.submit(Op.READ, N2_APP, "disk1")
    fair, fifo = (await exporter.ask())["disks"]
    assert (fair["discipline"], fifo["discipline"], fifo["flows"][0]["reads"]) == ("fair", "fifo", 1)
    for disk in ("disk1", None):
        made = await exporter.set(disk, system_floor=0.5)
        assert made["error"].startswith("disk disk1 is scheduled by fifo, which has no weights")
        assert (await exporter.ask("flows-set", disk=disk, reset=True))["error"] == made["error"]
    assert exporter.disks["disk0"].policy.system_floor == 0.2


# --- flows-set ----------------------------------------------------------------------------


async def test_a_floor_is_set_and_reported(exporter: Exporter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    [disk] = (await exporter.set(system_floor=0.3, limit_iops=500))["disks"]
    expected = {"system_floor": 0.3, "limit_iops": 500.0, "limit_bytes_per_s": None, "source": "run time"}
    assert disk["policy"] == expected
    assert exporter.disks["disk0"].policy.system_floor == 0.3
    assert exporter.disks["disk1"].policy.system_floor == 0.2
    assert [record.message for record in caplog.records] == [
        "the settings of disk disk0 were changed at run time: system_floor = 0.3, limit_iops = 500"
    ]


async def test_a_flow_is_set_in_one_class_or_both(exporter: Exporter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = await exporter.set(None, node="n2", weight=4)
    assert [[flow["weight"] for flow in disk["flows"]] for disk in made["disks"]] == [[4, 4], [4, 4]]
    made = await exporter.set("disk1", **{"node": "n2", "class": "system", "limit_bytes_per_s": 1e6})
    app, system = made["disks"][0]["flows"]
    assert (app["limit_bytes_per_s"], system["limit_bytes_per_s"]) == (None, 1e6)
    assert (app["source"], system["source"]) == ("run time", "run time")
    made = await exporter.set("disk1", **{"node": "n2", "class": "system", "limit_bytes_per_s": None})
    assert made["disks"][0]["flows"][1]["limit_bytes_per_s"] is None
    assert [record.message for record in caplog.records] == [
        "the settings of 2 disks were changed at run time: n2/app, n2/system: weight = 4",
        "the settings of disk disk1 were changed at run time: n2/system: limit_bytes_per_s = 1e+06",
        "the settings of disk disk1 were changed at run time: n2/system: limit_bytes_per_s = none",
    ]


async def test_a_reset_goes_back_to_the_config() -> None:
    policy = DiskPolicy(system_floor=0.1, flows={N2_APP: FlowPolicy(weight=3)})
    exporter = Exporter(disk0=FairQueue(policy))
    await exporter.set(system_floor=0.5)
    await exporter.set(node="n2", weight=7)
    [disk] = (await exporter.ask("flows-set", disk=None, reset=True))["disks"]
    assert (disk["policy"]["system_floor"], disk["policy"]["source"]) == (0.1, "config")
    assert [(flow["class"], flow["weight"], flow["source"]) for flow in disk["flows"]] == [("app", 3, "config")]
    assert exporter.disks["disk0"].overrides == Overrides()


async def test_a_change_that_one_disk_cannot_take_changes_no_disk() -> None:
    promised = DiskPolicy(flows={FlowKey("n3", IoClass.APP): FlowPolicy(reservation=0.7)})
    exporter = Exporter(disk0=FairQueue(DiskPolicy()), disk1=FairQueue(promised))
    before = {name: disk.policy for name, disk in exporter.disks.items()}
    made = await exporter.set(None, **{"node": "n2", "class": "app", "reservation": 0.5})
    assert made["error"].startswith("disk disk1: reservations of class app add up to 1.2")
    assert {name: disk.policy for name, disk in exporter.disks.items()} == before
    assert all(disk.overrides == Overrides() for disk in exporter.disks.values())


async def test_removing_a_limit_releases_the_requests_that_it_held(exporter: Exporter) -> None:
    await exporter.set(node="n2", limit_iops=1)
    done = [request for _ in range(10) for request in [exporter.submit(Op.READ, N2_APP)]]
    [flow] = [each for each in (await exporter.ask(disk="disk0"))["disks"][0]["flows"] if each["class"] == "app"]
    assert flow["held"] == "flow limit"
    assert flow["queued"] >= 8
    await exporter.set(node="n2", limit_iops=None)
    assert all(done)


async def test_a_flow_held_by_its_limit_is_not_compared() -> None:
    """Three flows wait. A flow with a limit of its own may get less, and that is not unfair."""
    exporter = Exporter(disk0=FairQueue(DiskPolicy(flows={N2_APP: FlowPolicy(limit_iops=5)})))
    begin = time.monotonic() - 100
    meter = exporter.disks["disk0"].runner.meter = DiskMeter(begin)
    for step in range(20, 1000):
        now = begin + step / 10
        for flow, share in ((N2_APP, 100), (FlowKey("n1", IoClass.APP), 1), (FlowKey("n3", IoClass.APP), 1)):
            if step % share == 0:
                request = DiskRequest(Op.READ, 0, 512, None, 0, lambda _: None, flow=flow)
                request.cost_s, request.added_s, request.sent_s = 0.01, now - share / 10 - 0.1, now
                meter.done(request, now)
    [disk] = (await exporter.ask())["disks"]
    assert all(flow["backlogged"]["60s"] for flow in disk["flows"])
    assert disk["jain"]["app"]["60s"] == 1
    await exporter.ask("flows-set", set={"node": "n2", "limit_iops": None})
    assert (await exporter.ask())["disks"][0]["jain"]["app"]["60s"] < 0.7


BAD: list[tuple[dict[str, object], str]] = [
    ({}, 'the request changes nothing, expected "set": {...} or "reset": true'),
    ({"set": {"weight": 1}, "reset": True}, "the request has both set and reset, expected only one of them"),
    ({"reset": False}, "reset: found false, expected true"),
    ({"reset": 1}, "reset: found 1, expected true"),
    ({"disk": "disk7", "reset": True}, "there is no disk 'disk7', expected one of disk0, disk1"),
    ({"disk": 7, "reset": True}, "there is no disk 7, expected one of disk0, disk1"),
    ({"disk": ["disk0"], "reset": True}, "there is no disk an array, expected one of disk0, disk1"),
    ({"set": {}}, "nothing to set, expected one of system_floor, limit_iops, limit_bytes_per_s"),
    ({"set": []}, "found an empty array, expected an object of what to set"),
    ({"set": {"system_floor": 1.5}}, "system_floor: found 1.5, expected a number from 0.01 to 0.9"),
    ({"set": {"system_floor": True}}, "system_floor: found true, expected a number from 0.01 to 0.9"),
    ({"set": {"system_floor": float("nan")}}, "system_floor: found nan, expected a number from 0.01 to 0.9"),
    ({"set": {"weight": 4}}, "weight: it is a flow's, expected with a node"),
    ({"set": {"node": "n9", "weight": 4}}, "disk disk0: there is no node 'n9', expected one of n1, n2, n3"),
    ({"set": {"node": "n2", "class": "best", "weight": 4}}, 'class: found \'best\', expected "app" or "system"'),
    ({"set": {"node": "n2", "weight": -1}}, "weight: found -1, expected a number from 0.01 to 1000"),
    ({"set": {"node": "n2", "system_floor": 0.5}}, "system_floor: it is the disk's, expected without a node"),
]


@pytest.mark.parametrize(("request_", "error"), BAD)
async def test_bad_changes_are_refused_by_name(exporter: Exporter, request_: dict[str, object], error: str) -> None:
    before = {name: disk.policy for name, disk in exporter.disks.items()}
    made = await exporter.ask("flows-set", **request_)
    assert made.keys() == {"error"}
    assert made["error"].startswith(error)
    assert {name: disk.policy for name, disk in exporter.disks.items()} == before


async def test_unknown_keys_of_a_request_are_refused(exporter: Exporter) -> None:
    assert "'disks': " in (await exporter.ask("flows", disks="disk0"))["error"]
    assert "'rest': " in (await exporter.ask("flows-set", rest=True))["error"]


async def test_an_exporter_without_disks_says_so() -> None:
    exporter = Exporter()
    assert (await exporter.ask())["disks"] == []
    assert "this exporter serves no disks" in (await exporter.ask(disk="disk0"))["error"]


# --- the socket ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"7",
        b'"flows"',
        b"{}",
        b'{"verb": []}',
        b'{"verb": {}}',
        b'{"verb": null}',
        b'{"verb": "flow"}',
        b'{"verb": "' + b"x" * 5000 + b'"}',
        b"[" * 50_000,
        b'{"verb":' + b"9" * 5000 + b"}",
    ],
)
async def test_garbage_is_answered_with_an_error(exporter: Exporter, line: bytes) -> None:
    made = json.loads(await answer(line, exporter.verbs))
    assert made.keys() == {"error"}
    assert len(made["error"]) < 300


async def test_a_conversation_goes_on_after_an_error(
    exporter: Exporter, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(converse, server, exporter.verbs)
    await client.send_all(b'nonsense\n{"verb": "flows", ')
    await client.send_all(b'"disk": "disk1"}\n')
    received = b""
    while received.count(b"\n") < 2:
        received += await client.receive_some()
    error, document = map(json.loads, received.splitlines())
    assert error == {"error": "not a JSON object"}
    assert [disk["name"] for disk in document["disks"]] == ["disk1"]
    await client.aclose()


@pytest.mark.parametrize("sent", [b"x" * (limits.CONTROL_LINE_MAX_BYTES + 1), b'{"verb": '])
async def test_an_endless_line_and_silence_end_it(
    exporter: Exporter, sent: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(sent)
    await converse(server, exporter.verbs)
    assert trio.current_time() <= limits.CONTROL_TIMEOUT_S + 1


async def test_a_verb_that_fails_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> dict[str, object]:
        raise ZeroDivisionError

    made = json.loads(await answer(b'{"verb": "fail"}', {"fail": fail}))
    assert made == {"error": "the request failed; see the log of the process for the reason"}
    [record] = caplog.records
    assert record.exc_info is not None
    caplog.clear()


async def test_an_answer_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def much(request: Request) -> dict[str, object]:
        return {"disks": ["x" * 600, "x" * 600]}

    monkeypatch.setattr(limits, "STATUS_MAX_BYTES", 1000)
    made = json.loads(await answer(b'{"verb": "much"}', {"much": much}))
    assert made == {"error": "the answer is larger than 1000 bytes"}
