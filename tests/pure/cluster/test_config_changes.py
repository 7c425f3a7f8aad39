"""The differences between the config in force and the file, under the names that an administrator knows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshfs.cluster.config import Config, load
from meshfs.cluster.config_changes import Changes, View, compare, exporter_view, mount_view
from meshfs.mount.in_force import UNTIL_REMOUNT

CONFIG = """
[cluster]
name = "demo"
io_timeout_s = 7
[scheduler]
system_floor = 0.2
[[node]]
name = "n1"
addresses = ["127.0.0.1"]
  [[node.disk]]
  name = "a"
  path = "a.img"
[[node]]
name = "n2"
addresses = ["127.0.0.2"]
"""
KEYS = {"n1": "k1", "n2": "k2"}
NEW_NODE = '[[node]]\nname = "n3"\naddresses = ["127.0.0.3"]\n  [[node.disk]]\n  name = "b"\n  path = "b.img"\n'


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Config]:
    def make(text: str) -> Config:
        path = tmp_path / "cluster.toml"
        path.write_text(text)
        return load(path)

    return make


def of_mount(old: Config, new: Config, keys: dict[str, str] = KEYS) -> Changes:
    return compare(mount_view(old, "n2", KEYS), mount_view(new, "n2", keys), UNTIL_REMOUNT)


MOUNT_CASES = [
    (CONFIG, ()),
    (CONFIG + NEW_NODE, ("node n3 is new",)),
    (CONFIG.replace('"n2"', '"n2"\nweight = 3'), ()),
    (CONFIG.replace("a.img", "c.img"), ()),
    (CONFIG.replace("system_floor = 0.2", "system_floor = 0.3"), ()),
    (CONFIG.replace("127.0.0.1", "127.0.0.9"), ("addresses of node n1",)),
    (CONFIG.replace("127.0.0.2", "127.0.0.9"), ("addresses of node n2",)),
    (CONFIG.replace("io_timeout_s = 7", "io_timeout_s = 8"), ("io_timeout_s",)),
    (CONFIG + "[multichannel]\nchannels = 2\ndead_after_s = 2.0\n", ("channels", "dead_after_s")),
]


@pytest.mark.parametrize(("text", "expected"), MOUNT_CASES)
def test_a_mount_names_what_a_reload_changes(
    text: str, expected: tuple[str, ...], config: Callable[[str], Config]
) -> None:
    old = config(CONFIG)
    assert of_mount(old, config(text)) == Changes(expected, ())


def test_a_mount_needs_an_umount_for_name_and_security(config: Callable[[str], Config]) -> None:
    old = config(CONFIG)
    new = config(CONFIG.replace('name = "demo"', 'name = "other"\nsecurity = "none"'))
    assert of_mount(old, new) == Changes((), ("name of the cluster", "security"))


def test_a_removed_node_is_one_line(config: Callable[[str], Config]) -> None:
    new = config(CONFIG)
    old = config(CONFIG + NEW_NODE)
    assert of_mount(old, new).reload == ("node n3 is removed",)


def test_another_key_of_a_node(config: Callable[[str], Config]) -> None:
    old = config(CONFIG)
    assert of_mount(old, old, {**KEYS, "n1": "other"}).reload == ("key of node n1",)


def test_an_exporter_names_what_a_reload_changes(config: Callable[[str], Config]) -> None:
    def view(text: str) -> View:
        return exporter_view(config(text), "n1", KEYS)

    def changed(text: str) -> tuple[str, ...]:
        return compare(view(CONFIG), view(text), frozenset((("", "discipline"), ("n1", "state")))).reload

    assert changed(CONFIG) == ()
    assert changed(CONFIG.replace("a.img", "c.img")) == ("disk a of node n1",)
    assert changed(CONFIG.replace("system_floor = 0.2", "system_floor = 0.3")) == ("scheduler",)
    assert changed(CONFIG.replace('"n2"', '"n2"\nweight = 3')) == ("weight of node n2",)
    assert changed(CONFIG.replace("127.0.0.2", "127.0.0.9")) == (), "another node's addresses do not concern it"
    fifo = view(CONFIG.replace("system_floor = 0.2", 'discipline = "fifo"'))
    assert compare(view(CONFIG), fifo, frozenset((("", "discipline"),))) == Changes((), ("discipline",))


def test_nothing_differs_from_itself(config: Callable[[str], Config]) -> None:
    loaded = config(CONFIG + NEW_NODE)
    assert not of_mount(loaded, replace(loaded))
