"""A config: its meaning, its defaults, and the node that a machine is."""

import re
from pathlib import Path

import pytest

from meshfs.cluster import config, config_nodes
from meshfs.cluster.config import CLUSTER_KEYS, MULTICHANNEL_KEYS
from meshfs.cluster.config_nodes import DISK_KEYS, NODE_KEYS
from meshfs.cluster.config_scheduler import FLOW_TABLE_KEYS, SCHEDULER_KEYS
from meshfs.errors import ConfigError
from meshfs.model import Access, Cache, FlowKey, IoClass, Security
from support.config_example import EXAMPLE, load


def test_the_example_is_read_as_it_is_meant(tmp_path: Path) -> None:
    loaded = load(tmp_path, EXAMPLE)
    assert loaded.path == tmp_path / "cluster.toml"
    assert loaded.cluster == config.Cluster("demo", tmp_path / "keys", Security.SIGN, 30.0)
    one, two = loaded.nodes
    assert (one.name, one.addresses, one.port, one.weight) == ("n1", ("10.0.1.1", "10.0.2.1"), 4450, 1)
    assert (one.socket, one.control_socket) == (tmp_path / "run/n1.sock", tmp_path / "run/n1.ctl")
    disk0, disk1 = one.disks
    assert (disk0.path, disk0.cache, disk0.access) == (tmp_path / "disks/n1-disk0.img", Cache.NONE, Access.READ_WRITE)
    assert (disk1.path, disk1.cache) == (Path("/dev/sdb"), Cache.WRITEBACK)
    assert [disk1.access_of(node) for node in ("n1", "n2")] == [Access.READ_WRITE, Access.READ_ONLY]
    assert (two.disks, two.port, two.socket) == ((), 4450, tmp_path / "run/n2.sock")
    assert loaded.node("n2") is two
    assert config_nodes.disk_id("n1", "disk0") == "meshfs-n1-disk0"


def example_of(page: str) -> str:
    """Return the config that a page of the documentation shows."""
    text = (Path(__file__).parents[3] / page).read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(example)


def test_the_first_cluster_of_the_readme(tmp_path: Path) -> None:
    loaded = load(tmp_path, example_of("README.md"))
    assert [node.name for node in loaded.nodes] == ["n1", "n2"]
    assert [disk.name for disk in loaded.nodes[0].disks] == ["disk0"]


def test_the_example_with_every_key(tmp_path: Path) -> None:
    text = example_of("docs/admin/config.md")
    loaded = load(tmp_path, text)
    assert loaded.policy("n1", "disk0").of(FlowKey("n2", IoClass.APP)).reservation == 0.3
    # Every key is there but the node's public key, which has a folder of its own.
    keys = {*CLUSTER_KEYS, *MULTICHANNEL_KEYS, *SCHEDULER_KEYS, *NODE_KEYS, *DISK_KEYS, *FLOW_TABLE_KEYS}
    for key in keys - {"public_key"}:
        assert re.search(rf"\b{key}\b", text), key


def test_what_a_config_leaves_out_has_its_default(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[cluster]\nname = "c"\n[[node]]\nname = "n"\naddresses = ["::1"]\n')
    assert loaded.cluster == config.Cluster("c", tmp_path / "keys", Security.SIGN, 30.0)
    assert loaded.nodes[0].addresses == ("::1",)


def test_relative_to_the_file_not_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, EXAMPLE)
    monkeypatch.chdir(tmp_path)
    assert config.load("cluster.toml").cluster.keys == tmp_path / "keys"


def test_an_unknown_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.toml: there is no node 'n9'; the nodes are n1, n2"):
        load(tmp_path, EXAMPLE).node("n9")


def test_sixteen_nodes_of_26_disks(tmp_path: Path) -> None:
    text = '[cluster]\nname = "big"\n'
    for node in range(16):
        text += f'[[node]]\nname = "n{node}"\naddresses = ["10.0.0.{node + 1}"]\n'
        text += "".join(f'[[node.disk]]\nname = "d{disk}"\npath = "d{node}-{disk}"\n' for disk in range(26))
    assert sum(len(node.disks) for node in load(tmp_path, text).nodes) == 416


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::]:9464", ("::", 9464)),
        ("10.0.1.1:9464", ("10.0.1.1", 9464)),
    ],
)
def test_metrics_listen_where_the_key_says(tmp_path: Path, text: str, expected: tuple[str, int]) -> None:
    loaded = load(tmp_path, EXAMPLE + f'metrics = "{text}"\nstate = "/var/lib/meshfs"\n')
    assert (loaded.node("n2").metrics, loaded.node("n2").state) == (expected, Path("/var/lib/meshfs"))
    assert (loaded.node("n1").metrics, loaded.node("n1").state) == (None, tmp_path / "state/n1")


def test_a_node_may_have_a_scratch_share(tmp_path: Path) -> None:
    loaded = load(tmp_path, EXAMPLE + "scratch_size_bytes = 67108864\n")
    assert (loaded.node("n1").scratch_size_bytes, loaded.node("n2").scratch_size_bytes) == (None, 64 << 20)


def test_every_node_may_have_its_metrics_at_the_same_loopback_address(tmp_path: Path) -> None:
    metrics = 'metrics = "127.0.0.1:9464"\n'
    loaded = load(tmp_path, EXAMPLE.replace("weight = 1\n", metrics) + metrics)
    assert {node.metrics for node in loaded.nodes} == {("127.0.0.1", 9464)}


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (("n1", "n2"), "n2", "n2"),
        (("n1", "n2"), "n2.example.com", "n2"),
        (("n1", "n2"), "N2", "n2"),
        (("n1", "N2"), "n2.Example.COM", "N2"),
        (("n1", "n2.example.com"), "n2", "n2.example.com"),
        (("n1", "n2.example.com"), "N2.EXAMPLE.COM", "n2.example.com"),
        # A node of exactly this name goes before one whose name differs by the domain.
        (("n2", "n2.example.com"), "n2", "n2"),
        (("n2", "n2.example.com"), "n2.example.com", "n2.example.com"),
        (("n2", "n2.example.com"), "n2.example.org", "n2"),
        (("n1", "n2.example.com"), "n2.example.org", None),
        (("n2.example.com", "n2.example.org"), "n2", None),
        (("n1", "n2"), "n22", None),
        (("n1", "n2"), "localhost", None),
        (("n1", "n2"), "", None),
    ],
)
def test_the_node_named_as_the_host(tmp_path: Path, names: tuple[str, ...], host: str, expected: str | None) -> None:
    text = '[cluster]\nname = "c"\n'
    for number, name in enumerate(names, 1):
        text += f'[[node]]\nname = "{name}"\naddresses = ["10.0.0.{number}"]\n'
    loaded = load(tmp_path, text)
    if expected is None:
        with pytest.raises(ConfigError, match=re.escape(f"named as this host ({host}); give the name")):
            loaded.node_of_host(host)
    else:
        assert loaded.node_of_host(host).name == expected


def test_multichannel_keys_are_read(tmp_path: Path) -> None:
    assert load(tmp_path, EXAMPLE).multichannel == config.Multichannel(1, 1.0)
    changed = load(tmp_path, EXAMPLE + "[multichannel]\nchannels = 4\ndead_after_s = 0.5\n")
    assert changed.multichannel == config.Multichannel(4, 0.5)


def test_the_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text('[cluster]\nname = "x"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\nport = 5000\n')
    other.write_text('# copied\n[[node]]\nport = 5000\naddresses = ["10.0.0.1"]\nname = "n1"\n[cluster]\nname="x"\n')
    assert config.load(one).digest == config.load(other).digest != ""
    other.write_text(one.read_text().replace("5000", "5001"))
    assert config.load(one).digest != config.load(other).digest
