"""The awaited disks that are missing, and the words for them."""

from pathlib import Path

import pytest

from meshctl.wait import MountSeen, Target, not_there, target_of
from meshfs.cluster.config import load
from meshfs.errors import ConfigError
from meshfs.mount.awaited import SeenDisk, SeenExporter, expanded, missing

A = SeenDisk("meshfs-n1-a", "n1", "a", "ok")
EXPORTERS = {"n1": SeenExporter("connected"), "n2": SeenExporter("down", "connection refused")}
CONFIG = """
[cluster]
name = "demo"
[[node]]
name = "n1"
addresses = ["127.0.0.1"]
  [[node.disk]]
  name = "a"
  path = "a.img"
  [[node.disk]]
  name = "b"
  path = "b.img"
    [node.disk.nodes]
    n2 = "none"
[[node]]
name = "n2"
addresses = ["127.0.0.2"]
  [[node.disk]]
  name = "c"
  path = "c.img"
"""


@pytest.mark.parametrize("name", ["meshfs-n1-a", "n1/a"])
def test_a_disk_that_is_ok_is_there_by_either_name(name: str) -> None:
    assert missing([name], [A], EXPORTERS) == []


@pytest.mark.parametrize(
    ("name", "disk", "line"),
    [
        ("n1/b", None, "disk n1/b is not there: the exporter of n1 does not announce it"),
        ("n2/c", None, "disk n2/c is not there: exporter n2 is down (connection refused)"),
        ("n9/c", None, "disk n9/c is not there: this mount knows no node n9 with disks"),
        ("meshfs-x", None, "disk meshfs-x is announced by no exporter (exporter n2 is down (connection refused))"),
        ("n2/c", SeenDisk("i", "n2", "c", "absent"), "disk n2/c is absent: exporter n2 is down (connection refused)"),
        ("n1/b", SeenDisk("i", "n1", "b", "missing", "no such file"), "disk n1/b is missing: no such file"),
        ("i", SeenDisk("i", "n1", "b", "failing"), "disk i is failing"),
    ],
)
def test_a_disk_that_is_not_there_is_named_with_the_reason(name: str, disk: SeenDisk | None, line: str) -> None:
    assert missing([name, "n1/a"], [A, *([disk] if disk else [])], EXPORTERS) == [line]


def test_own_and_all_are_the_disks_of_the_config_that_the_node_may_use(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(CONFIG)
    config = load(path)
    assert expanded(["own"], config, "n1") == ("n1/a", "n1/b")
    assert expanded(["all"], config, "n2") == ("n1/a", "n2/c")
    assert expanded(["own", "n2/c", "some-id", "n1/a"], config, "n1") == ("n1/a", "n1/b", "n2/c", "some-id")
    with pytest.raises(ConfigError, match=r"no disk 'n1/x' .*n1/a, n1/b, n2/c"):
        expanded(["n1/x"], config, "n1")


def test_a_path_is_a_disk_of_its_mount() -> None:
    assert target_of("n1/a") == Target("n1/a")
    assert target_of("meshfs-n1-a") == Target("meshfs-n1-a")
    assert target_of("/mnt/mesh/disk/by-id/meshfs-n1-a") == Target("meshfs-n1-a", "/mnt/mesh")
    assert target_of("/mesh//disk/by-node/n1/a/") == Target("n1/a", "/mesh")
    with pytest.raises(ConfigError, match="by-node/NODE/NAME"):
        target_of("/dev/sda")


def test_every_mount_of_the_disks_mesh_has_to_show_it_and_those_of_other_meshes_need_not() -> None:
    there = MountSeen("/mesh", "", "/a.toml", [A], EXPORTERS)
    late = MountSeen("/late", "", "/a.toml", [], {"n1": SeenExporter("connecting")})
    other = MountSeen("/other", "", "/b.toml", [], {"n1": SeenExporter("connected")})
    stuck = MountSeen("/stuck", "no answer")
    assert not_there("n1/a", [there, other, stuck]) == []
    assert not_there("meshfs-n1-a", [other, there]) == []
    assert not_there("n1/a", [there, late]) == ["disk n1/a is not there: exporter n1 is connecting (mount /late)"]
    [line] = not_there("meshfs-n1-a", [there, late])
    assert line.endswith("(mount /late)")
    assert not_there("n1/a", []) == ["disk n1/a is not there: no mesh is mounted"]
    assert not_there("n1/a", [stuck]) == ["disk n1/a is not there: no answer (mount /stuck)"]
