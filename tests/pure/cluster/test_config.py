"""The config: what it means, and how each mistake in it is named."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.cluster import config
from meshfs.cluster.config import CLUSTER_KEYS, DISK_KEYS, MULTICHANNEL_KEYS, NODE_KEYS
from meshfs.cluster.config_scheduler import FLOW_TABLE_KEYS, SCHEDULER_KEYS
from meshfs.cluster.config_text import locate_keys
from meshfs.errors import ConfigError
from meshfs.limits import CONFIG_MAX_BYTES
from meshfs.model import Access, Cache, FlowKey, IoClass, Security

EXAMPLE = """\
[cluster]
name = "demo"
keys = "keys"
security = "sign"
io_timeout_s = 30

[[node]]
name = "n1"
addresses = ["10.0.1.1", "10.0.2.1"]
port = 4450
socket = "run/n1.sock"
weight = 1

  [[node.disk]]
  name = "disk0"
  path = "disks/n1-disk0.img"
  cache = "none"
  access = "rw"

  [[node.disk]]
  name = "disk1"
  path = "/dev/sdb"
  cache = "writeback"
  nodes = { n2 = "ro" }

[[node]]
name = "n2"
addresses = ["10.0.1.2"]
"""


def load(folder: Path, text: str) -> config.Config:
    path = folder / "cluster.toml"
    path.write_text(text)
    return config.load(path)


def test_the_example(tmp_path: Path) -> None:
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
    assert config.disk_id("n1", "disk0") == "meshfs-n1-disk0"


def example_of(page: str) -> str:
    """The config that a page of the documentation shows."""
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
    # Every key but the node's public key, which has a folder of its own.
    keys = {*CLUSTER_KEYS, *MULTICHANNEL_KEYS, *SCHEDULER_KEYS, *NODE_KEYS, *DISK_KEYS, *FLOW_TABLE_KEYS}
    for key in keys - {"public_key"}:
        assert re.search(rf"\b{key}\b", text), key


def test_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[cluster]\nname = "c"\n[[node]]\nname = "n"\naddresses = ["::1"]\n')
    assert loaded.cluster == config.Cluster("c", tmp_path / "keys", Security.SIGN, 30.0)
    assert loaded.nodes[0].addresses == ("::1",)


def test_relative_to_the_file_not_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, EXAMPLE)
    monkeypatch.chdir(tmp_path)
    assert config.load("cluster.toml").cluster.keys == tmp_path / "keys"


def test_an_unknown_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.toml: there is no node 'n9'; nodes here: n1, n2"):
        load(tmp_path, EXAMPLE).node("n9")


def test_sixteen_nodes_of_26_disks(tmp_path: Path) -> None:
    text = '[cluster]\nname = "big"\n'
    for node in range(16):
        text += f'[[node]]\nname = "n{node}"\naddresses = ["10.0.0.{node + 1}"]\n'
        text += "".join(f'[[node.disk]]\nname = "d{disk}"\npath = "d{node}-{disk}"\n' for disk in range(26))
    assert sum(len(node.disks) for node in load(tmp_path, text).nodes) == 416


# Each: what is replaced in the example, by what, the line of the mistake, and its text.
MISTAKES = [
    ('name = "demo"\n', "", 1, "cluster.name: missing, expected a string"),
    ("[cluster]\n", "[Cluster]\n", 1, 'Cluster: unknown key in this version, did you mean "cluster"?'),
    ('"demo"', "7", 2, "cluster.name: found 7, expected a string"),
    ('"demo"', '""', 2, "cluster.name: found '', expected a string that is not empty"),
    ('"demo"', '"a/b"', 2, "cluster.name: found 'a/b', expected a name of"),
    ('keys = "keys"', 'keys = ["keys"]', 3, "cluster.keys: found an array, expected a string"),
    ('"sign"', '"signed"', 4, """cluster.security: found 'signed', expected "sign" or "encrypt" or "none\""""),
    ('"sign"', "true", 4, "cluster.security: found true, expected"),
    ("= 30", "= 0.5", 5, "cluster.io_timeout_s: found 0.5, expected a number from 1 to 3600"),
    ("= 30", "= nan", 5, "cluster.io_timeout_s: found nan, expected a number"),
    ("= 30", "= true", 5, "cluster.io_timeout_s: found true, expected a number"),
    ("= 30", '= "30"', 5, "cluster.io_timeout_s: found '30', expected a number"),
    ("io_timeout_s", "io_timeout", 5, 'did you mean "io_timeout_s"?; known here: name, keys, security, io_timeout_s'),
    ('"n1"', '"-n1"', 8, "node.name: found '-n1', expected a name of"),
    ('"n1"', '"n 1"', 8, "node.name: found 'n 1', expected a name of"),
    ('"n1"', '"' + "n" * 64 + '"', 8, "expected a name of 1 to 63"),
    ('"n1"', '"../n1"', 8, "expected a name of"),
    ('["10.0.1.1", "10.0.2.1"]', '"10.0.1.1"', 9, "node.addresses: found '10.0.1.1', expected an array"),
    ('["10.0.1.1", "10.0.2.1"]', "[]", 9, "node.addresses: found an empty array, expected an array of at least"),
    ('"10.0.2.1"', '"10.0.2.256"', 9, "found '10.0.2.256', expected an IPv4 or IPv6 address"),
    ('"10.0.2.1"', '"0.0.0.0"', 9, "found '0.0.0.0', expected an address of one network interface"),
    ('"10.0.2.1"', '"::"', 9, "found '::', expected an address of one network interface"),
    (
        '"10.0.2.1"',
        '"224.0.0.1"',
        9,
        "expected an address of one network interface, not a multicast address",
    ),
    ('"10.0.2.1"', '"ff02::1"', 9, "found 'ff02::1', expected an address of one network interface, not a multicast"),
    ('"10.0.2.1"', '"255.255.255.255"', 9, "expected an address of one network interface, not a broadcast address"),
    ('"10.0.2.1"', '"::ffff:10.0.0.1"', 9, "expected the plain IPv4 address 10.0.0.1"),
    ('"10.0.2.1"', '"fe80::1"', 9, "found 'fe80::1', expected an address that is not link-local"),
    ('"10.0.2.1"', '"fe80::1%eth0"', 9, "found 'fe80::1%eth0', expected an address that is not link-local"),
    ('"10.0.2.1"', '"fd00::1%eth0"', 9, "expected an address without a zone: fd00::1"),
    ('"10.0.2.1"', '"10.0.2.1/24"', 9, "found '10.0.2.1/24', expected an IPv4 or IPv6 address"),
    ('"10.0.2.1"', '"010.0.2.1"', 9, "found '010.0.2.1', expected an IPv4 or IPv6 address"),
    ('"10.0.1.1", "10.0.2.1"', '"::1", "0:0::1"', 9, "[::1]:4450 of n1 is taken by n1"),
    ('"10.0.2.1"', '"10.0.1.1"', 9, "10.0.1.1:4450 of n1 is taken by n1"),
    ("4450", "0", 10, "node.port: found 0, expected an integer from 1 to 65535"),
    ("4450", "65536", 10, "node.port: found 65536, expected an integer"),
    ("4450", "4450.0", 10, "node.port: found 4450.0, expected an integer"),
    ('"run/n1.sock"', '"run/n1.ctl"', 11, "node.socket: found"),
    ('"run/n1.sock"', '"' + "r" * 120 + '"', 11, "is longer than 107 bytes"),
    ("weight = 1", "weight = 0", 12, "node.weight: found 0, expected an integer from 1 to 1000"),
    ("weight = 1", "wieght = 1", 12, 'node.wieght: unknown key in this version, did you mean "weight"?'),
    ("weight = 1", 'public_key = "abc"', 12, "node.public_key: found 'abc', expected 32 bytes in base64"),
    ("weight = 1", "weight = 1.5", 12, "node.weight: found 1.5, expected an integer from 1 to 1000"),
    ("weight = 1", "limit_iops = 5", 12, "node.limit_iops: unknown key in this version"),
    ("weight = 1", "metrics = 9464", 12, "node.metrics: found 9464, expected a string"),
    ("weight = 1", 'metrics = "localhost:9464"', 12, "node.metrics: found 'localhost:9464', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "127.0.0.1"', 12, "node.metrics: found '127.0.0.1', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = ":9464"', 12, "node.metrics: found ':9464', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "::1:9464"', 12, "node.metrics: found '::1:9464', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "[::1]"', 12, "node.metrics: found '[::1]', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "[10.0.0.1]:5"', 12, "node.metrics: found '[10.0.0.1]:5', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "10.0.0.1:0"', 12, "node.metrics: found '10.0.0.1:0', expected a port from 1"),
    ("weight = 1", 'metrics = "10.0.0.1:65536"', 12, "node.metrics: found '10.0.0.1:65536', expected"),
    ("weight = 1", 'metrics = "10.0.0.1:٣"', 12, "node.metrics: found '10.0.0.1:٣', expected ADDRESS:PORT"),
    ("weight = 1", 'metrics = "[fe80::1%lo]:80"', 12, "expected an address that is not link-local"),
    ("weight = 1", 'metrics = "224.0.0.1:9464"', 12, "node.metrics: found '224.0.0.1:9464', expected"),
    ("weight = 1", 'metrics = "10.0.2.1:4450"', 12, "10.0.2.1:4450 is the exporter's own address, expected another"),
    ("weight = 1", 'metrics = "0.0.0.0:4450"', 12, "0.0.0.0:4450 is the exporter's own address, expected another"),
    ("weight = 1", "scratch_size_bytes = 0", 12, "node.scratch_size_bytes: found 0, expected an integer from 1 to 268"),
    (
        "weight = 1",
        "scratch_size_bytes = 268435457",
        12,
        "node.scratch_size_bytes: found 268435457, expected an integer",
    ),
    ("weight = 1", "scratch_size_bytes = 64e6", 12, "node.scratch_size_bytes: found 64000000.0, expected an integer"),
    ("weight = 1", "scratch_size_bytes = true", 12, "node.scratch_size_bytes: found true, expected an integer"),
    ("weight = 1", "scratch_size = 5", 12, 'did you mean "scratch_size_bytes"?'),
    ("weight = 1", "state = 5", 12, "node.state: found 5, expected a string"),
    ("weight = 1", 'state = ""', 12, "node.state: found '', expected a string that is not empty"),
    ('"disk0"', '"disk 0"', 15, "node.disk.name: found 'disk 0', expected a name"),
    ('  path = "disks/n1-disk0.img"\n', "", 14, "node.disk.path: missing, expected a string"),
    ('"disks/n1-disk0.img"', '"a\\u0000b"', 16, "node.disk.path: found 'a\\x00b', expected a string that is not"),
    ('cache = "none"', 'cache = "wb"', 17, """node.disk.cache: found 'wb', expected "none" or "writeback\""""),
    ('access = "rw"', 'access = "none"', 18, """node.disk.access: found 'none', expected "rw" or "ro\""""),
    ('access = "rw"', "limit_iops = 0", 18, "node.disk.limit_iops: found 0, expected a number from 1 to 1e+09"),
    ('access = "rw"', "limit_iops = inf", 18, "node.disk.limit_iops: found inf, expected a number"),
    ('access = "rw"', "limit_iops = nan", 18, "node.disk.limit_iops: found nan, expected a number"),
    ('access = "rw"', "limit_iops = true", 18, "node.disk.limit_iops: found true, expected a number"),
    ('access = "rw"', 'limit_iops = "5k"', 18, "node.disk.limit_iops: found '5k', expected a number"),
    ('access = "rw"', "limit_iops = 1" + "0" * 400, 18, "node.disk.limit_iops: found 1000"),
    ('access = "rw"', "limit_bytes_per_s = 4095", 18, "node.disk.limit_bytes_per_s: found 4095, expected a number"),
    ('access = "rw"', "limit_bytes = 4096", 18, 'did you mean "limit_bytes_per_s"?'),
    ('access = "rw"', "weight = 2", 18, "node.disk.weight: unknown key in this version"),
    ('"disk1"', '"disk0"', 21, "node.disk.name: disk0 of disk0 is taken by disk0"),
    ('"disk1"', '"DISK0"', 21, "disk names of a node differ in more than case"),
    ('"/dev/sdb"', '"disks/x/../n1-disk0.img"', 22, "node.disk.path: "),
    ('n2 = "ro"', 'n3 = "ro"', 24, "node.disk.nodes.n3: there is no node of this name, expected one of n1, n2"),
    ('n2 = "ro"', 'n2 = "r"', 24, """node.disk.nodes.n2: found 'r', expected "none" or "ro" or "rw\""""),
    ('{ n2 = "ro" }', '"n2"', 24, "node.disk.nodes: found 'n2', expected a table"),
    ('"n2"', '"n1"', 27, "node.name: n1 of n1 is taken by n1"),
    ('"n2"', '"N1"', 27, "node names differ in more than case"),
    ('"10.0.1.2"', '"10.0.1.1"', 28, "10.0.1.1:4450 of n2 is taken by n1"),
]


@pytest.mark.parametrize(("old", "new", "line", "text"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, line: int, text: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(ConfigError) as error:
        load(tmp_path, EXAMPLE.replace(old, new, 1))
    message = str(error.value)
    where = message.split(": ")[0]
    # A key that is not there has no line of its own; its table has.
    assert where == f"{tmp_path}/cluster.toml:{line}", message
    assert text in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cluster: missing, expected a table"),
        ("cluster = 5", "cluster: found 5, expected a table"),
        ('[cluster]\nname = "c"', "node: missing, expected at least one [[node]]"),
        ('node = 3\n[cluster]\nname = "c"', "node: found 3, expected an array of tables: [[node]]"),
        ('node = [3]\n[cluster]\nname = "c"', "node: found 3, expected a table"),
        ("[cluster\n", "not valid TOML"),
        ('[cluster]\nname = "a"\nname = "b"\n', "not valid TOML"),
        ("x = " + "[" * 20000, "not valid TOML"),
        ("x = " + "9" * 5000, "not valid TOML"),
        ('[cluster]\nname = "c"\nio_timeout_s = ' + "9" * 400, "cluster.io_timeout_s: found 999"),
    ],
)
def test_whole_files(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/cluster.toml")


def test_discovered_disks_are_for_later(tmp_path: Path) -> None:
    text = '[cluster]\nname = "c"\n[[node]]\nname = "n"\naddresses = ["::1"]\ndisk = "discover"\n'
    with pytest.raises(ConfigError, match=r"cluster\.toml:6: node\.disk: .*discover.* not supported by this version"):
        load(tmp_path, text)


def test_tables_of_other_versions(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key in this version; known here: cluster, multichannel, scheduler, node"
    ):
        load(tmp_path, EXAMPLE + "[[enclosure]]\nname = 'e'")


def test_a_restriction_cannot_widen(tmp_path: Path) -> None:
    text = EXAMPLE.replace('nodes = { n2 = "ro" }', 'access = "ro"\nnodes = { n2 = "rw" }')
    with pytest.raises(ConfigError, match='the disk itself is "ro"'):
        load(tmp_path, text)


def test_disk_ids_of_two_nodes_may_not_meet(tmp_path: Path) -> None:
    text = '[cluster]\nname = "c"\n'
    for number, (node, disk) in enumerate([("a", "b-c"), ("a-b", "c")]):
        text += f'[[node]]\nname = "{node}"\naddresses = ["10.0.0.{number + 1}"]\n'
        text += f'[[node.disk]]\nname = "{disk}"\npath = "{number}"\n'
    with pytest.raises(ConfigError, match=r":13: node\.disk\.name: meshfs-a-b-c of a-b/c is taken by a/b-c"):
        load(tmp_path, text)


def test_two_nodes_of_one_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every node has a socket of its own"):
        load(tmp_path, EXAMPLE + 'socket = "run/../run/n1.sock"\n')


def test_two_nodes_of_one_state(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":29: node\.state: .*state/n1 of n2 is taken by n1; .* a folder of its own"):
        load(tmp_path, EXAMPLE + 'state = "x/../state/n1"\n')


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
def test_where_metrics_are(tmp_path: Path, text: str, expected: tuple[str, int]) -> None:
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


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot read the config: No such file"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigError, match="latin:2: byte 0xe9 is not UTF-8"):
        config.load(tmp_path / "latin")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(CONFIG_MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=f"larger than {CONFIG_MAX_BYTES} bytes"):
        config.load(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "large" / "x", "Not a directory"),
    ):
        with pytest.raises(ConfigError, match=f"{path}: cannot read the config: .*{why}"):
            config.load(path)


def test_a_file_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(EXAMPLE)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            config.load(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="mark"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="windows"),
        pytest.param(lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), id="windows-mark"),
        pytest.param(lambda data: data.replace(b"  ", b"\t"), id="tabs"),
        pytest.param(lambda data: data.rstrip(), id="no-newline"),
        pytest.param(lambda data: "# caf\u00e9\u2028\u0085\n".encode() + data, id="comment"),
    ],
)
def test_what_editors_make_of_a_file(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(change(EXAMPLE.encode()))
    assert config.load(path).nodes == load(tmp_path, EXAMPLE).nodes
    # A mistake is still named at its line.
    data = change(EXAMPLE.encode()).replace(b"4450", b"0")
    path.write_bytes(data)
    line = data[: data.index(b"port")].count(b"\n") + 1
    with pytest.raises(ConfigError, match=rf"cluster\.toml:{line}: node\.port: found 0"):
        config.load(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (EXAMPLE.encode("utf-16"), ":1: UTF-16 text, expected UTF-8"),
        (EXAMPLE.encode("utf-16-be"), ":1: a NUL byte, expected a TOML file in UTF-8"),
        (EXAMPLE.encode() + b"# \0\n", ":29: a NUL byte"),
        (b"\xef\xbb\xbf" + EXAMPLE.encode() + b"# \xe9", ":29: byte 0xe9 is not UTF-8 text"),
        (b"\xef\xbb\xbf\xe9", ":1: byte 0xe9 is not UTF-8 text"),
        (bytes(range(256)), ":1: a NUL byte"),
        (b"\x7fELF\x02\x01\x01", "not valid TOML"),
        (b"\xef\xbb\xbf", "cluster: missing"),
        (b"", "cluster: missing"),
    ],
)
def test_what_is_no_toml_text(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as error:
        config.load(path)
    assert expected in str(error.value)


def test_a_config_behind_a_link(tmp_path: Path) -> None:
    """Relative paths are relative to the file the link leads to; the link itself is what a reload reads again."""
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.mkdir()
    load(real, EXAMPLE)
    link = other / "link.toml"
    link.symlink_to("../real/cluster.toml")
    loaded = config.load(link)
    assert (loaded.path, loaded.given) == (real / "cluster.toml", link)
    one = loaded.nodes[0]
    found = (loaded.cluster.keys, one.socket, one.control_socket, one.state, one.disks[0].path)
    names = ("keys", "run/n1.sock", "run/n1.ctl", "state/n1", "disks/n1-disk0.img")
    assert found == tuple(real / name for name in names)
    folder = tmp_path / "folder"
    folder.symlink_to(real)
    assert config.load(folder / "cluster.toml").cluster.keys == real / "keys"


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (("n1", "n2"), "n2", "n2"),
        (("n1", "n2"), "n2.example.com", "n2"),
        (("n1", "n2"), "N2", "n2"),
        (("n1", "N2"), "n2.Example.COM", "N2"),
        (("n1", "n2.example.com"), "n2", "n2.example.com"),
        (("n1", "n2.example.com"), "N2.EXAMPLE.COM", "n2.example.com"),
        # The same name goes before one that differs by the domain.
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
        with pytest.raises(ConfigError, match=re.escape(f"named as this host ({host}); name the node")):
            loaded.node_of_host(host)
    else:
        assert loaded.node_of_host(host).name == expected


def test_locating_keys() -> None:
    text = 'a = """\nb = 1\n"""\n[[node]] # one\n "c" = 1\n[[node]]\n[[node.disk]]\npath=1\n[x.y]\nz = {\n'
    assert locate_keys(text) == {
        ("a",): 1,
        ("node", 0): 4,
        ("node", 0, "c"): 5,
        ("node", 1): 6,
        ("node", 1, "disk", 0): 7,
        ("node", 1, "disk", 0, "path"): 8,
        ("x", "y"): 9,
        ("x", "y", "z"): 10,
    }


def test_multichannel(tmp_path: Path) -> None:
    assert load(tmp_path, EXAMPLE).multichannel == config.Multichannel(1, 1.0)
    changed = load(tmp_path, EXAMPLE + "[multichannel]\nchannels = 4\ndead_after_s = 0.5\n")
    assert changed.multichannel == config.Multichannel(4, 0.5)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("channels = 0", "multichannel.channels: found 0, expected"),
        ("channels = 9", "multichannel.channels: found 9, expected"),
        ("channels = true", "multichannel.channels: found true, expected"),
        ("dead_after_s = 0.4", "multichannel.dead_after_s: found 0.4, expected"),
        ("dead_after_s = 6", "multichannel.dead_after_s: found 6, expected"),
        ("dead_after = 1", 'multichannel.dead_after: unknown key in this version, did you mean "dead_after_s"?'),
    ],
)
def test_mistakes_in_multichannel(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f":30: {problem}")):
        load(tmp_path, EXAMPLE + f"[multichannel]\n{line}\n")


def test_the_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text('[cluster]\nname = "x"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\nport = 5000\n')
    other.write_text('# copied\n[[node]]\nport = 5000\naddresses = ["10.0.0.1"]\nname = "n1"\n[cluster]\nname="x"\n')
    assert config.load(one).digest == config.load(other).digest != ""
    other.write_text(one.read_text().replace("5000", "5001"))
    assert config.load(one).digest != config.load(other).digest
