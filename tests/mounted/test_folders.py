"""A folder is an enclosure: images that are dropped into it are disks in slots on every mount, within 2 s."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import ElementPlace, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.status import Lamps, pack_control, parse_status
from meshlab.cluster.cluster import LocalCluster, LocalFolder
from support.commands import until
from support.direct import read_errno

pytestmark = pytest.mark.mounted

SIZE = 8 * MIB
#: A change in a folder shows on every mount within this time.
SHOWN_WITHIN_S = 2.0
_PLACE = ("enclosure", "slot")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Start two nodes with a folder each, and mount the mesh on n1 and on n3, which has no disks."""
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(tmp_path / "cluster"))
        for name in ("n1", "n2"):
            folder = tmp_path / f"images-{name}"
            folder.mkdir()
            node = cluster.add_node(name)
            node.folders.append(LocalFolder("shelf", folder, {"slots": 4}))
        cluster.add_node("n3")
        cluster.write()
        cluster.keygen()
        cluster.start_exporters()
        for name in ("n1", "n3"):
            cluster.mount(name)
        yield cluster


def folder_of(cluster: LocalCluster, node: str) -> Path:
    return cluster.nodes[node].folders[0].path


def drop(cluster: LocalCluster, node: str, name: str, data: bytes = b"m") -> str:
    """Put an image into the folder as `cp` does, and return the disk's id as soon as the image has one."""
    path = folder_of(cluster, node) / name
    path.write_bytes(data.ljust(SIZE, b"\0"))
    until(lambda: "user.meshfs.id" in os.listxattr(path), f"{path} has an id", SHOWN_WITHIN_S)
    return os.getxattr(path, "user.meshfs.id").decode()


def slots(cluster: LocalCluster, at: str, node: str = "n1") -> dict[str, str]:
    """Return the disk in each slot of the node's folder, as a mount shows it."""
    folder = cluster.mountpoint(at) / "disk/by-enclosure" / f"enc-{node}-shelf"
    try:
        return {slot: os.path.basename(os.readlink(folder / slot)) for slot in os.listdir(folder)}
    except FileNotFoundError:
        return {}


def await_slots(cluster: LocalCluster, expected: dict[str, str], node: str = "n1") -> None:
    for at in ("n1", "n3"):
        until(lambda at=at: slots(cluster, at, node) == expected, f"{at} shows {expected}", SHOWN_WITHIN_S)


def disk(cluster: LocalCluster, name: str, at: str = "n3") -> Path:
    return cluster.mountpoint(at) / "disk/by-id" / name


def refused(cluster: LocalCluster, node: str = "n1") -> dict[str, str]:
    """Return why images are not offered, by their file names, as `meshctl disks --all` says it."""
    shown = cluster.meshctl("disks", "--all", "--json", "--config", str(cluster.config), "--node", node).stdout
    return {os.path.basename(each["path"]): each["why"] for each in json.loads(shown)["disks"] if not each["offered"]}


def test_an_image_is_dropped_in_moved_to_another_slot_and_taken_out(cluster: LocalCluster) -> None:
    folder = folder_of(cluster, "n1")
    first = drop(cluster, "n1", "03-a.img", b"first")
    await_slots(cluster, {"slot03": first})
    second = drop(cluster, "n1", "b.img")
    await_slots(cluster, {"slot01": second, "slot03": first})
    assert disk(cluster, first).read_bytes()[:5] == b"first"
    opened = os.open(disk(cluster, first), os.O_RDONLY | os.O_DIRECT)
    try:
        assert read_errno(opened, 0) == 0
        (folder / "03-a.img").rename(folder / "04-a.img")
        await_slots(cluster, {"slot01": second, "slot04": first})
        assert read_errno(opened, SIZE // 2) == 0
        (folder / "04-a.img").unlink()
        await_slots(cluster, {"slot01": second})
        assert read_errno(opened, 0) in (errno.EIO, errno.ENODEV)
    finally:
        os.close(opened)
    assert not disk(cluster, first).exists()
    assert disk(cluster, second).read_bytes()[:1] == b"m"


def test_an_image_that_moves_to_the_folder_of_another_node_is_served_there_under_its_id(cluster: LocalCluster) -> None:
    name = drop(cluster, "n1", "02-a.img", b"moved")
    await_slots(cluster, {"slot02": name})
    (folder_of(cluster, "n1") / "02-a.img").rename(folder_of(cluster, "n2") / "01-a.img")
    await_slots(cluster, {"slot01": name}, "n2")
    await_slots(cluster, {})
    assert disk(cluster, name).read_bytes()[:5] == b"moved"


def test_a_file_is_offered_when_its_copy_is_complete(cluster: LocalCluster) -> None:
    path = folder_of(cluster, "n1") / "half.img"
    with path.open("wb") as file:
        file.write(b"x" * MIB)
        file.flush()
        until(lambda: "half.img" in refused(cluster), "meshctl names the file", SHOWN_WITHIN_S)
        assert refused(cluster) == {"half.img": "a program has it open for writing"}
        assert slots(cluster, "n3") == {}
        file.write(b"x" * MIB)
    until(lambda: bool(slots(cluster, "n3")), "the image is a disk", SHOWN_WITHIN_S)
    assert disk(cluster, slots(cluster, "n3")["slot01"]).stat().st_size == 2 * MIB


def test_an_image_that_grows_is_larger_on_every_mount(cluster: LocalCluster) -> None:
    name = drop(cluster, "n1", "a.img")
    await_slots(cluster, {"slot01": name})
    with (folder_of(cluster, "n1") / "a.img").open("r+b") as file:
        file.truncate(2 * SIZE)
    for at in ("n1", "n3"):
        until(lambda at=at: disk(cluster, name, at).stat().st_size == 2 * SIZE, "it has grown", SHOWN_WITHIN_S)


def test_another_file_replaces_an_image(cluster: LocalCluster, tmp_path: Path) -> None:
    name = drop(cluster, "n1", "a.img", b"old")
    await_slots(cluster, {"slot01": name})
    new = tmp_path / "new.img"
    new.write_bytes(b"new".ljust(SIZE, b"\0"))
    new.rename(folder_of(cluster, "n1") / "a.img")
    until(lambda: slots(cluster, "n3").get("slot01") not in (None, name), "another disk is there", SHOWN_WITHIN_S)
    assert disk(cluster, slots(cluster, "n3")["slot01"]).read_bytes()[:3] == b"new"
    # A file with the same id at the same path is also another file.
    now = slots(cluster, "n3")["slot01"]
    copy = tmp_path / "copy.img"
    copy.write_bytes(b"copy".ljust(SIZE, b"\0"))
    os.setxattr(copy, "user.meshfs.id", now.encode())
    copy.rename(folder_of(cluster, "n1") / "a.img")
    until(lambda: _starts(disk(cluster, now), b"copy"), "the copy is served", SHOWN_WITHIN_S)


def _starts(path: Path, data: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(data)) == data
    except OSError:
        return False


def test_too_many_empty_and_copied_images_are_named_with_their_reasons(cluster: LocalCluster) -> None:
    names = [drop(cluster, "n1", f"0{slot}.img") for slot in range(1, 5)]
    await_slots(cluster, {f"slot0{slot}": name for slot, name in enumerate(names, 1)})
    folder = folder_of(cluster, "n1")
    (folder / "empty.img").touch()
    shutil.copy(folder / "01.img", folder / "fifth.img")
    shutil.copy2(folder / "02.img", folder / "zz-copy.img")
    os.setxattr(folder / "zz-copy.img", "user.meshfs.id", names[1].encode())
    (folder / ".hidden").write_bytes(b"x")
    expected = {
        "empty.img": "it is empty",
        "fifth.img": "all 4 slots of enclosure shelf are occupied",
        "zz-copy.img": f"{folder}/02.img has the same id; if this is a copy, give it an own id with"
        " `setfattr -x user.meshfs.id`",
    }
    until(lambda: refused(cluster) == expected, "meshctl names the reasons", SHOWN_WITHIN_S + 3)
    await_slots(cluster, {f"slot0{slot}": name for slot, name in enumerate(names, 1)})
    (folder / "03.img").unlink()
    until(lambda: "slot03" in slots(cluster, "n3") and slots(cluster, "n3")["slot03"] != names[2], "fifth", 3)


def test_slots_ids_and_the_folders_name_last_over_a_restart_and_a_reload(cluster: LocalCluster) -> None:
    names = [drop(cluster, "n1", name) for name in ("a.img", "b.img", "c.img")]
    await_slots(cluster, dict(zip(("slot01", "slot02", "slot03"), names, strict=True)))
    folder = folder_of(cluster, "n1")
    (folder / "a.img").unlink()
    await_slots(cluster, {"slot02": names[1], "slot03": names[2]})
    cluster.stop_exporter("n1")
    cluster.start_exporter("n1")
    until(lambda: slots(cluster, "n3") == {"slot02": names[1], "slot03": names[2]}, "the slots are the same", 10)
    moved = folder.with_name("moved")
    folder.rename(moved)
    await_slots(cluster, {})
    cluster.nodes["n1"].folders[0] = LocalFolder("shelf", moved, {"slots": 8})
    cluster.write()
    cluster.exporters["n1"].process.send_signal(signal.SIGHUP)
    until(lambda: slots(cluster, "n3") == {"slot02": names[1], "slot03": names[2]}, "the slots are the same", 10)


def test_a_hot_plug_costs_nothing_at_other_disks_and_leaves_nothing_behind(cluster: LocalCluster) -> None:
    name = drop(cluster, "n1", "04-steady.img")
    await_slots(cluster, {"slot04": name})
    pid = cluster.control("n1")["pid"]

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    before = descriptors()
    with disk(cluster, name).open("rb", buffering=0) as steady:
        for number in range(10):
            drop(cluster, "n1", f"{number}.img")
            until(lambda: len(slots(cluster, "n3")) == 2, "two disks", SHOWN_WITHIN_S)
            (folder_of(cluster, "n1") / f"{number}.img").unlink()
            until(lambda: len(slots(cluster, "n3")) == 1, "one disk", SHOWN_WITHIN_S)
            assert len(os.pread(steady.fileno(), 4096, 0)) == 4096
    time.sleep(0.5)
    assert descriptors() <= before + 1


def test_a_lamp_that_one_mount_switches_is_seen_on_the_other_and_by_the_owner(cluster: LocalCluster) -> None:
    name = drop(cluster, "n1", "02-a.img")
    await_slots(cluster, {"slot02": name})
    here, there = (cluster.mountpoint(at) / "enclosure/by-node/n1/shelf" for at in ("n3", "n1"))
    pages = unbundle(here.read_bytes())
    configuration = parse_configuration(pages[PageCode.CONFIGURATION])
    status = parse_status(pages[PageCode.STATUS], configuration)
    page = pack_control(configuration, status, {ElementPlace(0, 1): Lamps(locate=True)})
    fd = os.open(here, os.O_WRONLY)
    try:
        assert os.write(fd, page) == len(page)
    finally:
        os.close(fd)
    until(lambda: b"locate" in os.getxattr(there, "user.meshfs.slot.slot02"), "the lamp is on", SHOWN_WITHIN_S)
    assert b"locate" not in os.getxattr(there, "user.meshfs.slot.slot01")
    assert there.read_bytes() == here.read_bytes()


def test_disks_that_are_in_no_folder_are_in_the_bays_of_their_node(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster") as cluster:
        images = tmp_path / "images"
        images.mkdir()
        (images / "02-a.img").write_bytes(bytes(SIZE))
        node = cluster.add_node("n1", [cluster.image("d0", SIZE), cluster.image("d1", SIZE)])
        node.folders.append(LocalFolder("shelf", images, {"slots": 4}))
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        by_enclosure = cluster.mount("n1") / "disk/by-enclosure"
        until(lambda: sorted(os.listdir(by_enclosure)) == ["enc-n1-bays", "enc-n1-shelf"], "two enclosures")
        assert os.listdir(by_enclosure / "enc-n1-shelf") == ["slot02"]
        bays = {bay: os.path.basename(os.readlink(by_enclosure / "enc-n1-bays" / bay)) for bay in ("bay01", "bay02")}
        assert bays == {"bay01": "meshfs-n1-d0", "bay02": "meshfs-n1-d1"}
        attributes = [os.getxattr(by_enclosure / "enc-n1-bays/bay02", f"user.meshfs.{name}") for name in _PLACE]
        assert attributes == [b"enc-n1-bays", b"bay02"]
