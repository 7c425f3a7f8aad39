"""A node discovers its enclosures, has none, or has folders of images; every mistake is named with its key."""

from pathlib import Path

import pytest

from meshfs.cluster.config import Config, load
from meshfs.cluster.config_changes import compare, exporter_view, mount_view
from meshfs.cluster.config_enclosures import DirectoryConfig, EnclosureRights
from meshfs.errors import ConfigError
from meshfs.model import Access, Cache

HEAD = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n'
SECOND = '[[node]]\nname = "n2"\naddresses = ["10.0.0.2"]\n'
DISK = '[[node.disk]]\nname = "d"\npath = "disks/d.img"\n'
SHELF = '[[node.enclosure]]\nname = "shelf"\nkind = "directory"\npath = "images"\n'


def config_of(folder: Path, text: str) -> Config:
    path = folder / "cluster.toml"
    path.write_text(text)
    return load(path)


@pytest.mark.parametrize("lines", ['disks = "discover"\n', DISK, SHELF])
def test_a_node_that_may_have_disks_discovers_its_enclosures(tmp_path: Path, lines: str) -> None:
    node = config_of(tmp_path, HEAD + lines).node("n1")
    assert node.enclosures == EnclosureRights(Access.READ_WRITE, {})
    assert node.may_have_disks


def test_a_node_without_disks_has_no_enclosures_unless_it_says_so(tmp_path: Path) -> None:
    node = config_of(tmp_path, HEAD).node("n1")
    assert node.enclosures is None
    assert not node.may_have_disks
    node = config_of(tmp_path, HEAD + 'enclosures = "discover"\n').node("n1")
    assert node.enclosures == EnclosureRights()
    assert node.may_have_disks


def test_a_node_with_disks_may_have_no_enclosures(tmp_path: Path) -> None:
    assert config_of(tmp_path, HEAD + 'enclosures = "none"\n' + DISK).node("n1").enclosures is None


def test_a_table_gives_the_rights_of_nodes(tmp_path: Path) -> None:
    table = '[node.enclosures]\naccess = "ro"\nnodes = { n2 = "none" }\n'
    rights = config_of(tmp_path, HEAD + DISK + table + SECOND).node("n1").enclosures
    assert rights is not None
    assert [rights.access_of(node) for node in ("n1", "n2")] == [Access.READ_ONLY, Access.NONE]


def test_a_folder_is_an_enclosure_whose_images_are_disks(tmp_path: Path) -> None:
    text = (
        SHELF + 'slots = 12\naccess = "ro"\ndisks = { cache = "writeback", access = "ro", nodes = { n2 = "none" } }\n'
    )
    config = config_of(tmp_path, HEAD + text + SECOND)
    assert config.node("n1").directories == (
        DirectoryConfig(
            name="shelf",
            path=tmp_path / "images",
            slots=12,
            rights=EnclosureRights(Access.READ_ONLY, {}),
            disk_cache=Cache.WRITEBACK,
            disk_access=Access.READ_ONLY,
            disk_nodes={"n2": Access.NONE},
        ),
    )
    assert config.policy("n1", "image-0b2c").weights == {"n1": 1.0, "n2": 1.0}
    assert config_of(tmp_path, HEAD + SHELF).node("n1").directories[0].slots == 24


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('enclosures = "all"', "6: node.enclosures: found 'all', expected"),
        ("enclosures = 3", '6: node.enclosures: found 3, expected "discover", "none" or a table with access, nodes'),
        ("[node.enclosures]\ncache = 'none'", "7: node.enclosures.cache: unknown key"),
        ("[node.enclosures]\naccess = 'none'", "7: node.enclosures.access: found"),
        ("[node.enclosures]\nnodes = { n9 = 'ro' }", "7: node.enclosures.nodes.n9: there is no node of this name"),
        (
            "[node.enclosures]\naccess = 'ro'\nnodes = { n1 = 'rw' }",
            '8: node.enclosures.nodes.n1: found "rw", expected "ro" or "none", because the enclosure itself is "ro"',
        ),
        ('enclosure = "discover"', "6: node.enclosure: found a string, expected [[node.enclosure]] for each"),
        ("[[node.enclosure]]\nname = 'e'", '6: node.enclosure.kind: missing, expected "directory"'),
        ("[[node.enclosure]]\nname = 'e'\nkind = 'ses'", "8: node.enclosure.kind: found 'ses', expected \"directory\""),
        ("[[node.enclosure]]\nname = 'e'\nkind = 'directory'", "6: node.enclosure.path: missing, expected a string"),
        ("[[node.enclosure]]\nname = 'a/b'", "7: node.enclosure.name: found 'a/b', expected a name of 1 to 63"),
        (SHELF.replace("shelf", "Bays"), "7: node.enclosure.name: found 'Bays', which is the name of the node's own"),
        (SHELF.replace("shelf", "enc-0x5"), "7: node.enclosure.name: found 'enc-0x5', but only SES devices have names"),
        (SHELF + "slots = 0", "10: node.enclosure.slots: found 0, expected an integer from 1 to 255"),
        (SHELF + "slots = 256", "10: node.enclosure.slots: found 256, expected an integer from 1 to 255"),
        (SHELF + "disks = { path = 'x' }", "10: node.enclosure.disks.path: unknown key"),
        (SHELF + "disks = { nodes = { n9 = 'ro' } }", "10: node.enclosure.disks.nodes.n9: there is no node of this"),
        (SHELF + "nodes = { n9 = 'ro' }", "10: node.enclosure.nodes.n9: there is no node of this name"),
        (SHELF + SHELF, "11: node.enclosure.name: enc-n1-shelf of n1/shelf is taken by n1/shelf, but each enclosure"),
        (SHELF + SHELF.replace("shelf", "other"), "13: node.enclosure.path: "),
        (SHELF.replace("images", "disks") + DISK, "9: node.enclosure.path: disk d is in this folder, whose images"),
        (SHELF * 33, "3: node.enclosure: found 33 enclosures, expected at most 32"),
    ],
)
def test_mistakes_are_named_with_line_and_key(tmp_path: Path, lines: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, HEAD + lines + "\n")
    assert str(error.value).startswith(f"{tmp_path}/cluster.toml:")
    assert expected in str(error.value)


def test_two_enclosures_of_the_cluster_do_not_share_an_id(tmp_path: Path) -> None:
    other = '[[node]]\nname = "n1-b"\naddresses = ["10.0.0.2"]\n' + SHELF
    with pytest.raises(ConfigError, match="enc-n1-b-shelf of n1-b/shelf is taken by n1/b-shelf"):
        config_of(tmp_path, HEAD + SHELF.replace("shelf", "b-shelf") + other)
    with pytest.raises(ConfigError, match="enc-n1-b-bays of n1/b-bays is taken by the bays of n1-b"):
        config_of(tmp_path, HEAD + SHELF.replace("shelf", "b-bays") + other)


def test_changed_enclosures_are_changes_of_the_exporter(tmp_path: Path) -> None:
    before = exporter_view(config_of(tmp_path, HEAD + SHELF), "n1", {})
    wider = exporter_view(config_of(tmp_path, HEAD + SHELF + "slots = 30\n"), "n1", {})
    without = exporter_view(config_of(tmp_path, HEAD + 'enclosures = "none"\n' + SHELF), "n1", {})
    assert compare(before, wider, set()).reload == ("enclosure shelf of node n1",)
    assert compare(before, without, set()).reload == ("enclosures of node n1",)


def test_a_node_that_gets_its_first_folder_is_new_to_mounts(tmp_path: Path) -> None:
    without = mount_view(config_of(tmp_path, HEAD + SECOND), "n2", {})
    with_folder = mount_view(config_of(tmp_path, HEAD + SHELF + SECOND), "n2", {})
    assert "whether it has disks of node n1" in compare(without, with_folder, set()).reload
