"""meshctl check against a mount that answers as a test wants: output, exit status, progress, and waiting."""

import io
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshctl import check
from meshfs.mesh_view import DiskView, MountView, ReachView, SeenView, ViewExchange, exchange_json
from support.meshctl_config import run

DISK = DiskView("n1-disk0", 1 << 30, "instance")
REACH = (ReachView("n1", "connected", 1, 1),)
WHOLE = MountView((DISK,), REACH)


def exchange(**views: MountView) -> dict[str, object]:
    return exchange_json(ViewExchange((DISK,), tuple(SeenView(node, 1.0, view) for node, view in views.items())))


class Mount:
    """A mount whose exporters give the answers of a list, one for each check. The last one repeats."""

    def __init__(self, folder: Path, nodes: list[str]) -> None:
        self.point = folder / "mesh"
        self.nodes = nodes
        self.answers: dict[str, list[dict[str, object]]] = {}
        self.control = folder / "ctl"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.control))
        self._listening.listen(16)
        (self.point / ".meshfs").mkdir(parents=True)
        self.status(whole=True, control=str(self.control))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def status(self, **fields: object) -> None:
        (self.point / ".meshfs/status").write_text(json.dumps({"version": 1, "node": "n1", **fields}))

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                line = connection.makefile().readline()
                if not line:
                    return
                connection.sendall(json.dumps(self._answer(json.loads(line))).encode() + b"\n")

    def _answer(self, request: dict[str, str]) -> dict[str, object]:
        assert request["verb"] == "check"
        if "exporter" not in request:
            return {"node": "n1", "nodes": self.nodes, "exporters": list(self.answers)}
        answers = self.answers[request["exporter"]]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.control))
        self._thread.join(10)
        self._listening.close()
        assert not self._thread.is_alive()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path, ["n1", "n2"])
    yield made
    made.close()


def test_a_symmetric_mesh_exits_with_0(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.answers = {"n1": [exchange(n1=WHOLE, n2=WHOLE)]}
    code, out, err = run(capsys, "check", mount.point)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "NODE DISKS EXPORTERS PATHS REPORTED",
        "n1 1/1 1/1 1/1 1.0s ago",
        "n2 1/1 1/1 1/1 1.0s ago",
        "all 2 nodes see the same disks (1)",
    ]


def test_a_difference_exits_with_1_and_is_named(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.answers = {"n1": [exchange(n1=WHOLE, n2=MountView((), REACH))]}
    code, out, err = run(capsys, "check", mount.point, "--timeout", "0")
    assert code == 1
    assert err == "meshctl: node n2: it does not see disk n1-disk0 of n1\n"
    assert "the same disks" not in out


def test_a_difference_that_goes_away_is_none(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    late = exchange(n1=WHOLE, n2=MountView((), REACH))
    mount.answers = {"n1": [late, late, exchange(n1=WHOLE, n2=WHOLE)]}
    assert run(capsys, "check", mount.point)[0] == 0


def test_json_has_what_was_compared(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.answers = {"n1": [exchange(n1=WHOLE)], "n9": [{"error": "away"}]}
    code, out, _ = run(capsys, "check", mount.point, "--json", "--timeout", "0")
    shown = json.loads(out)
    assert (code, shown["ok"]) == (1, False)
    assert {problem["code"] for problem in shown["problems"]} == {"check-exporter", "check-node"}
    (checked,) = shown["mounts"]
    assert (checked["symmetric"], checked["silent"]) == (False, {"n9": "away"})
    assert [row["node"] for row in checked["nodes"]] == ["n1", "n2"]
    assert checked["exporters"] == [{"node": "n1", **exchange(n1=WHOLE)}]


def test_a_node_without_a_mount_can_be_ignored(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    mount.answers = {"n1": [exchange(n1=WHOLE)]}
    assert run(capsys, "check", mount.point, "--timeout", "0")[0] == 1
    assert run(capsys, "check", mount.point, "--timeout", "0", "--ignore", "n2")[0] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whole": False}, "only root and the user of the mount's process may check"),
        ({"whole": True}, "has no control socket"),
        ({"whole": True, "control": "/nowhere/ctl"}, "the mount's process is not running"),
    ],
)
def test_a_mount_that_cannot_be_asked(
    mount: Mount, capsys: pytest.CaptureFixture[str], fields: dict[str, object], words: str
) -> None:
    mount.status(**fields)
    code, _, err = run(capsys, "check", mount.point, "--timeout", "0")
    assert code == 1
    assert words in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_progress_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[Callable[[], io.StringIO], str] = {}
    for kind in (Terminal, io.StringIO):
        stream = kind()
        monkeypatch.setattr(sys, "stderr", stream)
        with check.progress_bar() as progress:
            for done in range(3):
                progress(done, 2)
        shown[kind] = stream.getvalue()
    assert shown[io.StringIO] == ""
    assert shown[Terminal].startswith(f"\r[{'.' * 30}] 0 of 2 exporters\r[{'#' * 15}{'.' * 15}] 1 of 2")
    assert shown[Terminal].endswith("\r\x1b[K")
