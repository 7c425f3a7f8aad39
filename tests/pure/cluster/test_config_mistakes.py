"""Each mistake in a config is named with its file, its line and what to do."""

import re
from pathlib import Path

import pytest

from meshfs.errors import ConfigError
from support.config_example import EXAMPLE, load

# Each is the replaced text of the example, the new text, the line of the mistake, and the text of the error.
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
    (
        "io_timeout_s",
        "io_timeout",
        5,
        'did you mean "io_timeout_s"? The keys here are: name, keys, security, io_timeout_s',
    ),
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
    ('"disk1"', '"DISK0"', 21, "two disks of a node must have names that differ in more than case"),
    ('"/dev/sdb"', '"disks/x/../n1-disk0.img"', 22, "node.disk.path: "),
    ('n2 = "ro"', 'n3 = "ro"', 24, "node.disk.nodes.n3: there is no node of this name, expected one of n1, n2"),
    ('n2 = "ro"', 'n2 = "r"', 24, """node.disk.nodes.n2: found 'r', expected "none" or "ro" or "rw\""""),
    ('{ n2 = "ro" }', '"n2"', 24, "node.disk.nodes: found 'n2', expected a table"),
    ('"n2"', '"n1"', 27, "node.name: n1 of n1 is taken by n1"),
    ('"n2"', '"N1"', 27, "two nodes must have names that differ in more than case"),
    ('"10.0.1.2"', '"10.0.1.1"', 28, "10.0.1.1:4450 of n2 is taken by n1"),
]


@pytest.mark.parametrize(("old", "new", "line", "text"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, line: int, text: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(ConfigError) as error:
        load(tmp_path, EXAMPLE.replace(old, new, 1))
    message = str(error.value)
    where = message.split(": ")[0]
    # A missing key has no line of its own, and therefore the line of its table is given.
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
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/cluster.toml")


def test_discovery_is_asked_for_by_the_key_disks(tmp_path: Path) -> None:
    text = '[cluster]\nname = "c"\n[[node]]\nname = "n"\naddresses = ["::1"]\ndisk = "discover"\n'
    with pytest.raises(ConfigError, match=r'cluster\.toml:6: node\.disk: .*expected .* or disks = "discover"'):
        load(tmp_path, text)


def test_tables_of_other_versions(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key in this version. The keys here are: cluster, multichannel, scheduler, node"
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
    with pytest.raises(ConfigError, match="each node must have its own socket"):
        load(tmp_path, EXAMPLE + 'socket = "run/../run/n1.sock"\n')


def test_two_nodes_of_one_state(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r":29: node\.state: .*state/n1 of n2 is taken by n1, but each node must have its own folder"
    ):
        load(tmp_path, EXAMPLE + 'state = "x/../state/n1"\n')


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
