"""meshctl top: rates come from pairs of answers, and frames from rates. The terminal gets only printable text."""

import json
import math
import os
import pty
import select
import signal
import termios
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl import output, watcher
from meshctl.__main__ import main
from meshctl.frame import fit, frame, joined
from meshctl.rates import Interval, Reading, Side, document, exporter_side, mount_side, totals
from meshctl.screen import Bell, Screen
from meshctl.sources import Answer
from meshfs.program.control_client import MOUNT_STUCK
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.problems import Problem, Severity
from support.flow_documents import flow, flows_document, histogram, mount_disk, mount_document, shared_disk


def problem(text: str) -> Problem:
    return Problem("mount-stuck", Severity.ERROR, "mount /mesh", text)


def reading(said: dict[str, Any], at_s: float, error: str = "") -> Reading:
    return Reading(Answer("/mesh", Fields(said), error), at_s)


def mount_interval(before: dict[str, Any] | None, after: dict[str, Any], elapsed_s: float = 2.0) -> Side:
    return mount_side(None if before is None else reading(before, 10.0), reading(after, 10.0 + elapsed_s))


def shown_words(interval: Interval, title: str = "") -> list[str]:
    return [" ".join(line.split()) for line in joined(frame(interval, title))]


def test_rates_are_differences_over_the_time_between() -> None:
    before = mount_document(mount_disk(), mount_disk("disk1", "n2", local=True))
    after = mount_document(mount_disk(times=3), mount_disk("disk1", "n2", local=True, times=2))
    side = mount_interval(before, after)
    found = totals([side])
    assert found["remote", "read"].per_s == 100.0
    assert found["remote", "read"].bytes_per_s == 409600.0
    assert found["remote", "read"].histogram == (180, 20, 0, 0, 0, 0, 0)
    assert found["remote", "write"].histogram == (0, 0, 0, 0, 0, 0, 20)
    assert found["local", "write"].per_s == 5.0
    assert found["local", "read"].histogram == tuple(histogram(90, 10))


def test_a_frame_of_a_mount() -> None:
    before = mount_document(mount_disk(), mount_disk("disk1", "n2", local=True))
    after = mount_document(mount_disk(times=3), mount_disk("disk1", "n2", local=True, times=1))
    shown = shown_words(Interval((mount_interval(before, after),), (), ()), "title")
    assert shown == [
        "title",
        "I/O IOPS BYTES/S <=1 <=5 <=10 <=100 <=1000 <=10000 >10000 ms",
        "local read 0 0B 0 0 0 0 0 0 0",
        "local write 0 0B 0 0 0 0 0 0 0",
        "remote read 100 400K 180 20 0 0 0 0 0",
        "remote write 10 640K 0 0 0 0 0 0 20",
        "",
        "mount /mesh of node n2, up 1min 40s",
        "DISK WHERE READS/S BYTES/S P50 P99 WRITES/S BYTES/S P50 P99 FLUSHES/S ERRORS STATE",
        "n1/disk0 remote 100 400K 200us 4.0ms 10 640K 2.0ms 12.0s 1 0 ok",
        "n2/disk1 local 0 0B 200us 4.0ms 0 0B 2.0ms 12.0s 0 0 ok",
    ]


def test_a_frame_of_an_exporter_is_sorted_by_share() -> None:
    small = flow("n1", "app", share={"1s": 0.1, "60s": 0.5})
    large = flow("n2", "system", share={"1s": 0.9, "60s": 0.5}, held="flow limit", local=False)
    later = {"reads": 300, "read_bytes": 300 << 12, "read_histogram": histogram(290, 10)}
    idle = shared_disk("idle", [], utilisation={"1s": 0.0, "60s": 0.0})
    before = flows_document(idle, shared_disk(flows=[small, large]))
    after = flows_document(idle, shared_disk(flows=[{**small, **later}, large]))
    side = exporter_side(reading(before, 1.0), reading(after, 3.0))
    shown = shown_words(Interval((), (side,), ()))
    assert shown[1:] == [
        "local read 100 400K 200 0 0 0 0 0 0",
        "local write 0 0B 0 0 0 0 0 0 0",
        "remote read 0 0B 0 0 0 0 0 0 0",
        "remote write 0 0B 0 0 0 0 0 0 0",
        "",
        "disk n1/disk0: fair, depth 8, 3 in flight, 12 queued, utilisation, 1s (60s): 98.0% (76.1%)",
        "NODE CLASS WEIGHT DUE SHARE 1s 60s LAG QUEUED FLYING P50 P99 IOPS BYTES/S HELD",
        "n2 system 1 40.0% 90.0% 50.0% 2.0ms 3 1 350us 12ms 0 0B flow limit",
        "n1 app 1 40.0% 10.0% 50.0% 2.0ms 3 1 350us 12ms 100 400K -",
        "",
        "disk n1/idle: fair, depth 8, 3 in flight, 12 queued, utilisation, 1s (60s): 0.0% (0.0%)",
    ]


def test_the_first_look_has_no_rates() -> None:
    side = mount_interval(None, mount_document())
    shown = shown_words(Interval((side,), (), ()))
    assert shown[1] == "local read - - - - - - - - -"
    assert shown[-1] == "n1/disk0 remote - - 200us 4.0ms - - 2.0ms 12.0s - 0 ok"
    assert document(Interval((side,), (), ()))["mounts"][0]["disks"][0]["interval"] is None


RESTARTED = [
    # These totals went back.
    (mount_document(mount_disk(times=9)), mount_document(mount_disk(times=2))),
    # This process was started again, and has come further than the one before.
    (mount_document(mount_disk(times=1), uptime_s=50.0), mount_document(mount_disk(times=9), uptime_s=3.0)),
    # One bucket of a histogram went back.
    (mount_document(mount_disk()), mount_document({**mount_disk(), "io": {**mount_disk()["io"], "reads": 99}})),
    # These totals are missing in the second reading, or in the first.
    (mount_document(mount_disk()), mount_document({**mount_disk(), "io": None})),
    (mount_document(mount_disk("other")), mount_document(mount_disk())),
]


@pytest.mark.parametrize(("before", "after"), RESTARTED)
def test_another_run_gives_no_rates(before: dict[str, Any], after: dict[str, Any]) -> None:
    side = mount_interval(before, after)
    assert [row.traffic for group in side.groups for row in group.rows] == [None]
    assert all(total.per_s == 0 for total in totals([side]).values())


def test_no_time_between_two_answers_is_no_interval() -> None:
    assert mount_interval(mount_document(), mount_document(mount_disk(times=2)), elapsed_s=0.0).elapsed_s is None


def test_totals_are_of_the_mounts_when_there_are_any() -> None:
    """The exporter of the same machine counts the same I/O once more."""
    mount = mount_interval(mount_document(), mount_document(mount_disk(times=2)))
    flows = exporter_side(reading(flows_document(), 1.0), reading(flows_document(), 3.0))
    assert document(Interval((mount,), (flows,), ()))["totals"]["remote_read"]["per_s"] == 50.0
    assert document(Interval((), (flows,), ()))["totals"]["remote_read"]["per_s"] == 0.0


def test_the_document() -> None:
    mount = mount_interval(mount_document(), mount_document(mount_disk(times=2)))
    flows = exporter_side(reading(flows_document(), 1.0), reading(flows_document(), 3.0))
    shown = json.loads(json.dumps(document(Interval((mount,), (flows,), (problem("a problem"),)))))
    assert (shown["version"], shown["ok"], shown["problems"][0]["text"]) == (1, False, "a problem")
    disk = shown["mounts"][0]["disks"][0]
    assert disk["interval"]["reads"] == 100
    assert disk["interval"]["reads_per_s"] == 50.0
    assert disk["interval"]["write_histogram"] == [0, 0, 0, 0, 0, 0, 10]
    assert disk["id"] == "meshfs-n1-disk0"
    shared = shown["exporters"][0]["disks"][0]
    assert shared["depth"] == 8
    assert shared["flows"][0]["entitlement"] == 0.4
    assert shared["flows"][0]["interval"]["writes_per_s"] == 0.0


def test_what_gives_no_answer_is_shown_as_such() -> None:
    side = mount_side(reading(mount_document(), 1.0), reading({}, 3.0, "no answer for 5 s"))
    shown = shown_words(Interval((side,), (), (problem("no answer for 5 s"),)))
    assert shown[-4:-1] == ["", "mount /mesh: no answer for 5 s", ""]
    assert shown[-1] == "mount /mesh: no answer"


HOSTILE = "\x1b[2J\n\x9b1m"
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(HOSTILE)),
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10,
)


@given(st.data())
def test_documents_of_any_kind_give_printable_frames(data: st.DataObject) -> None:
    """In known documents, one field of any level is replaced by anything."""

    def spoilt(value: Any, depth: int = 0) -> Any:
        if depth == 6 or not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 3)) == 0:
            return data.draw(JSON)
        if isinstance(value, list):
            index = data.draw(st.integers(0, len(value) - 1))
            return [spoilt(item, depth + 1) if at == index else item for at, item in enumerate(value)]
        name = data.draw(st.sampled_from(sorted(value)))
        return {**value, name: spoilt(value[name], depth + 1)}

    mounts = [mount_document(mount_disk()), spoilt(mount_document(mount_disk(times=2)))]
    shares = [spoilt(flows_document()), spoilt(flows_document())]
    now = Interval(
        (mount_side(reading(mounts[0], 1.0), reading(mounts[1], 2.0)),),
        (exporter_side(reading(shares[0], 1.0), reading(shares[1], 2.0)),),
        (problem(HOSTILE),),
    )
    assert all(line.isprintable() for line in joined(frame(now, "title")))
    for side in (*now.mounts, *now.exporters):
        assert all(row.operations >= 0 for group in side.groups for row in group.rows)
    assert all(0 <= total.per_s < math.inf for total in totals(now.mounts).values())
    json.dumps(document(now))


def test_what_is_wrong_is_wrapped() -> None:
    why = problem("no answer for 5 s; its process may be stuck")
    lines = frame(Interval((), (), (why,)), "title", 30)[1]
    assert max(map(len, lines)) <= 30
    assert " ".join(lines) == why.line


@given(st.lists(st.lists(st.text(max_size=30), min_size=1, max_size=30), min_size=1, max_size=5), st.data())
def test_a_frame_fits_its_window(blocks: list[list[str]], data: st.DataObject) -> None:
    columns, rows = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    shown = fit(blocks, columns, rows)
    assert len(shown) <= rows
    assert all(len(line) <= columns for line in shown)
    if len(joined(blocks)) <= rows:
        assert shown == [line[:columns] for line in joined(blocks)]
    else:
        assert any(f"{line} ".startswith("... ") or len(line) == columns < 20 for line in shown)


def test_a_long_block_does_not_push_the_others_out() -> None:
    blocks = [["head"], [f"disk {n}" for n in range(400)], [f"flow {n}" for n in range(3)]]
    shown = fit(blocks, 80, 24)
    assert len(shown) == 24
    assert shown[:3] == ["head", "", "disk 0"]
    assert shown[-6:] == ["disk 16", "... 383 more lines", "", "flow 0", "flow 1", "flow 2"]


def test_too_many_blocks_are_cut_at_the_end() -> None:
    shown = fit([[f"block {n}", *map(str, range(9))] for n in range(26)], 80, 24)
    assert len(shown) == 24
    assert shown[0] == "block 0"
    assert shown[7] == "block 1"
    assert shown[-1].startswith("... ")


def test_an_exception_restores_the_terminal() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)]

    def broken(window: tuple[int, int] | None) -> list[str]:
        assert termios.tcgetattr(slave) != before
        raise RuntimeError("spoilt")

    try:
        with pytest.raises(RuntimeError, match="spoilt"), Bell() as bell, Screen(bell, slave, slave) as screen:
            screen.show(broken)
        assert termios.tcgetattr(slave) == before
        seen = b""
        # The kernel passes on what was written to a terminal in the background, and therefore in any number of pieces.
        while not seen.endswith(b"\x1b[?1049l"):
            assert select.select([master], [], [], 10)[0], seen
            seen += os.read(master, 4096)
        assert seen.startswith(b"\x1b[?1049h")
    finally:
        os.close(master)
        os.close(slave)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)] == handlers


def test_what_is_stuck_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "CONTROL_TIMEOUT_S", 0.01)
    asked, release, rung = threading.Semaphore(0), threading.Event(), threading.Event()

    def ask() -> Answer:
        asked.release()
        release.wait(10)
        return Answer("/mesh", Fields({"version": 1}))

    watched = watcher.Watcher("/mesh", ask, rung.set, MOUNT_STUCK)
    assert watched.settled()
    for _ in range(3):
        watched.ask()
    assert asked.acquire(timeout=10)
    while not watched.settled():
        assert not rung.wait(0.01)
    silent = watched.reading().answer
    assert "may be stuck" in silent.error
    assert output.about(output.mount_problems(silent), output.DISK_CODES), "meshctl top shows it"
    release.set()
    assert rung.wait(10)
    assert watched.reading().answer.fields.integer("version") == 1
    assert not asked.acquire(blocking=False)


def test_what_never_answers_does_not_make_top_endless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text('[cluster]\nname = "demo"\n[[node]]\nname = "n1"\naddresses = ["10.0.1.1"]\n')
    arguments = ["top", str(tmp_path), "--config", str(config), "--node", "n1", "--interval", "0.1", "--count", "2"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert printed.count("the exporter is not running") == 2
    assert printed.count("is not a mounted mesh") == 2
    assert main([*arguments, "--json"]) == 1
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(interval["problems"]) for interval in shown] == [2, 2]


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--interval", "nan"], ["--count", "0"], ["--count", "x"]])
def test_values_that_are_none(arguments: list[str]) -> None:
    assert main(["top", *arguments]) == 2
