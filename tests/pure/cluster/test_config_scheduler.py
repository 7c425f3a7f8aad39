"""[scheduler] and [[scheduler.flow]]: the policy that results at each disk, and how each mistake is named."""

from pathlib import Path

import pytest

from meshfs.cluster import config
from meshfs.cluster.config import Config
from meshfs.cluster.config_scheduler import Scheduler
from meshfs.errors import ConfigError
from meshfs.model import Discipline, FlowKey, IoClass
from meshfs.scheduler.decide.policy import FlowPolicy

NODES = """\
[cluster]
name = "demo"

[[node]]
name = "n1"
addresses = ["10.0.1.1"]
weight = 3

  [[node.disk]]
  name = "disk0"
  path = "disk0"
  limit_iops = 500
  limit_bytes_per_s = 1e6

  [[node.disk]]
  name = "disk1"
  path = "disk1"

[[node]]
name = "n2"
addresses = ["10.0.1.2"]

"""
# The lines of mistakes are counted from here.
LINES_BEFORE = NODES.count("\n")
SCHEDULER = """\
[scheduler]
system_floor = 0.3
discipline = "fifo"

[[scheduler.flow]]
node = "n2"
weight = 2.5
reservation = 0.2
limit_iops = 100

[[scheduler.flow]]
node = "n2"
disk = "n1/disk1"
reservation = 0.1
limit_bytes_per_s = 8192

[[scheduler.flow]]
node = "n1"
class = "system"
reservation = 0.3
"""

APP, SYSTEM = IoClass.APP, IoClass.SYSTEM


def load(folder: Path, text: str) -> Config:
    path = folder / "cluster.toml"
    path.write_text(NODES + text)
    return config.load(path)


def flow(*lines: str) -> str:
    return "\n".join(["[[scheduler.flow]]", *lines, ""])


def test_without_a_word_of_it_every_node_has_its_weight(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    assert loaded.scheduler == Scheduler(0.2, Discipline.FAIR, ())
    policy = loaded.policy("n1", "disk0")
    assert (policy.system_floor, policy.limit_iops, policy.limit_bytes_per_s) == (0.2, 500, 1e6)
    assert policy.of(FlowKey("n1", APP)) == policy.of(FlowKey("n1", SYSTEM)) == FlowPolicy(weight=3)
    assert policy.of(FlowKey("n2", APP)) == FlowPolicy(weight=1)
    assert not policy.changed
    other = loaded.policy("n1", "disk1")
    assert (other.limit_iops, other.limit_bytes_per_s) == (None, None)


def test_flows_at_every_disk_and_at_one(tmp_path: Path) -> None:
    loaded = load(tmp_path, SCHEDULER)
    assert loaded.scheduler.discipline is Discipline.FIFO
    zero, one = loaded.policy("n1", "disk0"), loaded.policy("n1", "disk1")
    assert zero.system_floor == one.system_floor == 0.3
    assert zero.of(FlowKey("n2", APP)) == FlowPolicy(2.5, 0.2, 100, None)
    assert one.of(FlowKey("n2", APP)) == FlowPolicy(2.5, 0.1, 100, 8192), "key by key, the disk's own first"
    assert zero.of(FlowKey("n2", SYSTEM)) == FlowPolicy(1)
    assert zero.of(FlowKey("n1", SYSTEM)) == FlowPolicy(3, 0.3), "its node's weight"


def test_the_processor_goes_by_weights_and_flows_at_every_disk(tmp_path: Path) -> None:
    assert load(tmp_path, "").processor_policy().of(FlowKey("n1", APP)) == FlowPolicy(weight=3)
    policy = load(tmp_path, SCHEDULER).processor_policy()
    assert policy.system_floor == 0.3
    assert policy.of(FlowKey("n2", APP)).weight == 2.5
    assert (policy.limit_iops, policy.limit_bytes_per_s) == (None, None)


def test_the_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    head, *flows = SCHEDULER.split("[[scheduler.flow]]")
    turned = "[[scheduler.flow]]".join([head, *(each + "\n" for each in reversed(flows))])
    for disk in ("disk0", "disk1"):
        assert load(tmp_path, turned).policy("n1", disk) == load(tmp_path, SCHEDULER).policy("n1", disk)


def test_a_disk_the_config_does_not_have(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    for node, disk in [("n1", "disk9"), ("n2", "disk0"), ("n9", "disk0")]:
        with pytest.raises(ConfigError, match=rf"cluster\.toml: there is no disk '{node}/{disk}'"):
            loaded.policy(node, disk)


def test_the_names_of_nodes(tmp_path: Path) -> None:
    assert load(tmp_path, "").node_names == ("n1", "n2")


# Each is the replaced text, the new text, the line of the mistake, and the text of the error.
MISTAKES = [
    ("[scheduler]", "[shceduler]", 1, 'shceduler: unknown key in this version, did you mean "scheduler"?'),
    ("= 0.3\ndisc", "= 0.009\ndisc", 2, "scheduler.system_floor: found 0.009, expected a number from 0.01 to 0.9"),
    ("= 0.3\ndisc", "= 0.91\ndisc", 2, "scheduler.system_floor: found 0.91, expected a number from 0.01 to 0.9"),
    ("= 0.3\ndisc", "= nan\ndisc", 2, "scheduler.system_floor: found nan, expected a number"),
    ("= 0.3\ndisc", "= true\ndisc", 2, "scheduler.system_floor: found true, expected a number"),
    ("= 0.3\ndisc", '= "20 %"\ndisc', 2, "scheduler.system_floor: found '20 %', expected a number"),
    ("system_floor", "systemfloor", 2, 'scheduler.systemfloor: unknown key in this version, did you mean "system_f'),
    ('"fifo"', '"FIFO"', 3, """scheduler.discipline: found 'FIFO', expected "fair" or "fifo\""""),
    ('"fifo"', "5", 3, "scheduler.discipline: found 5, expected"),
    ('node = "n2"\nweight', "weight", 5, "scheduler.flow.node: missing, expected a string"),
    ('node = "n2"\nweight', 'node = "n3"\nweight', 6, "flow.node: there is no node 'n3', expected one of n1, n2"),
    ('node = "n2"\nweight', 'node = "N2"\nweight', 6, "flow.node: there is no node 'N2', expected one of n1, n2"),
    ('node = "n2"\nweight', "node = 2\nweight", 6, "scheduler.flow.node: found 2, expected a string"),
    ('node = "n2"\nweight', 'nodes = "n2"\nweight', 6, 'nodes: unknown key in this version, did you mean "node"?'),
    ("weight = 2.5", "weight = 0", 7, "scheduler.flow.weight: found 0, expected a number from 0.01 to 1000"),
    ("weight = 2.5", "weight = 1001", 7, "scheduler.flow.weight: found 1001, expected a number from 0.01 to 1000"),
    ("weight = 2.5", "weight = -inf", 7, "scheduler.flow.weight: found -inf, expected a number"),
    ("weight = 2.5", "weight = [1]", 7, "scheduler.flow.weight: found an array, expected a number"),
    ("= 0.2\n", "= -0.1\n", 8, "scheduler.flow.reservation: found -0.1, expected a number from 0 to 1"),
    ("= 0.2\n", "= 20\n", 8, "scheduler.flow.reservation: found 20, expected a number from 0 to 1"),
    ("= 0.2\n", "= 0.71\n", 8, "flow.reservation: at disk n1/disk0, reservations of class app add up to 0.71"),
    ("= 100", "= 0.5", 9, "scheduler.flow.limit_iops: found 0.5, expected a number from 1 to 1e+09"),
    ("= 100", "= 1e10", 9, "scheduler.flow.limit_iops: found 10000000000.0, expected a number from 1 to 1e+09"),
    ("n1/disk1", "n1/disk9", 13, "flow.disk: there is no disk 'n1/disk9', expected NODE/DISK, one of n1/disk0, n1/d"),
    ("n1/disk1", "disk1", 13, "flow.disk: there is no disk 'disk1', expected NODE/DISK, one of n1/disk0, n1/disk1"),
    ("n1/disk1", "n2/disk1", 13, "flow.disk: there is no disk 'n2/disk1', expected NODE/DISK"),
    ("n1/disk1", "n1/", 13, "flow.disk: there is no disk 'n1/', expected NODE/DISK"),
    ('"n1/disk1"', "[]", 13, "scheduler.flow.disk: found an empty array, expected a string"),
    ("= 8192", "= 100", 15, "scheduler.flow.limit_bytes_per_s: found 100, expected a number from 4096 to 1e+13"),
    ('"system"', '"background"', 19, """flow.class: found 'background', expected "app" or "system\""""),
    ('"system"', "true", 19, "scheduler.flow.class: found true, expected"),
    (
        "reservation = 0.3",
        "",
        17,
        "flow: the flow has no setting, expected at least one of weight, reservation, limit_iops",
    ),
    ("reservation = 0.3", "system_floor = 0.3", 20, "scheduler.flow.system_floor: unknown key in this version"),
    ("reservation = 0.3", "reservation = 0.31", 20, "reservations of class system add up to 0.31 (n1 0.31), expected"),
    ("= 0.3\ndisc", "= 0.25\ndisc", 20, "at most 0.25 (system_floor)"),
    ('disk = "n1/disk1"\n', "", 11, "flow: found a second flow of node n2, class app, at every disk, expected"),
]


@pytest.mark.parametrize(("old", "new", "line", "text"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, line: int, text: str) -> None:
    assert SCHEDULER.count(old) == 1
    with pytest.raises(ConfigError) as error:
        load(tmp_path, SCHEDULER.replace(old, new))
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/cluster.toml:{LINES_BEFORE + line}: "), message
    assert text in message


def test_the_same_flow_twice_at_one_disk(tmp_path: Path) -> None:
    once = flow('node = "n2"', 'disk = "n1/disk0"', "weight = 2")
    load(tmp_path, once + once.replace("disk0", "disk1") + once.replace("disk =", 'class = "system"\ndisk ='))
    with pytest.raises(
        ConfigError, match=r":27: scheduler\.flow: found a second flow of node n2, class app, at n1/disk0"
    ):
        load(tmp_path, once + once.replace("weight", "reservation").replace("2\n", "0.1\n"))


def test_the_flow_that_is_one_too_many_is_named(tmp_path: Path) -> None:
    """Only disk1 has too much, and the disk's own flow is the last to add to it."""
    flows = [
        flow('node = "n1"', "reservation = 0.4"),
        flow('node = "n2"', 'disk = "n1/disk1"', "reservation = 0.5"),
        flow('node = "n2"', 'disk = "n1/disk0"', "reservation = 0.4"),
        flow('node = "n2"', "weight = 7"),
    ]
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "".join(flows))
    assert str(error.value) == (
        f"{tmp_path}/cluster.toml:{LINES_BEFORE + 7}: scheduler.flow.reservation: at disk n1/disk1, "
        "reservations of class app add up to 0.9 (n1 0.4 + n2 0.5), expected at most 0.8 (1 - system_floor)"
    )


def test_a_general_promise_no_disk_keeps_is_no_mistake(tmp_path: Path) -> None:
    general = flow('node = "n2"', "reservation = 0.9")
    own = [flow('node = "n2"', f'disk = "n1/disk{disk}"', "reservation = 0.5") for disk in (0, 1)]
    load(tmp_path, "".join([general, *own]))
    with pytest.raises(ConfigError, match="at disk n1/disk1, reservations of class app"):
        load(tmp_path, "".join([general, own[0]]))


def test_a_flow_at_a_disk_of_a_cluster_without_disks(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    head = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["::1"]\n'
    path.write_text(head + flow('node = "n1"', 'disk = "n1/disk0"', "weight = 2"))
    with pytest.raises(ConfigError, match=r":8: scheduler\.flow\.disk: .* the cluster has no disks"):
        config.load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[scheduler]]\n", "scheduler: found an array, expected a table"),
        ("[scheduler]\nflow = 5\n", "scheduler.flow: found 5, expected an array of tables: [[flow]]"),
        ("[scheduler.flow]\nweight = 5\n", "scheduler.flow: found a table, expected an array of tables"),
        ("[scheduler]\nflow = [5]\n", "scheduler.flow: found 5, expected a table"),
    ],
)
def test_tables_of_the_wrong_kind(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert expected in str(error.value)


def test_a_flow_of_every_node_at_each_of_416_disks(tmp_path: Path) -> None:
    text = '[cluster]\nname = "big"\n'
    for node in range(16):
        text += f'[[node]]\nname = "n{node}"\naddresses = ["10.0.0.{node + 1}"]\n'
        text += "".join(f'[[node.disk]]\nname = "d{disk}"\npath = "d{node}-{disk}"\n' for disk in range(26))
    names = [f"n{node}/d{disk}" for node in range(16) for disk in range(26)]
    text += "".join(flow(f'node = "n{node}"', "reservation = 0.05") for node in range(16))
    text += "".join(
        flow(f'node = "n{index % 16}"', f'disk = "{name}"', "weight = 9") for index, name in enumerate(names)
    )
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    assert config.load(path).policy("n1", "d0").of(FlowKey("n10", APP)) == FlowPolicy(9, 0.05)
    path.write_text(text + flow('node = "n3"', 'disk = "n15/d25"', "reservation = 0.06"))
    with pytest.raises(ConfigError, match=r"at disk n15/d25, .* add up to 0\.81"):
        config.load(path)
