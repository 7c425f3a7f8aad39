"""meshctl enclosures, disks --tree, locate and fault of a folder of another node."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalFolder
from support.commands import until

pytestmark = pytest.mark.mounted


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Start n1 with a folder of two images, and mount the mesh on n2, which may switch lamps, and on n3."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("01-a.img", "03-b.img"):
        (folder / name).write_bytes(bytes(4 * MIB))
    with LocalCluster(tmp_path / "cluster") as cluster:
        node = cluster.add_node("n1")
        node.folders.append(LocalFolder("shelf", folder, {"slots": 4, "nodes.n3": "ro"}))
        cluster.add_node("n2")
        cluster.add_node("n3")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        for name in ("n2", "n3"):
            cluster.mount(name)
        until(lambda: len(os.listdir(cluster.mountpoint("n2") / "disk/by-id")) == 2, "both images are disks")
        yield cluster


def meshctl(cluster: LocalCluster, *arguments: object, status: int = 0) -> str:
    done = cluster.meshctl(*map(str, arguments), check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def slots(cluster: LocalCluster, node: str) -> dict[str, dict[str, object]]:
    shown = json.loads(meshctl(cluster, "enclosures", cluster.mountpoint(node), "--json"))
    (enclosure,) = shown["enclosures"]
    assert enclosure["id"] == "enc-n1-shelf"
    return {slot["name"]: slot for slot in enclosure["slots"]}


def test_lamps_are_switched_from_another_node_and_every_mount_shows_them(cluster: LocalCluster) -> None:
    here = ("--mount", cluster.mountpoint("n2"))
    first = str(slots(cluster, "n2")["slot01"]["disk"])
    shown = meshctl(cluster, "locate", first, "on", *here)
    assert "locate lamp of slot slot01 of enclosure enc-n1-shelf is on" in shown
    meshctl(cluster, "fault", "n1/shelf/3", "on", *here)
    for node in ("n2", "n3"):
        until(
            lambda node=node: (  # type: ignore[misc]
                [(slot["locate"], slot["fault"]) for slot in slots(cluster, node).values()]
                == [(True, False), (False, False), (False, True), (False, False)]
            ),
            f"{node} shows the lamps",
        )
    assert "slot01=locate slot03=fault" in meshctl(cluster, "enclosures", cluster.mountpoint("n3"))
    tree = meshctl(cluster, "disks", "--tree", cluster.mountpoint("n3"))
    assert "n1\n`- n1/shelf (enc-n1-shelf), directory, ok" in tree
    assert f"|- slot01  ok  n1/{first} ({first}), 4M, ok  [locate]" in tree
    assert "slot02" not in tree
    assert "slot02  not-installed" in meshctl(cluster, "enclosures", "--tree", cluster.mountpoint("n3"))
    shown = json.loads(meshctl(cluster, "locate", "enc-n1-shelf/slot01", "off", "--json", *here))
    assert shown == {
        "version": 1,
        "ok": True,
        "problems": [],
        "enclosure": "enc-n1-shelf",
        "slot": "slot01",
        "locate": False,
    }
    until(lambda: slots(cluster, "n3")["slot01"]["locate"] is False, "the lamp is off")
    assert slots(cluster, "n3")["slot03"]["fault"] is True


def test_a_node_that_may_only_read_switches_nothing(cluster: LocalCluster) -> None:
    shown = meshctl(cluster, "locate", "n1/shelf/1", "on", "--mount", cluster.mountpoint("n3"), status=1)
    assert "access rw" in shown
    assert slots(cluster, "n2")["slot01"]["locate"] is False
    assert "there is no disk and no enclosure" in meshctl(cluster, "fault", "odd", "off", status=1)
