"""The merge of the disks that exporters advertise."""

from dataclasses import replace

import pytest

from meshfs import limits
from meshfs.model import DiskState
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.names import is_file_name
from meshlab.fakes.port import fake_disk


def test_a_disk_appears_waits_and_disappears() -> None:
    catalog = Catalog(["n1", "n2"])
    first, second = fake_disk("n1", "a", 10), fake_disk("n1", "b", 20)
    assert dict(catalog.disks) == {}
    catalog.announce("n1", [second, first])
    assert list(catalog.disks) == [first.id, second.id]
    assert catalog.disks[first.id].state == "ok"
    catalog.lost("n1")
    assert list(catalog.disks) == [first.id, second.id]
    assert [disk.state for disk in catalog.disks.values()] == ["absent", "absent"]
    catalog.announce("n1", [second])
    assert list(catalog.disks) == [second.id]
    assert catalog.disks[second.id].present
    catalog.announce("n1", [])
    assert dict(catalog.disks) == {}


def test_a_missing_disk_keeps_what_was_known_of_it() -> None:
    catalog = Catalog(["n1"])
    disk = replace(fake_disk("n1", "a", 10), instance="i", model="m")
    missing = replace(disk, size_bytes=0, instance="", model="", state=DiskState.MISSING, why="No such file")
    catalog.announce("n1", [missing])
    assert catalog.disks[disk.id].info == missing
    catalog.announce("n1", [disk])
    catalog.lost("n1")
    catalog.announce("n1", [missing])
    assert catalog.disks[disk.id].info == replace(disk, state=DiskState.MISSING, why="No such file")
    assert catalog.disks[disk.id].state == "missing"
    catalog.announce("n1", [replace(disk, size_bytes=5)])
    assert catalog.disks[disk.id].info.size_bytes == 5


def test_the_first_owner_of_an_id_keeps_it_until_it_no_longer_announces_it() -> None:
    catalog = Catalog(["n1", "n2"])
    theirs = fake_disk("n2", "a", 10)
    ours = replace(fake_disk("n1", "a", 20), id=theirs.id)
    catalog.announce("n2", [theirs])
    catalog.announce("n1", [ours])
    assert catalog.disks[theirs.id].info == theirs
    assert len(catalog.problems) == 1
    assert "already node n2's" in catalog.problems[0]
    catalog.lost("n2")
    assert catalog.disks[theirs.id].info == theirs
    assert not catalog.disks[theirs.id].present
    catalog.announce("n2", [])
    assert catalog.disks[theirs.id].info == ours
    assert not catalog.problems
    catalog.announce("n2", [theirs])
    assert catalog.disks[theirs.id].info == ours


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "ä" * 128, "\ud800"])
def test_what_cannot_be_a_file_name_is_refused(name: str) -> None:
    assert not is_file_name(name)
    catalog = Catalog(["n1"])
    good = fake_disk("n1", "good", 10)
    catalog.announce("n1", [replace(good, id=name, name="x"), good, replace(good, id="other", name=name)])
    assert list(catalog.disks) == [good.id]
    assert len(catalog.problems) == 2


def test_an_exporter_speaks_for_its_own_disks_only() -> None:
    catalog = Catalog(["n1", "n2"])
    catalog.announce("n1", [fake_disk("n2", "a", 10)])
    assert dict(catalog.disks) == {}
    assert "claims to be node 'n2'" in catalog.problems[0]


def test_doubles_within_one_list_are_refused() -> None:
    catalog = Catalog(["n1"])
    disk = fake_disk("n1", "a", 10)
    catalog.announce("n1", [disk, disk, replace(disk, id="another")])
    assert list(catalog.disks) == [disk.id]
    assert ["announced twice" in catalog.problems[0], "second disk named 'a'" in catalog.problems[1]] == [True] * 2


def test_a_list_without_end_is_cut() -> None:
    catalog = Catalog(["n1"])
    catalog.announce("n1", (fake_disk("n1", f"d{index}", 1) for index in range(limits.DISKS_PER_NODE_MAX + 10)))
    assert len(catalog.disks) == limits.DISKS_PER_NODE_MAX
    assert len(catalog.problems) == 1


def test_of_many_wrong_disks_some_are_named_and_the_others_counted() -> None:
    """If each disk had a line of the status and of the log, an exporter could fill both."""
    catalog = Catalog(["n1"])
    catalog.announce("n1", [fake_disk("n1", f"d{index}/", 1) for index in range(1000)])
    assert len(catalog.problems) == limits.DISK_PROBLEMS_PER_NODE_MAX + 1
    assert "meshfs-n1-d15/' cannot be a file name" in catalog.problems[15]
    assert catalog.problems[-1] == f"node n1: {1000 - limits.DISK_PROBLEMS_PER_NODE_MAX} more of its disks are refused"
