"""meshctl discard: what it refuses before it asks the mount, how it asks the user, and what it shows."""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshctl import discard
from meshctl.progress import ProgressBar, bar
from meshfs.errors import DiskUnavailable
from meshfs.limits import MIB
from meshfs.program.control_client import NoAnswer
from meshfs.telemetry.fields import Fields
from support.meshctl_config import run

SIZE = 64 * MIB
DISK = {
    "id": "meshfs-n1-disk0",
    "node": "n1",
    "name": "disk0",
    "size_bytes": SIZE,
    "access": "rw",
    "present": True,
    "opens": 0,
    "discard_granularity_bytes": 65536,
    "discard_alignment_bytes": 0,
}


class Mount:
    """Stands for the mount's process: it answers with its status, and does at most ``step`` bytes for each request."""

    def __init__(self) -> None:
        self.disk: dict[str, Any] = dict(DISK)
        self.status: dict[str, Any] = {"version": 1, "whole": True, "control": "/run/mount.ctl", "io_timeout_s": 30.0}
        self.step = SIZE
        self.asked: list[dict[str, Any]] = []
        self.error = ""
        self.signature: dict[str, str] = {}
        self.signature_at = 0

    def read_mount(self, point: Path) -> Fields:
        return Fields({**self.status, "disks": [self.disk]})

    def read_control(self, path: Path, request: dict[str, Any], timeout_s: float, *, who: str) -> Fields:
        assert (path, timeout_s > 30.0) == (Path("/run/mount.ctl"), True)
        if self.error and self.asked:
            raise NoAnswer(self.error)
        self.asked.append(request)
        return Fields({"done": min(self.step, request["length"])})

    def read_signature(self, path: Path, start: int, length: int) -> dict[str, str]:
        assert path == Path("/mesh/disk/by-id/meshfs-n1-disk0")
        # blkid finds a signature where it begins.
        return self.signature if start <= self.signature_at < start + length else {}

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(request["offset"], request["length"]) for request in self.asked]


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Mount:
    made = Mount()
    monkeypatch.setattr(discard, "mount_points", lambda: [Path("/mesh")])
    for name in ("read_mount", "read_control", "read_signature"):
        monkeypatch.setattr(discard, name, getattr(made, name))
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def meshctl(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: run(capsys, "discard", *arguments)


def test_a_whole_disk_is_discarded_step_by_step(mount: Mount, meshctl: Run) -> None:
    mount.step = 40 * MIB
    assert meshctl("n1/disk0", "--yes") == (0, "discarded all 64M of disk meshfs-n1-disk0 (n1/disk0)\n", "")
    assert mount.ranges == [(0, SIZE), (40 * MIB, 24 * MIB)]
    assert [(each["disk"], each["zero"], each["force"]) for each in mount.asked] == [(DISK["id"], False, False)] * 2


@pytest.mark.parametrize("name", ["meshfs-n1-disk0", "/mesh/disk/by-id/meshfs-n1-disk0", "/mesh/disk/by-node/n1/disk0"])
def test_a_range_is_zeroed_exactly(mount: Mount, meshctl: Run, name: str) -> None:
    code, out, _ = meshctl(name, "--yes", "--zero", "--offset", "100", "--length", "1M", "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["disk"], shown["offset"], shown["done"], shown["zero"]) == (DISK["id"], 100, MIB, True)
    assert mount.ranges == [(100, MIB)]


@pytest.mark.parametrize(
    ("disk", "status", "why"),
    [
        ({"access": "ro"}, {}, "this node may only read it"),
        ({"present": False}, {}, "its owner n1 is away"),
        ({"discard_granularity_bytes": 0}, {}, "cannot discard; use --zero"),
        ({"opens": 3}, {}, "it has 3 open files in /mesh"),
        ({"id": "other", "name": "other"}, {}, "no mount shows the disk n1/disk0"),
        ({}, {"whole": False}, "only root and the user of the mount's process may discard"),
        ({}, {"control": ""}, "no control socket"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_done(
    mount: Mount, meshctl: Run, disk: dict[str, Any], status: dict[str, Any], why: str
) -> None:
    mount.disk.update(disk)
    mount.status.update(status)
    code, _, err = meshctl("n1/disk0", "--yes")
    assert code == 1
    assert why in err
    assert mount.asked == []


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ({"TYPE": "ext4", "LABEL": "home"}, "it holds ext4 with the label home"),
        ({"TYPE": "LVM2_member"}, "it holds LVM2_member"),
        ({"PTTYPE": "gpt"}, "it holds a partition table (gpt)"),
        ({"TYPE": "ambivalent"}, "several signatures that contradict each other"),
    ],
)
def test_a_disk_that_holds_something_is_only_cleared_by_force(
    mount: Mount, meshctl: Run, signature: dict[str, str], why: str
) -> None:
    mount.signature = signature
    code, _, err = meshctl("n1/disk0", "--yes")
    assert code == 1
    assert why in err
    assert "use --force to discard it anyway" in err
    assert mount.asked == []
    assert meshctl("n1/disk0", "--yes", "--force")[0] == 0
    assert mount.asked[0]["force"]


@pytest.mark.parametrize("signature_at", [0, 2 * MIB])
def test_a_part_of_a_disk_that_holds_something_is_only_cleared_by_force(
    mount: Mount, meshctl: Run, signature_at: int
) -> None:
    mount.signature, mount.signature_at = {"TYPE": "ext4"}, signature_at
    code, _, err = meshctl("n1/disk0", "--yes", "--offset", "1M", "--length", "2M")
    assert (code, "it holds ext4" in err, mount.asked) == (1, True, [])


def test_a_disk_that_blkid_cannot_read_is_only_cleared_by_force(
    mount: Mount, meshctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> dict[str, str]:
        raise DiskUnavailable("blkid is missing")

    monkeypatch.setattr(discard, "read_signature", fail)
    code, _, err = meshctl("n1/disk0", "--yes")
    assert (code, "nobody knows what it holds: blkid is missing" in err) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [("--offset", "65M"), ("--length", "65M"), ("--offset", "1M", "--length", "64M"), ("--length", "0")],
)
def test_a_range_outside_of_the_disk_is_a_mistake(mount: Mount, meshctl: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = meshctl("n1/disk0", "--yes", *arguments)
    assert (code, "the range does not lie inside it" in err, mount.asked) == (2, True, [])


def test_a_range_without_a_granule_is_a_mistake(mount: Mount, meshctl: Run) -> None:
    code, _, err = meshctl("n1/disk0", "--yes", "--offset", "1", "--length", "100K")
    assert (code, "no whole granule of 65536 bytes" in err, mount.asked) == (2, True, [])


def test_an_error_on_the_way_says_how_much_is_done(mount: Mount, meshctl: Run) -> None:
    mount.step, mount.error = MIB, "disk meshfs-n1-disk0: Input/output error"
    code, out, err = meshctl("n1/disk0", "--yes")
    assert (code, out.strip()) == (1, "")
    assert f"Input/output error; {MIB} bytes are done" in err


# --- the question -----------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_the_user_is_asked(mount: Mount, meshctl: Run, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: answer))
    found, _, err = meshctl("n1/disk0")
    assert found == code
    assert "Discard all 64M of disk meshfs-n1-disk0 (n1/disk0)? Its data is lost. [y/N]" in err
    assert bool(mount.asked) == (code == 0)


def test_without_a_terminal_nobody_can_be_asked(mount: Mount, meshctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = meshctl("n1/disk0")
    assert (code, "use --yes" in err, mount.asked) == (2, True, [])


def test_an_interrupt_says_how_much_is_done(mount: Mount, meshctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **more: Any) -> Fields:
        if mount.asked:
            raise KeyboardInterrupt
        return mount.read_control(*arguments, **more)

    mount.step = MIB
    monkeypatch.setattr(discard, "read_control", interrupt)
    code, _, err = meshctl("n1/disk0", "--yes")
    assert (code, f"interrupted; {MIB} bytes are done" in err) == (130, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1K", 1024), ("3MiB", 3 << 20), ("2GB", 2 << 30), ("5T", 5 << 40), ("1E", 1 << 60)],
)
def test_sizes(text: str, size: int) -> None:
    assert discard.size_of(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "G", "1k", "1 G", "0x10", "1Ki"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size in bytes"):
        discard.size_of(text)


# --- the bar ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "columns", "shown"),
    [
        (0.0, 80, "[........................................]   0% 1M of 4M"),
        (0.5, 80, "[####################....................]  50% 1M of 4M"),
        (1.0, 80, "[########################################] 100% 1M of 4M"),
        (2.0, 30, "[#############] 100% 1M of 4M"),
        (0.25, 16, "25% 1M of 4M"),
        (0.25, 8, "25% 1M "),
    ],
)
def test_the_bar_fits_into_the_line(part: float, columns: int, shown: str) -> None:
    assert bar(part, "1M of 4M", columns) == shown
    assert len(shown) < columns


def test_the_bar_is_only_shown_on_a_terminal() -> None:
    log = io.StringIO()
    shown = ProgressBar(log)
    shown.show(0.5, "half")
    shown.end()
    assert log.getvalue() == ""
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    shown = ProgressBar(terminal)
    shown.show(0.1, "first")
    shown.show(0.2, "too soon")
    shown.show(1.0, "last")
    shown.end()
    assert terminal.getvalue().count("\r") == 2
    assert "too soon" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
