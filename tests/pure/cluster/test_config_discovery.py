"""A node has its disks discovered by a word or by a table of patterns, and every mistake is named with its key."""

from pathlib import Path

import pytest

from meshfs.cluster.config import Config, load
from meshfs.cluster.config_changes import compare, exporter_view, mount_view
from meshfs.disk.discovery.selection import Pattern, Selection
from meshfs.errors import ConfigError
from meshfs.model import Access, Cache

HEAD = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n'
SECOND = '[[node]]\nname = "n2"\naddresses = ["10.0.0.2"]\n'
TABLE = """[node.disks]
include = [{ bus = "nvme" }, { model = "ST*", size_min_bytes = 4_000_000_000_000 }]
exclude = [{ id = "wwn-0x5*", path = "/dev/sd*", size_max_bytes = 10 }]
cache = "writeback"
access = "ro"
nodes = { n2 = "none" }
"""


def config_of(folder: Path, text: str) -> Config:
    path = folder / "cluster.toml"
    path.write_text(text)
    return load(path)


def test_a_word_discovers_all_physical_disks(tmp_path: Path) -> None:
    discovery = config_of(tmp_path, HEAD + 'disks = "discover"\n').node("n1").discovery
    assert discovery is not None
    assert discovery.selection == Selection()
    assert (discovery.cache, discovery.access, dict(discovery.nodes)) == (Cache.NONE, Access.READ_WRITE, {})


def test_a_table_has_patterns_and_the_settings_of_all_found_disks(tmp_path: Path) -> None:
    discovery = config_of(tmp_path, HEAD + TABLE + SECOND).node("n1").discovery
    assert discovery is not None
    assert discovery.selection == Selection(
        include=(Pattern(bus="nvme"), Pattern(model="ST*", size_min_bytes=4_000_000_000_000)),
        exclude=(Pattern(id="wwn-0x5*", path="/dev/sd*", size_max_bytes=10),),
    )
    assert (discovery.cache, discovery.access) == (Cache.WRITEBACK, Access.READ_ONLY)
    assert dict(discovery.nodes) == {"n2": Access.NONE}


def test_without_the_key_nothing_is_discovered(tmp_path: Path) -> None:
    node = config_of(tmp_path, HEAD).node("n1")
    assert node.discovery is None
    assert not node.may_have_disks


def test_listed_disks_go_beside_it(tmp_path: Path) -> None:
    text = HEAD + 'disks = "discover"\n[[node.disk]]\nname = "fast"\npath = "/dev/nvme0n1"\n'
    node = config_of(tmp_path, text).node("n1")
    assert [disk.name for disk in node.disks] == ["fast"]
    assert node.discovery is not None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('disks = "all"', "6: node.disks: found 'all', expected \"discover\" or a table with include"),
        ("disks = 3", "6: node.disks: found 3, expected a table"),
        ("[node.disks]\ninclude = [{}]", "7: node.disks.include: the pattern is empty, expected at least one of id"),
        ("[node.disks]\ninclude = [{ vendor = 'x' }]", "7: node.disks.include.vendor: unknown key"),
        ("[node.disks]\ninclude = 'nvme'", "7: node.disks.include: found"),
        ("[node.disks]\nexclude = [{ id = '' }]", "7: node.disks.exclude.id: found"),
        (
            "[node.disks]\nexclude = [{ size_min_bytes = 9, size_max_bytes = 8 }]",
            "7: node.disks.exclude.size_max_bytes: found 8, expected an integer from 9",
        ),
        ("[node.disks]\naccess = 'none'", "7: node.disks.access: found"),
        ("[node.disks]\nnodes = { n9 = 'ro' }", "7: node.disks.nodes.n9: there is no node of this name"),
        ("[node.disks]\naccess = 'ro'\nnodes = { n1 = 'rw' }", "8: node.disks.nodes.n1: found"),
    ],
)
def test_mistakes_are_named_with_line_and_key(tmp_path: Path, lines: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, HEAD + lines + "\n")
    assert str(error.value).startswith(f"{tmp_path}/cluster.toml:")
    assert expected in str(error.value)


def test_too_many_patterns_are_refused(tmp_path: Path) -> None:
    patterns = ", ".join(['{ bus = "sas" }'] * 257)
    with pytest.raises(ConfigError, match="found 257 patterns, expected at most 256"):
        config_of(tmp_path, f"{HEAD}[node.disks]\ninclude = [{patterns}]\n")


def test_a_discovered_disk_has_the_policy_of_its_node_and_may_have_flows_of_its_own(tmp_path: Path) -> None:
    flow = '[[scheduler.flow]]\nnode = "n2"\ndisk = "n1/wwn-0x5000c500a1b2c3d4"\nweight = 7\n'
    config = config_of(tmp_path, HEAD + 'weight = 3\ndisks = "discover"\n' + SECOND + flow)
    policy = config.policy("n1", "wwn-0x5000c500a1b2c3d4")
    assert dict(policy.weights) == {"n1": 3.0, "n2": 1.0}
    assert [settings.weight for settings in policy.flows.values()] == [7]
    assert not config.policy("n1", "wwn-0x1").flows
    with pytest.raises(ConfigError, match="there is no disk 'n2/wwn-0x1'"):
        config.policy("n2", "wwn-0x1")


def test_too_large_reservations_of_discovered_disks_are_a_mistake(tmp_path: Path) -> None:
    flow = '[[scheduler.flow]]\nnode = "{}"\nreservation = 0.7\n'
    with pytest.raises(ConfigError, match="reservation: at disk n1/\\*"):
        config_of(tmp_path, HEAD + 'disks = "discover"\n' + SECOND + flow.format("n1") + flow.format("n2"))


def test_too_large_reservations_of_one_discovered_disk_are_a_mistake_before_the_disk_appears(tmp_path: Path) -> None:
    flow = '[[scheduler.flow]]\nnode = "{}"\ndisk = "n1/wwn-0x1"\nreservation = 0.7\n'
    with pytest.raises(ConfigError, match="reservation: at disk n1/wwn-0x1"):
        config_of(tmp_path, HEAD + 'disks = "discover"\n' + SECOND + flow.format("n1") + flow.format("n2"))


@pytest.mark.parametrize("disk", ["n1/*", "n1/", "n2/wwn-0x1"])
def test_a_flow_names_a_single_disk_of_a_node_that_discovers(tmp_path: Path, disk: str) -> None:
    flow = f'[[scheduler.flow]]\nnode = "n1"\ndisk = "{disk}"\nweight = 7\n'
    with pytest.raises(ConfigError, match=r"there is no disk '.*', expected NODE/DISK$"):
        config_of(tmp_path, HEAD + 'disks = "discover"\n' + SECOND + flow)


def test_a_changed_discovery_is_a_change_of_the_exporter_and_a_new_one_also_of_mounts(tmp_path: Path) -> None:
    without = config_of(tmp_path, HEAD + SECOND)
    word = config_of(tmp_path, HEAD + 'disks = "discover"\n' + SECOND)
    table = config_of(tmp_path, HEAD + TABLE + SECOND)
    assert compare(exporter_view(word, "n1", {}), exporter_view(table, "n1", {}), set()).reload == ("disks of node n1",)
    assert not compare(mount_view(word, "n2", {}), mount_view(table, "n2", {}), set())
    assert (
        "whether it has disks of node n1"
        in compare(mount_view(without, "n2", {}), mount_view(word, "n2", {}), set()).reload
    )
