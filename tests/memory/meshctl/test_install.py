"""meshctl install puts files in place and takes them out again, and touches no file of anybody else."""

import json
import os
import sys
from pathlib import Path

import pytest

from meshctl.__main__ import main
from meshctl.installing.placing import RECORD, Installation
from meshctl.installing.plan import Item

PREFIX = Path("/usr/local")
PROGRAMS = Path(sys.prefix, "bin")


def files_below(root: Path) -> dict[str, str]:
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
    return found


def test_everything_is_where_programs_look_for_it(tmp_path: Path) -> None:
    assert main(["install", "--root", str(tmp_path)]) == 0
    found = files_below(tmp_path)
    for name in ("meshctl", "meshfsd", "meshfs"):
        assert found[f"usr/local/bin/{name}"] == f"-> {PROGRAMS / name}"
    for name in ("mount.meshfs", "mount.fuse.meshfs"):
        assert found[f"usr/sbin/{name}"] == f"-> {PROGRAMS / 'meshfs'}"
    unit = found["usr/local/lib/systemd/system/meshfsd@.service"]
    assert "\nExecStart=/usr/local/bin/meshfsd --config /etc/meshfs/cluster.toml --node %i\n" in unit
    assert "usr/local/share/doc/meshfs/fstab.example" in found
    for folder in ("etc/meshfs", "mesh"):
        assert (tmp_path / folder).is_dir()
    modes = {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if not path.is_symlink()}
    assert modes == {"0o755", "0o644"}


def test_where_sbin_is_no_link_the_helpers_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    assert main(["install", "--root", str(tmp_path)]) == 0
    assert "sbin/mount.meshfs" in files_below(tmp_path)


def test_the_prefix_of_packages(tmp_path: Path) -> None:
    assert main(["install", "--root", str(tmp_path), "--prefix", "/usr"]) == 0
    found = files_below(tmp_path)
    assert "\nExecStart=/usr/bin/meshfsd " in found["usr/lib/systemd/system/meshfsd@.service"]
    assert "usr/share/zsh/vendor-completions/_meshfs" in found


def test_the_second_time_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["install", "--root", str(tmp_path), "--json"]
    assert main(command) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    before = {path: path.lstat() for path in tmp_path.rglob("*") if not str(path).endswith((RECORD, "lib/meshfs"))}
    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["written"], done["unchanged"]) == ([], written)
    assert {path: path.lstat() for path in before} == before


def test_removal_leaves_nothing_but_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "etc/meshfs/keys").mkdir(parents=True)
    for name in ("etc/meshfs/cluster.toml", "etc/meshfs/keys/n1.key", "etc/fstab"):
        (tmp_path / name).write_text(name)
    before = sorted(tmp_path.rglob("*"))
    assert main(["install", "--root", str(tmp_path)]) == 0
    assert main(["install", "--root", str(tmp_path), "--remove"]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_config_and_keys_that_came_later_stay(tmp_path: Path) -> None:
    assert main(["install", "--root", str(tmp_path)]) == 0
    (tmp_path / "etc/meshfs/cluster.toml").write_text("")
    assert main(["install", "--root", str(tmp_path), "--remove"]) == 0
    assert files_below(tmp_path) == {"etc/meshfs/cluster.toml": ""}


def test_a_file_of_somebody_else_stops_the_installation_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "usr/sbin/mount.meshfs"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    assert main(["install", "--root", str(tmp_path)]) == 2
    assert str(theirs) in capsys.readouterr().err
    assert files_below(tmp_path) == {"usr/sbin/mount.meshfs": "theirs"}


def test_a_file_that_somebody_changed_is_neither_overwritten_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--root", str(tmp_path)]) == 0
    changed = tmp_path / "usr/local/lib/systemd/system/mesh.mount"
    changed.write_text("changed")
    assert main(["install", "--root", str(tmp_path)]) == 2
    assert main(["install", "--root", str(tmp_path), "--remove"]) == 1
    assert "mesh.mount was changed by somebody else, so it was left" in capsys.readouterr().err
    assert files_below(tmp_path) == {"usr/local/lib/systemd/system/mesh.mount": "changed"}


def test_an_upgrade_replaces_the_files_and_removes_those_that_it_no_longer_has(tmp_path: Path) -> None:
    def installation() -> Installation:
        return Installation(tmp_path, PREFIX)

    old = [Item("usr/bin/a", link="/old/a"), Item("usr/lib/b", "old"), Item("usr/lib/c/d", "only in the old version")]
    new = [Item("usr/bin/a", link="/new/a"), Item("usr/lib/b", "new")]
    installation().put(old, [])
    assert installation().foreign(new) == []
    done = installation().put(new, [])
    assert (done.written, done.removed) == (["usr/bin/a", "usr/lib/b"], ["usr/lib/c/d"])
    assert files_below(tmp_path / "usr/bin") == {"a": "-> /new/a"}
    installation().remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", range(8))
def test_an_interrupted_installation_can_be_repeated_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The process ends before any of its renames, in an upgrade in which every file changes."""
    old = [Item("usr/lib/a", "old a"), Item("usr/lib/b", "old b")]
    new = [Item("usr/lib/a", "new a"), Item("usr/lib/b", "new b"), Item("usr/lib/c", "new c")]
    Installation(tmp_path, PREFIX).put(old, [])
    replace, left = Path.replace, [count]

    def interrupted(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(path, target)

    upgrade = Installation(tmp_path, PREFIX)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upgrade.put(new, [])
    assert Installation(tmp_path, PREFIX).foreign(new) == []
    assert Installation(tmp_path, PREFIX).foreign(old) == []
    Installation(tmp_path, PREFIX).put(new, [])
    assert files_below(tmp_path / "usr/lib") == {"a": "new a", "b": "new b", "c": "new c"}
    Installation(tmp_path, PREFIX).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"digests": [], "folders": []}', "\\x00"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path)]) == 0
    record = tmp_path / "usr/local" / RECORD
    record.write_text(content)
    assert main(["install", "--root", str(tmp_path), "--remove"]) == 2
    assert str(record) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--remove"], "nothing is installed below"),
        (["--prefix", "usr"], "expected an absolute path"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "usr").write_text("a file where a folder has to be")
    assert main(["install", "--root", str(tmp_path)]) == 2
    assert f"{tmp_path}/usr" in capsys.readouterr().err
