"""Each rule of the table of problems finds its problem in a document, and none in the same document if all is well."""

import logging
import os
import resource
from typing import Any

import pytest

from meshfs import limits
from meshfs.mount.status_views import for_others
from meshfs.telemetry.problem_watch import ProblemLog
from meshfs.telemetry.problems import (
    EXPORTER_RULES,
    MOUNT_RULES,
    Problem,
    Severity,
    count_by_code,
    exporter_problems,
    merged,
    mount_problems,
    published,
)
from meshfs.telemetry.process_facts import descriptors
from meshfs.telemetry.recent import Recent

LONG_S = limits.PROBLEM_IO_WAIT_S + 1


def path(**changed: Any) -> dict[str, Any]:
    ends = {"interface": "eth0", "local_address": "10.0.1.2", "remote_address": "10.0.1.1", "number": 0}
    return {**ends, "remote": "10.0.1.1:4450", "state": "connected", "why": "", "failures": 0, **changed}


def exporter(**changed: Any) -> dict[str, Any]:
    return {"node": "n1", "state": "connected", "why": "", "since_s": 75.0, "addresses": 1, "waiting": [],
            "channels": [path()], **changed}  # fmt: skip


def disk(**changed: Any) -> dict[str, Any]:
    return {"id": "meshfs-n1-disk0", "node": "n1", "name": "disk0", "state": "ok", "why": "", "present": True,
            "io": {}, "opens": 1, **changed}  # fmt: skip


def enclosure(**changed: Any) -> dict[str, Any]:
    return {"id": "enc-1", "node": "n1", "name": "shelf", "state": "ok", "why": "", "present": True,
            **changed}  # fmt: skip


def mount(**changed: Any) -> dict[str, Any]:
    return {"version": 1, "node": "n2", "mountpoint": "/mesh", "addresses": 1, "security": "sign",
            "exporters": [exporter()], "disks": [disk()], "enclosures": [enclosure()],
            "config_state": {"error": "", "reload": [], "restart": []},
            "log": {"path": "/log", "error": ""}, "descriptors": {"used": 50, "limit": 1024},
            "recent": {"disk_errors": {}, "path_losses": {}}, **changed}  # fmt: skip


def own_disk(**changed: Any) -> dict[str, Any]:
    return {"name": "disk0", "state": "ok", "access": "rw", "access_configured": "rw", "oldest_request_s": None,
            **changed}  # fmt: skip


def exporter_document(**changed: Any) -> dict[str, Any]:
    return {"version": 1, "node": "n1", "security": "sign", "disks": [own_disk()], "sessions": [], "connections": 3,
            "keys_missing": [], "addresses_missing": [], "state_folder": {"path": "/s", "error": ""},
            "config_state": {"error": "", "reload": [], "restart": []}, "descriptors": {"used": 9, "limit": 1024},
            "recent": {"disk_errors": {}, "counters": {"logins_denied": 1, "protocol_errors": 1}},
            **changed}  # fmt: skip


TWO = {"addresses": 2, "exporters": [exporter(addresses=2)]}
FLAPPING = {"n1 eth0 10.0.1.2 10.0.1.1 0": limits.PROBLEM_PATH_LOSSES}

MOUNT_CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "exporter-drained": ({"exporters": [exporter(state="drained", since_s=12.0)]}, "exporter n1",
        "it was drained, and has been stopped for 12 s; 1 disks are out of reach, 0 calls wait for it; start meshfsd"),
    "exporter-away": (
        {"exporters": [exporter(state="down", why="refused", channels=[])], "disks": [disk(present=False)]},
        "exporter n1", "it is down for 75 s (refused); 1 disks are out of reach, 0 calls wait for it"),
    "io-waits": (
        {"exporters": [exporter(waiting=[{"disk": "disk0", "op": "read", "for_s": LONG_S}])]},
        "exporter n1", f"I/O has been waiting for {LONG_S:.0f} s"),
    "disk-hangs": ({"exporters": [exporter(hung_disks=[{"disk": "disk0", "for_s": 40.0}])]},
        "disk n1/disk0", "it has not answered for 40 s, so I/O to it fails at once"),
    "path-down": ({"exporters": [exporter(channels=[path(), path(state="down", why="no route", remote="B")])]},
        "path to B of exporter n1", "it is down (no route)"),
    "path-unsteady": ({"recent": {"path_losses": FLAPPING}}, "path to 10.0.1.1:4450 of exporter n1",
        "it was lost 3 times within the last minute"),
    "path-forged": ({"recent": {"path_forgeries": FLAPPING}}, "path to 10.0.1.1:4450 of exporter n1",
        f"{limits.PROBLEM_PATH_LOSSES} replies with a wrong signature, or a second time, came in"),
    "path-single": (TWO, "exporter n1", "one path is left where the config has 2 addresses at each end"),
    "config-differs": ({"config_digest": "a", "exporters": [exporter(config_digest="b")]}, "exporter n1",
        "it has another config in force than this mount"),
    "disk-absent": ({"disks": [disk(present=False)]}, "disk n1/disk0", "the disk is away: no exporter offers it"),
    "disk-refused": ({"refused": ["node n1: disk 'x': announced twice"]}, "node n1: disk 'x': announced twice",
        "the mount does not show it; give the disk another name"),
    "enclosure-fault": ({"enclosures": [enclosure(state="fault", why="fan 2 is critical")]}, "enclosure n1/shelf",
        "it reports a fault (fan 2 is critical); find the part with `sg_ses --inhex=/mesh/enclosure/by-id/enc-1 --raw"),
    "enclosure-pages": ({"enclosures": [enclosure(state="refused", why="page 02: too short")]}, "enclosure n1/shelf",
        "one of its pages is malformed (page 02: too short), so its slots are not known"),
    "enclosure-gone": ({"enclosures": [enclosure(state="gone", why="")]}, "enclosure n1/shelf",
        "its device does not answer, or went away; look"),
    "enclosure-state": ({"enclosures": [enclosure(state="odd")]}, "enclosure n1/shelf",
        "the enclosure is in the state odd"),
    "enclosure-refused": ({"refused_enclosures": ["enclosure id 'e' of node n1 is already node n2's"]},
        "enclosure id 'e' of node n1 is already node n2's", "the mount does not show it; if two nodes reach"),
    "slot-claimed": ({"slot_problems": ["slot e/1: disk 'a' and disk 'b' both claim it"]},
        "slot e/1: disk 'a' and disk 'b' both claim it", "look which disk is in the slot"),
    "log-unwritable": ({"log": {"path": "/log", "error": "No space left on device"}}, "log /log",
        "it cannot be written: No space left on device"),
    "disk-failing": ({"disks": [disk(state="failing", why="read: EIO")]}, "disk n1/disk0",
        "the disk is failing (read: EIO); replace it"),
    "disk-gone": ({"disks": [disk(state="gone")]}, "disk n1/disk0", "the disk is gone; "),
    "disk-missing": ({"disks": [disk(state="missing", why="/dev/sdx: No such file")]}, "disk n1/disk0",
        "the disk is missing (/dev/sdx: No such file); it is claimed as soon as it can be opened"),
    "disk-suspended": ({"disks": [disk(state="suspended")]}, "disk n1/disk0", "the disk is suspended"),
    "disk-drained": ({"disks": [disk(state="drained", why="an administrator drained it")]}, "disk n1/disk0",
        "the disk is drained (an administrator drained it); it is not served"),
    "disk-state": ({"disks": [disk(state="odd")]}, "disk n1/disk0", "the disk is in the state odd"),
    "disk-errors": ({"recent": {"disk_errors": {"meshfs-n1-disk0": 4}}}, "disk n1/disk0",
        "4 I/O errors within the last minute"),
    "config-broken": ({"config_state": {"error": "c.toml: line 3"}}, "config of mount /mesh",
        "c.toml: line 3; the process keeps the config"),
    "config-reload": ({"config_state": {"reload": ["node n4 is new", "addresses of node n1"]}}, "config of mount /mesh",
        "the file differs from the config in force (node n4 is new; addresses of node n1): reload"),
    "config-restart": ({"config_state": {"restart": ["security"]}}, "config of mount /mesh",
        "these changes need a restart to be in force: security"),
    "descriptors-short": ({"descriptors": {"used": 1000, "limit": 1024}}, "mount /mesh",
        "1000 of 1024 file descriptors"),
    "internal-errors": ({"recent": {"counters": {"internal_errors": 1}}}, "mount /mesh", "1 internal errors"),
    "security-none": ({"security": "none"}, "config", 'security = "none"'),
}  # fmt: skip

COMMON = ("config-broken", "config-reload", "config-restart", "descriptors-short", "internal-errors", "security-none")


def at_exporter(case: tuple[dict[str, Any], str, str]) -> tuple[dict[str, Any], str, str]:
    changed, subject, text = case
    return changed, subject.replace("mount /mesh", "exporter n1"), text


EXPORTER_CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    **{code: at_exporter(MOUNT_CASES[code]) for code in COMMON},
    **{
        f"disk-{state}": ({"disks": [own_disk(state=state)]}, "disk n1/disk0", f"the disk is {state}; ")
        for state in ("failing", "gone", "missing", "suspended", "drained")
    },
    "disk-state": ({"disks": [own_disk(state="")]}, "disk n1/disk0", "the disk is in the state (none)"),
    "disk-errors": ({"recent": {"disk_errors": {"disk0": 4}}}, "disk n1/disk0", "4 I/O errors within the last minute"),
    "disk-hangs": ({"disks": [own_disk(oldest_request_s=LONG_S)]}, "disk n1/disk0", "a request has been waiting"),
    "disk-read-only": ({"disks": [own_disk(access="ro")]}, "disk n1/disk0", "the config allows writing"),
    "enclosure-fault": ({"enclosures": [enclosure(state="fault", why="fan 2 is critical")]}, "enclosure n1/shelf",
        "it reports a fault (fan 2 is critical); find the part with `meshctl enclosures`"),
    "enclosure-pages": ({"enclosures": [enclosure(state="refused", why="page 02: too short")]}, "enclosure n1/shelf",
        "one of its pages is malformed (page 02: too short), so its slots are not known"),
    "enclosure-gone": ({"enclosures": [enclosure(state="gone", why="its folder /i: stuck")]}, "enclosure n1/shelf",
        "it cannot be read (its folder /i: stuck); look at its power and its cable"),
    "key-missing": ({"keys_missing": [{"node": "n3", "why": "n3.pub: missing"}]}, "node n3",
        "it cannot log in: n3.pub: missing"),
    "address-missing": ({"addresses_missing": ["10.0.2.1"]}, "address 10.0.2.1", "no interface of this machine"),
    "state-unwritable": ({"state_folder": {"path": "/s", "error": "Read-only file system"}}, "folder /s",
        "no state can be saved there: Read-only file system"),
    "logins-refused": ({"recent": {"counters": {"logins_denied": 3, "binds_denied": 2}}}, "exporter n1",
        "5 logins were refused within the last minute"),
    "frames-broken": ({"recent": {"counters": {"malformed_requests": 9}}}, "exporter n1", "9 broken messages came in"),
    "messages-forged": ({"recent": {"counters": {"bad_signatures": 1}}}, "exporter n1",
        "1 messages with a wrong signature, or a second time, came in within the last minute"),
    "connections-refused": ({"recent": {"counters": {"accept_failures": 1}}}, "exporter n1",
        "1 connections were refused"),
    "connections-crowded": ({"recent": {"counters": {"connections_ended": 3}}}, "exporter n1",
        "3 connections without a login were ended"),
    "node-limit": ({"recent": {"counters": {"node_limits_reached": 3}}}, "exporter n1",
        "3 requests were refused because a node has reached a limit"),
    "limit-near": ({"nodes": [{"node": "n2", "connections": 63, "connections_max": 64}]}, "connections of node n2",
        "63 of at most 64"),
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    assert {rule.code for rule in MOUNT_RULES} == MOUNT_CASES.keys()
    assert {rule.code for rule in EXPORTER_RULES} == EXPORTER_CASES.keys()


def test_a_document_without_a_problem_gives_none() -> None:
    assert mount_problems(mount()) == []
    assert exporter_problems(exporter_document()) == []


@pytest.mark.parametrize("code", MOUNT_CASES)
def test_problems_of_a_mount_are_found_by_their_rule(code: str) -> None:
    changed, subject, text = MOUNT_CASES[code]
    (found,) = mount_problems(mount(**changed))
    assert (found.code, found.subject, found.text[: len(text)]) == (code, subject, text)
    assert found.severity is next(rule.severity for rule in MOUNT_RULES if rule.code == code)


@pytest.mark.parametrize("code", EXPORTER_CASES)
def test_problems_of_an_exporter_are_found_by_their_rule(code: str) -> None:
    changed, subject, text = EXPORTER_CASES[code]
    (found,) = exporter_problems(exporter_document(**changed))
    assert (found.code, found.subject, found.text[: len(text)]) == (code, subject, text)


def test_what_is_no_problem() -> None:
    fast = exporter(state="down", failing_fast=True, away_s=40.0)
    (away,) = mount_problems(mount(exporters=[fast]))
    assert "it is down for 40 s; 1 disks are out of reach, I/O to them fails at once" in away.text
    idle = path(state="idle", local_address="10.0.2.2", remote_address="10.0.2.1", why="slower")
    assert mount_problems(mount(addresses=2, exporters=[exporter(addresses=2, channels=[path(), idle])])) == []
    assert mount_problems(mount(addresses=2, exporters=[exporter(addresses=1)])) == []
    socket = path(transport="unix", interface="", local_address="", remote_address="/run/n1.sock")
    assert mount_problems(mount(addresses=2, exporters=[exporter(addresses=2, channels=[socket])])) == []
    waits = [{"disk": "disk0", "op": "read", "for_s": 1.0}]
    assert mount_problems(mount(exporters=[exporter(waiting=waits)])) == []
    assert exporter_problems(exporter_document(disks=[own_disk(access="ro", access_configured="ro")])) == []


@pytest.mark.parametrize("document", [{}, {"exporters": 5, "disks": {}, "recent": [], "descriptors": {"used": "x"}}])
def test_a_document_of_another_make_raises_nothing(document: dict[str, Any]) -> None:
    assert mount_problems(document) == exporter_problems(document) == []


def test_descriptors_that_are_used_up_are_a_problem() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        told = descriptors()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert told == {"used": lowest, "limit": lowest}
    assert [problem.code for problem in mount_problems(mount(descriptors=told))] == ["descriptors-short"]


def test_a_note_alone_is_well() -> None:
    assert [problem.counts for problem in mount_problems(mount(security="none"))] == [False]


def test_what_a_process_published_is_shown_once() -> None:
    ours = mount_problems(mount(refused=["x"]))
    theirs = [*(problem.as_json() for problem in ours), {"code": "new-rule", "severity": "odd", "subject": "s"}]
    both = merged(ours, published({"problems": theirs}))
    assert [(problem.code, problem.severity) for problem in both] == [
        ("disk-refused", Severity.ERROR), ("new-rule", Severity.ERROR),
    ]  # fmt: skip


def test_the_same_problem_of_a_mount_and_of_an_exporter_is_two() -> None:
    """The mount and the exporter must each be reloaded, and each disk needs another name."""
    state = {"error": "", "reload": ["addresses of node n1"], "restart": []}
    both = merged(mount_problems(mount(config_state=state)), exporter_problems(exporter_document(config_state=state)))
    assert [problem.subject for problem in both] == ["config of mount /mesh", "config of exporter n1"]
    assert len(merged(mount_problems(mount(refused=["node n1: disk 'x'", "node n1: disk 'y'"])))) == 2


def test_counts_have_a_zero_for_each_rule() -> None:
    counts = count_by_code(MOUNT_RULES, mount_problems(mount(refused=["x", "y"])))
    assert counts["disk-refused"] == 2
    assert counts["exporter-away"] == 0
    assert counts.keys() == MOUNT_CASES.keys()


def test_the_log_has_a_line_when_a_problem_begins_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = ProblemLog()
    first = Problem("disk-gone", Severity.ERROR, "disk n1/a", "the disk is gone for 3 s")
    log.take([first])
    log.take([Problem("disk-gone", Severity.ERROR, "disk n1/a", "the disk is gone for 8 s")])
    log.take([])
    log.take([])
    assert [record.getMessage() for record in caplog.records] == [
        "problem disk-gone: disk n1/a: the disk is gone for 3 s",
        "problem disk-gone has ended: disk n1/a",
    ]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.INFO]


def test_what_an_exporter_says_makes_no_line_of_its_own_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = ProblemLog()
    log.take(mount_problems(mount(disks=[disk(name="a\nb", state="gone", why="\x1b[2Jx\nERROR y")])))
    log.take([])
    assert [record.getMessage() for record in caplog.records] == [
        r"problem disk-gone: disk n1/a\nb: the disk is gone (\x1b[2Jx\nERROR y); it is claimed again when the device "
        "is back",
        r"problem disk-gone has ended: disk n1/a\nb",
    ]


def test_growth_within_the_window() -> None:
    recent = Recent(60.0)
    assert recent.grown() == {}
    for second in range(0, 130, 5):
        recent.note(float(second), {"a": min(second, 100), "b": 7, "new": 0} if second else {"a": 0, "b": 7})
    assert recent.grown() == {"a": 35}, "125 s against 65 s"
    recent.note(130.0, {"a": 3})
    assert recent.grown() == {}, "a counter that went back belongs to another run"


def test_others_see_no_io() -> None:
    document = {**mount(), "problems": [], "program": "0", "secret": 1}
    document["exporters"][0]["waiting"] = [{"disk": "disk0"}]
    shown = for_others(document)
    assert shown["whole"] is False
    assert "secret" not in shown
    assert "waiting" not in shown["exporters"][0]
    assert "io" not in shown["disks"][0]
    assert "opens" not in shown["disks"][0]
    assert shown["disks"][0]["state"] == "ok"
    assert shown["exporters"][0]["channels"][0]["state"] == "connected"


@pytest.mark.parametrize(("used", "found"), [(91, True), (90, False)])
def test_a_node_that_has_nearly_all_it_may_have_is_a_problem(used: int, found: bool) -> None:
    holds = [{"what": "opens", "used": used, "max": 100}, {"what": "connected shares", "used": 1, "max": 100}]
    problems = exporter_problems(exporter_document(nodes=[{"node": "n2", "holds": holds}]))
    lines = [problem.line for problem in problems if problem.code == "limit-near"]
    assert lines == (["opens of node n2: 91 of at most 100 are in use; more of them will be refused"] if found else [])
