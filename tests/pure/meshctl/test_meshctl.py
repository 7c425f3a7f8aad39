"""meshctl against status files and control sockets of every kind, good and bad."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshctl import sources
from meshctl.__main__ import main
from meshfs.cluster import config as cluster_config
from meshfs.limits import STATUS_MAX_BYTES
from support.meshctl_config import run


def channel(**changed: Any) -> dict[str, Any]:
    base = {"transport": "tcp", "local": "10.0.1.2:50000", "remote": "10.0.1.1:4450", "state": "connected"}
    agreed = {"dialect": "3.1.1", "signing": "AES-GMAC", "cipher": "", "outstanding": 3, "failures": 0}
    moved = {"sent_bytes": 4096, "received_bytes": 3 << 30, "sent_bytes_s": 2048, "received_bytes_s": 3 << 20}
    path = {"interface": "eth0", "speed_bits_s": 25_000_000_000, "selected": True, "why": "", "retry_in_s": None}
    return {**base, **agreed, **moved, **path, **changed}


def disk(**changed: Any) -> dict[str, Any]:
    base = {"id": "meshfs-n1-disk0", "node": "n1", "name": "disk0", "size_bytes": 4 << 40, "access": "rw"}
    more = {"verifier": "v", "state": "ok", "logical_block_size_bytes": 512, "physical_block_size_bytes": 4096}
    last = {"rotational": False, "cache": "none", "model": "ST4000", "serial": "Z1", "present": True, "opens": 2}
    return {**base, **more, **last, **changed}


def exporter(**changed: Any) -> dict[str, Any]:
    base = {"node": "n1", "state": "connected", "why": "", "since_s": 75.0, "retry_in_s": None}
    return {**base, "channels": [channel()], "waiting": [], **changed}


def mount_status(**changed: Any) -> dict[str, Any]:
    base = {"version": 1, "mountpoint": "/mesh", "config": "", "node": "n2", "pid": 7, "uptime_s": 100.0}
    return {**base, "io_timeout_s": 30.0, "exporters": [exporter()], "disks": [disk()], **changed}


@pytest.fixture
def mount(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a folder that answers like a mount."""

    def make(status: dict[str, Any] | bytes | None = None, name: str = "mesh") -> Path:
        folder = tmp_path / name / ".meshfs"
        folder.mkdir(parents=True)
        content = status if isinstance(status, bytes) else json.dumps(status or mount_status()).encode()
        (folder / "status").write_bytes(content)
        return tmp_path / name

    return make


@pytest.fixture
def serve(config_file: Path) -> Iterator[Callable[[bytes], None]]:
    """Give n1's exporter a control socket that answers one request with a fixed answer."""
    path = cluster_config.load(config_file).node("n1").control_socket
    started: list[tuple[threading.Thread, socket.socket]] = []
    requests: list[bytes] = []

    def start(answer: bytes) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(1)

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(1000))
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        started.append((thread, listener))

    yield start
    for thread, listener in started:
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
    assert requests == [b'{"verb": "status"}\n'] * len(started)


EXPORTER_STATUS = {
    "version": 1,
    "node": "n1",
    "pid": 8,
    "uptime_s": 3.5,
    "listening": ["10.0.1.1:4450"],
    "connections": 2,
    "sessions": [{"node": "n2", "remote": "10.0.1.2", "opens": 1}],
    "disks": [{"name": "disk0", "size_bytes": 1000, "state": "ok", "queued": 0, "read_bytes": 5, "engine": "uring"}],
    "counters": {"logins_failed": 3},
}


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("status", ["EXPORTER STATE", "n1       connected 1min 15s     1        1 -"]),
        ("disks", ["meshfs-n1-disk0 n1   disk0   4T rw     none  ok        2 512/4096 ST4000 Z1"]),
        (
            "paths",
            ["tcp       eth0      10.0.1.2:50000 10.0.1.1:4450   25G connected 3.1.1 AES-GMAC      3        0     "],
        ),
    ],
)
def test_a_cluster_that_is_well_exits_with_0(
    verb: str, expected: list[str], mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, verb, mount())
    assert (code, err) == (0, "")
    for line in expected:
        assert line in out


@pytest.mark.parametrize("verb", ["status", "disks", "paths"])
def test_json_has_the_exact_figures(verb: str, mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, mount(), "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["version"], shown["ok"], shown["problems"]) == (1, True, [])
    if verb == "status":
        assert shown["mounts"][0]["exporters"] == [exporter()]
    if verb == "disks":
        assert shown["disks"][0]["size_bytes"] == 4 << 40
    if verb == "paths":
        assert shown["exporters"][0]["channels"] == [channel()]


DEGRADED = [
    (
        mount_status(exporters=[exporter(state="down", why="refused", channels=[])]),
        "exporter n1: it is down for 75 s (refused)",
        "exporter-away",
    ),
    (mount_status(exporters=[exporter(state="connecting")]), "exporter n1: it is connecting for 75 s", "exporter-away"),
    (mount_status(disks=[disk(present=False)]), "disk n1/disk0: the disk is away", "disk-absent"),
    (mount_status(disks=[disk(state="failed")]), "disk n1/disk0: the disk is in the state failed", "disk-state"),
]


@pytest.mark.parametrize("verb", ["status", "disks", "paths"])
@pytest.mark.parametrize(("status", "problem", "code_expected"), DEGRADED)
def test_every_verb_names_what_is_degraded(
    verb: str,
    status: dict[str, Any],
    problem: str,
    code_expected: str,
    mount: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    point = mount(status)
    code, _, err = run(capsys, verb, point)
    assert code == 1
    assert f"meshctl: {problem}" in err
    code, out, _ = run(capsys, verb, point, "--json")
    assert code == 1
    (shown,) = json.loads(out)["problems"]
    assert f"{shown['subject']}: {shown['text']}".startswith(problem)
    assert (shown["code"], shown["severity"]) == (code_expected, "error")


def test_others_than_root_cannot_reload_a_mount(mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Users other than root get a document without the path of the control socket, which the mount still has."""
    code, out, err = run(capsys, "reload", point := mount(mount_status(whole=False)))
    assert (code, "not reloaded" in out) == (1, True)
    assert err == f"meshctl: mount {point}: only root and the user of the mount's process may reload this mount\n"


def test_paths_tells_what_waits(mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    waiting = [{"disk": "meshfs-n1-disk0", "op": "write", "for_s": 4.0, "left_s": 26.0}]
    down = exporter(state="down", why="connection refused", channels=[], retry_in_s=0.5, waiting=waiting)
    code, out, _ = run(capsys, "paths", mount(mount_status(exporters=[down])))
    assert code == 1
    assert "0.5s connection refused" in out
    assert "n1       meshfs-n1-disk0 write 4.0s 26.0s" in out


def test_paths_tells_what_fails_at_once(mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    away = exporter(state="down", why="connection refused", channels=[], away_s=42.0, failing_fast=True)
    hung = exporter(node="n2", hung_disks=[{"disk": "disk7", "for_s": 31.0}])
    _, out, _ = run(capsys, "paths", mount(mount_status(exporters=[away, hung])))
    assert out.splitlines()[-2:] == [
        "exporter n1 is failing fast: it has been away for 42.0s, so calls end with ETIMEDOUT at once",
        "disk disk7 of n2 hangs: it has answered nothing for 31.0s, so calls end with ETIMEDOUT at once",
    ]


def test_a_lost_channel_of_a_connected_exporter(mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    lost = channel(state="down", remote="10.0.2.1", why="cannot connect: no route", retry_in_s=1.5, failures=4)
    idle = channel(state="idle", remote="10.0.3.1", why="slower (1 Gbit/s) than others (25 Gbit/s)", selected=False)
    status = mount_status(exporters=[exporter(channels=[channel(), lost, idle])])
    code, out, err = run(capsys, "paths", mount(status))
    assert code == 1
    assert err.splitlines() == ["meshctl: path to 10.0.2.1 of exporter n1: it is down (cannot connect: no route)"]
    assert [line.split()[-1] for line in out.splitlines()] == ["WHY", "-", "route", "Gbit/s)"]
    assert "  -        4      -          -  1.5s cannot connect" in out
    code, out, err = run(capsys, "status", mount(status, "other"))
    assert (code, "path to 10.0.2.1 of exporter n1: it is down" in err) == (1, True)
    assert out.splitlines()[-1].split()[-2:] == ["1", "-"], "only what is connected counts as a channel"


BROKEN = [
    b"",
    b"{",
    b"[1]",
    b"null",
    b"\xff\xfe",
    b'{"error": "stopping"}',
    b"[" * 100_000,
]
ODD = [
    {},
    {"version": 9, "exporters": 5, "disks": {"a": 1}},
    {"exporters": [1, None, [], {}, {"channels": "x", "waiting": [3, {}]}, {"channels": [{}], "node": 7}]},
    {"disks": [None, {}, {"size_bytes": -1, "present": "yes"}, {"size_bytes": 1e400}, {"opens": True}]},
    {"uptime_s": float("nan"), "pid": "7", "node": "\x1b[2J\ud800", "exporters": [{"why": "\x1b[31m\n"}]},
    {"uptime_s": 10**400, "exporters": [{"since_s": -5, "retry_in_s": float("inf")}]},
]


@pytest.mark.parametrize("verb", ["status", "disks", "paths"])
@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_answer_is_named_and_fails(
    verb: str, content: bytes, mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, verb, mount(content))
    assert code == 1
    assert err.startswith("meshctl: mount ")


@pytest.mark.parametrize("verb", ["status", "disks", "paths"])
@pytest.mark.parametrize("content", ODD)
def test_an_odd_answer_raises_nothing(
    verb: str, content: dict[str, Any], mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    point = mount(json.dumps(content).encode())
    for extra in ([], ["--json"]):
        code, out, err = run(capsys, verb, point, *extra)
        assert code == 1
        assert "\x1b" not in out + err


def test_an_answer_without_end(mount: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status", mount(b" " * (STATUS_MAX_BYTES + 1)))
    assert code == 1
    assert "larger than" in err


def test_what_is_no_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "disks", tmp_path)
    assert code == 1
    assert err == f"meshctl: mount {tmp_path}: {tmp_path} is not a mounted mesh\n"


def test_no_mount_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sources, "mount_points", list)
    code, _, err = run(capsys, "status")
    assert code == 2
    assert "no mesh is mounted on this machine" in err


def test_a_stuck_mount_is_given_up() -> None:
    release = threading.Event()
    with pytest.raises(sources.NoAnswer, match="may be stuck"):
        sources.within(0.01, release.wait)
    release.set()


def test_mounts_are_found_in_the_kernels_table(tmp_path: Path) -> None:
    lines = [
        "24 1 0:22 / / rw shared:1 - ext4 /dev/sda1 rw",
        "99 24 0:50 / /mesh rw,nosuid shared:9 - fuse.meshfs /etc/cluster.toml rw,user_id=0",
        r"98 24 0:51 / /my\040mesh rw - fuse.meshfs meshfs rw",
        "97 24 0:52 / /other rw - fuse.sshfs meshfs rw",
        "99 24 0:53 / /mesh rw,nosuid - fuse.meshfs /etc/cluster.toml rw",
        "",
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    assert sources.mount_points(tmp_path / "mountinfo") == [Path("/mesh"), Path("/my mesh")]


def test_status_of_an_exporter(
    config_file: Path, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(json.dumps(EXPORTER_STATUS).encode() + b"\n")
    code, out, err = run(capsys, "status", "--config", config_file, "--node", "n1")
    assert (code, err) == (0, "")
    assert "exporter n1, pid 8, up 3.5s, 1 sessions, listening on 10.0.1.1:4450" in out
    assert "disk0 1000B -      -     uring  ok" in out


def test_status_finds_the_own_exporter(
    config_file: Path,
    serve: Callable[[bytes], None],
    mount: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(json.dumps({**EXPORTER_STATUS, "disks": [{"name": "disk0", "state": "failed"}]}).encode() + b"\n")
    code, out, err = run(capsys, "status", mount(mount_status(node="n1", config=str(config_file))), "--json")
    assert (code, err) == (1, "")
    shown = json.loads(out)
    assert shown["exporters"][0]["counters"] == {"logins_failed": 3}
    assert [problem["subject"] for problem in shown["problems"]] == ["disk n1/disk0"]


@pytest.mark.parametrize("answer", [*BROKEN, b'{"version": 1'])
def test_a_broken_answer_of_an_exporter_is_named_and_fails(
    answer: bytes, config_file: Path, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(answer)
    code, _, err = run(capsys, "status", "--config", config_file, "--node", "n1")
    assert code == 1
    assert err.startswith("meshctl: exporter n1")


def test_an_exporter_that_does_not_run(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status", "--config", config_file, "--node", "n1")
    assert code == 1
    assert "the exporter is not running" in err
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(config_file.parent / "run/n1.ctl"))
    stale.close()
    code, _, err = run(capsys, "status", "--config", config_file, "--node", "n1")
    assert code == 1
    assert "ended without removing its socket" in err


def test_an_exporter_that_does_not_answer(config_file: Path) -> None:
    path = config_file.parent / "run/n1.ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(sources.NoAnswer, match=r"no answer within 0\.05 s"):
            sources.read_control(path, {"verb": "status"}, timeout_s=0.05)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "--node", "n1"], "give --config as well"),
        (["status", "--config", "CONFIG"], "no node is named as this host"),
        (["status", "--config", "CONFIG", "--node", "n1", "/mesh"], "give only one of the two"),
        (["status", "--config", "CONFIG", "--node", "n9"], "there is no node 'n9'"),
        (["status", "--config", "/missing.toml", "--node", "n1"], "cannot read the config"),
        (["keygen", "CONFIG", "--node", "n9"], "there is no node 'n9'"),
        (["password", "CONFIG", "--node", "n1", "--to", "n2"], "n1.key: the key file is missing"),
    ],
)
def test_mistakes_of_the_caller(
    arguments: list[str], expected: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *[config_file if item == "CONFIG" else item for item in arguments])
    assert (code, out) == (2, "")
    assert expected in err


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["status", "--jsno"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: meshctl" in capsys.readouterr().err
