"""meshctl flows, flows set and flows reset, against control sockets whose answers the test chooses."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshctl.__main__ import main, words
from meshctl.flows_set import limit, share
from meshfs.cluster import config as cluster_config
from meshfs.scheduler.decide.policy import Change
from support.flow_documents import flow, flows_document, shared_disk

GUARD_S = 10


class Exporters:
    """Control sockets that give one answer each. `requests` lists what was asked, with the node."""

    def __init__(self, config_file: Path) -> None:
        self._config = cluster_config.load(config_file)
        self._running: list[tuple[threading.Thread, socket.socket]] = []
        self.requests: list[tuple[str, Any]] = []

    def start(self, answer: object, node: str = "n1") -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.settimeout(GUARD_S)
        listener.bind(str(self._config.node(node).control_socket))
        listener.listen(1)

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                self.requests.append((node, json.loads(connection.recv(10_000))))
                connection.sendall(data)

        thread = threading.Thread(target=answer_one)
        thread.start()
        self._running.append((thread, listener))

    def close(self) -> None:
        for thread, listener in self._running:
            thread.join(GUARD_S)
            listener.close()
            assert not thread.is_alive()


@pytest.fixture
def exporters(config_file: Path) -> Iterator[Exporters]:
    made = Exporters(config_file)
    yield made
    made.close()


@pytest.fixture
def meshctl(config_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs "flows ..." with the config."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["flows", *arguments, "--config", str(config_file)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_the_table(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document())
    code, out, err = meshctl()
    assert (code, err) == (0, "")
    assert exporters.requests == [("n1", {"verb": "flows"})]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "disk n1/disk0: fair, depth 8, 3 in flight, 12 queued, utilisation, 1s (60s): 98.0% (76.1%)",
        "floor of system I/O 20.0%, limit 500/s, set by config",
        "cost of a read 120us and 500 MB/s, a write 200us and 250 MB/s, a flush 1.5ms (learnt from 40 windows)",
        "Jain's index of fairness, 1s (60s): app 0.998 (0.991), system - (-)",
        "NODE CLASS WEIGHT RESERVE LIMIT DUE SHARE 1s 60s LAG QUEUED WAITS FLYING P50 P99 IOPS BYTES/S HELD SET BY",
        "n1 app 1 - - 40.0% 38.0% 41.0% 2.0ms 3 45ms 1 350us 12ms 1500 5.9M - config",
        "n2 system 1 - - 40.0% 38.0% 41.0% 2.0ms 3 45ms 1 350us 12ms 1500 5.9M - config",
    ]


def test_json_has_the_exact_figures(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(shared_disk("disk0"), shared_disk("disk1")))
    code, out, _ = meshctl("disk1", "--json")
    shown = json.loads(out)
    assert (code, shown["ok"], shown["problems"]) == (0, True, [])
    assert shown["exporters"][0]["node"] == "n1"
    assert shown["exporters"][0]["disks"] == [shared_disk("disk1")]


def test_all_exporters_that_run_here(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(), "n1")
    exporters.start(flows_document(shared_disk("fast"), node="n2"), "n2")
    code, out, _ = meshctl()
    assert code == 0
    assert "disk n1/disk0: " in out
    assert "disk n2/fast: " in out


@pytest.mark.parametrize("name", ["disk1", "n1/disk1", "meshfs-n1-disk1"])
def test_a_disk_has_three_names(name: str, exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(shared_disk("disk0"), shared_disk("disk1")))
    code, out, _ = meshctl(name)
    assert code == 0
    assert "n1/disk1" in out
    assert "n1/disk0" not in out


def test_a_disk_that_is_not_there(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document())
    code, out, err = meshctl("disk9", "disk0")
    assert code == 1
    assert "disk n1/disk0" in out
    assert err == "meshctl: disk disk9: no exporter that was asked has this disk\n"


ODD: list[dict[str, Any]] = [
    {"version": 1},
    {"version": 1, "disks": [1, None, {}, {"flows": [2, {}]}, {"policy": 7, "cost": [], "jain": "x"}]},
    {"version": 1, "disks": [shared_disk(depth=10**400, queued=-1, utilisation={"1s": float("nan")})]},
    {"version": 1, "disks": [shared_disk(flows=[flow(lag_s=float("inf"), weight="heavy", share=None, queued=True)])]},
    {"version": 1, "disks": [shared_disk(cost={"read_byte_ns": 0, "write_byte_ns": -1, "read_fixed_us": 1e300})]},
]


@pytest.mark.parametrize("document", ODD)
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_odd_answers_are_shown_as_far_as_they_go(
    document: dict[str, Any], extra: list[str], exporters: Exporters, meshctl: Run
) -> None:
    exporters.start(document)
    code, _, err = meshctl(*extra)
    assert (code, err) == (0, "")


HOSTILE = "\x1b[2J\n"


def test_hostile_text_does_not_steer_the_terminal(exporters: Exporters, meshctl: Run) -> None:
    evil = flow(HOSTILE, HOSTILE, held=HOSTILE, source=HOSTILE)
    policy = {"source": HOSTILE}
    exporters.start(flows_document(shared_disk(HOSTILE, [evil], discipline=HOSTILE, policy=policy), node=HOSTILE))
    _, out, _ = meshctl()
    assert "\x1b" not in out
    assert len(out.splitlines()) == 6
    assert out.count(r"\x1b[2J\n") == 8


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b'{"version": 1}garbage\n', b"\xff\n"])
def test_a_broken_answer_is_named_and_fails(answer: bytes, exporters: Exporters, meshctl: Run) -> None:
    exporters.start(answer)
    code, _, err = meshctl()
    assert code == 1
    assert err.startswith("meshctl: exporter n1 at ")


def test_another_version_is_not_called_well(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(version=2))
    code, _, err = meshctl()
    assert code == 1
    assert "version 2, expected 1" in err


def test_an_exporter_of_before(exporters: Exporters, meshctl: Run) -> None:
    exporters.start({"error": "unknown verb 'flows', expected status"})
    code, _, err = meshctl("disk0")
    assert code == 1
    assert err.endswith("unknown verb 'flows', expected status\n")
    assert "has a disk" not in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no exporter of this config runs on this machine"),
        (["--node", "n9"], "there is no node 'n9'"),
        (["set", "disk0", "--weight", "2", "--flow", "n1"], "no exporter of this config runs on this machine"),
        (["set", "disk0"], "no setting is given"),
        (["set", "disk0", "--weight", "2"], "name the flow with --flow"),
        (["set", "disk0", "--reservation", "0.2"], "name the flow with --flow"),
        (["set", "disk0", "--flow", "n1", "--system-floor", "0.2"], "give it without --flow"),
        (["set", "disk0", "--flow", "n1/fast", "--weight", "2"], "expected NODE, NODE/app or NODE/system"),
        (["set", "disk0", "--flow", "n1/", "--weight", "2"], "expected NODE, NODE/app or NODE/system"),
        (["set", "disk0", "--flow", "/app", "--weight", "2"], "expected NODE, NODE/app or NODE/system"),
        (["set", "n2/disk0", "--node", "n1", "--system-floor", "0.2"], "is a disk of n2, but --node names n1"),
        (["set", "n9/disk0", "--system-floor", "0.2"], "there is no node 'n9'"),
        (
            ["reset", "disk0", "--node", "n1", "--node", "n2"],
            "disk0 may be a disk of several exporters; name one",
        ),
    ],
)
def test_mistakes_of_the_caller(arguments: list[str], expected: str, meshctl: Run) -> None:
    code, out, err = meshctl(*arguments)
    assert (code, out) == (2, "")
    assert expected in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["set"],
        ["reset"],
        ["set", "disk0", "disk1", "--system-floor", "0.2"],
        *(["set", "disk0", "--flow", "n1", "--weight", value] for value in ("0", "-1", "inf", "nan", "x", "")),
        *(["set", "disk0", "--system-floor", value] for value in ("1.1", "-0.1", "120%", "%", "nan")),
        *(["set", "disk0", "--limit-bytes", value] for value in ("M", "1X", "0", "-5M", "None", "infM")),
    ],
)
def test_values_that_are_none(arguments: list[str], meshctl: Run) -> None:
    code, out, err = meshctl(*arguments)
    assert (code, out) == (2, "")
    assert "usage: meshctl" in err


CHANGES: list[tuple[list[str], dict[str, Any]]] = [
    (["disk0", "--flow", "n2/system", "--weight", "2"], {"node": "n2", "class": "system", "weight": 2.0}),
    (["disk0", "--flow", "n2", "--reservation", "10%"], {"node": "n2", "class": None, "reservation": 0.1}),
    (
        ["n1/disk0", "--flow", "n2/app", "--limit-bytes", "50M"],
        {"node": "n2", "class": "app", "limit_bytes_per_s": 5e7},
    ),
    (["disk0", "--system-floor", "0.3", "--limit-iops", "none"], {"system_floor": 0.3, "limit_iops": None}),
    (["meshfs-n1-disk0", "--limit-iops", "100"], {"limit_iops": 100.0}),
]


@pytest.mark.parametrize(("arguments", "wanted"), CHANGES)
def test_a_change_is_asked_for_and_shown(
    arguments: list[str], wanted: dict[str, Any], exporters: Exporters, meshctl: Run
) -> None:
    """The scheduler's own rules accept the request, and meshctl shows what is in force."""
    if "limit_bytes_per_s" in wanted:
        wanted = {**wanted, "limit_bytes_per_s": 50.0 * (1 << 20)}
    changed = {key: value for key, value in wanted.items() if key not in ("node", "class")}
    flows = [flow("n2", io_class, **(changed if "node" in wanted else {})) for io_class in ("app", "system")]
    policy = {"system_floor": 0.2, "limit_iops": None, **changed, "source": "run time"}
    exporters.start(flows_document(shared_disk(flows=flows, policy=policy), shared_disk("disk1")))
    code, out, err = meshctl("set", *arguments)
    assert (code, err) == (0, "")
    assert exporters.requests == [("n1", {"verb": "flows-set", "disk": "disk0", "set": wanted})]
    assert Change.parse(wanted).values == changed
    assert "set by run time" in out
    assert "disk1" not in out


def test_all_disks(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(shared_disk("disk0"), shared_disk("disk1")))
    code, out, _ = meshctl("reset", "all")
    assert code == 0
    assert exporters.requests == [("n1", {"verb": "flows-set", "disk": None, "reset": True})]
    assert "n1/disk0" in out
    assert "n1/disk1" in out


def test_a_disk_called_all(exporters: Exporters, meshctl: Run) -> None:
    exporters.start(flows_document(shared_disk("all"), shared_disk("disk1")))
    code, out, _ = meshctl("reset", "n1/all")
    assert code == 0
    assert exporters.requests[0][1]["disk"] == "all"
    assert "disk1" not in out


def test_what_the_exporter_refuses(exporters: Exporters, meshctl: Run) -> None:
    exporters.start({"error": "system_floor: found 0.99, expected a number from 0.01 to 0.9"})
    code, _, err = meshctl("set", "disk0", "--system-floor", "0.99")
    assert code == 1
    assert err.count("\n") == 1
    assert err.endswith("system_floor: found 0.99, expected a number from 0.01 to 0.9\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--system-floor", "0.5"], "disk disk0: system_floor is 0.2, although 0.5 was accepted"),
        (["--limit-iops", "none"], "disk disk0: limit_iops is 500.0, although None was accepted"),
        (["--flow", "n1/app", "--weight", "4"], "disk disk0: n1/app: weight is 1.0, although 4.0 was accepted"),
    ],
)
def test_a_setting_that_is_overridden_is_told(
    arguments: list[str], expected: str, exporters: Exporters, meshctl: Run
) -> None:
    exporters.start(flows_document())
    code, out, err = meshctl("set", "disk0", *arguments)
    assert code == 1
    assert "disk n1/disk0" in out
    assert err == f"meshctl: {expected}\n"


def test_two_words_make_a_verb() -> None:
    assert words(["flows", "set", "x"]) == ["flows set", "x"]
    assert words(["flows", "disk0", "set"]) == ["flows", "disk0", "set"]
    assert words(["flows"]) == ["flows"]
    assert words(["set", "flows"]) == ["set", "flows"]


def test_values_are_shares_or_limits_with_a_unit() -> None:
    assert (share("0.25"), share("25%"), share("0"), share("100%")) == (0.25, 0.25, 0.0, 1.0)
    assert (limit("none"), limit("500"), limit("1.5k"), limit("2G")) == (None, 500.0, 1536.0, 2.0 * (1 << 30))
