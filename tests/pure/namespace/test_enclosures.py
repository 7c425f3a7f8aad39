"""The merge of the enclosures that exporters advertise, and the slots of disks."""

from dataclasses import replace

import pytest

from meshfs import limits
from meshfs.enclosure_info import EnclosureState, SlotInfo
from meshfs.model import DiskInfo
from meshfs.namespace.catalog import CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure, EnclosureCatalog
from meshfs.namespace.slots import slots_of
from meshlab.fakes.enclosure_port import fake_enclosure
from meshlab.fakes.port import fake_disk


def test_an_enclosure_appears_is_absent_and_disappears() -> None:
    catalog = EnclosureCatalog(["n1", "n2"])
    shelf = replace(fake_enclosure("n1", "shelf"), state=EnclosureState.FAULT)
    catalog.announce("n1", [shelf])
    assert [(each.info, each.state) for each in catalog.enclosures.values()] == [(shelf, "fault")]
    catalog.lost("n1")
    assert [(each.info, each.state) for each in catalog.enclosures.values()] == [(shelf, "absent")]
    catalog.announce("n1", [])
    assert dict(catalog.enclosures) == {}
    assert catalog.problems == ()


def test_two_nodes_that_reach_one_enclosure_are_reported() -> None:
    catalog = EnclosureCatalog(["n1", "n2"])
    ours = fake_enclosure("n1", "shelf")
    theirs = replace(fake_enclosure("n2", "shelf"), id=ours.id)
    catalog.announce("n2", [theirs])
    catalog.announce("n1", [ours])
    assert catalog.enclosures[ours.id].info == theirs
    assert catalog.problems == ("enclosure id 'enc-n1-shelf' of node n1 is already node n2's",)
    catalog.announce("n2", [])
    assert catalog.enclosures[ours.id].info == ours
    assert catalog.problems == ()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b", "x" * 256, "\ud800"])
def test_names_that_cannot_be_file_names_are_refused(name: str) -> None:
    catalog = EnclosureCatalog(["n1"])
    good = fake_enclosure("n1", "good", slots=(SlotInfo(name), SlotInfo("1"), SlotInfo("1", text="again")))
    catalog.announce("n1", [replace(good, id=name, name="x"), good, replace(good, id="other", name=name)])
    assert [each.info.slots for each in catalog.enclosures.values()] == [(SlotInfo("1"),)]
    assert len(catalog.problems) == 4
    assert f"enclosure 'enc-n1-good': the name {name!r} of a slot cannot be a file name" in catalog.problems[1]
    assert "a second slot named '1'" in catalog.problems[2]


def test_lists_without_end_are_cut() -> None:
    catalog = EnclosureCatalog(["n1"])
    slots = tuple(SlotInfo(str(number)) for number in range(limits.SLOTS_PER_ENCLOSURE_MAX + 1))
    count = limits.ENCLOSURES_PER_NODE_MAX + 1
    catalog.announce("n1", (fake_enclosure("n1", f"e{number:03}", slots=slots) for number in range(count)))
    assert len(catalog.enclosures) == limits.ENCLOSURES_PER_NODE_MAX
    assert {len(each.info.slots) for each in catalog.enclosures.values()} == {limits.SLOTS_PER_ENCLOSURE_MAX}
    assert len(catalog.problems) == limits.DISK_PROBLEMS_PER_NODE_MAX + 1
    assert catalog.problems[-1].endswith("more of its enclosures are refused")


def in_slot(node: str, name: str, slot: str, *, present: bool = True) -> CatalogDisk:
    info: DiskInfo = replace(fake_disk(node, name, 10), enclosure="enc", slot=slot)
    return CatalogDisk(info, present)


def by_id(*disks: CatalogDisk) -> dict[str, CatalogDisk]:
    return {disk.info.id: disk for disk in disks}


def test_a_slot_that_two_disks_claim_has_one_of_them_and_is_reported() -> None:
    disks = by_id(in_slot("n1", "a", "1"), in_slot("n1", "b", "1"), in_slot("n1", "c", "2"))
    slots = slots_of(disks, {})
    assert slots.disks == {"enc": {"1": "meshfs-n1-a", "2": "meshfs-n1-c"}}
    assert slots.problems == ("slot enc/1: disk 'meshfs-n1-a' and disk 'meshfs-n1-b' both claim it",)


def test_the_owner_of_an_enclosure_knows_its_slots_best() -> None:
    """A node cannot put its own disk under the name of another node's slot."""
    enclosure = replace(fake_enclosure("n2", "e"), id="enc")
    disks = by_id(in_slot("n1", "a", "1"), in_slot("n2", "b", "1"), in_slot("n1", "c", "2"))
    slots = slots_of(disks, {"enc": CatalogEnclosure(enclosure, True)})
    assert slots.disks == {"enc": {"1": "meshfs-n2-b", "2": "meshfs-n1-c"}}
    assert len(slots.problems) == 1


def test_a_disk_that_is_there_goes_before_one_that_was() -> None:
    slots = slots_of(by_id(in_slot("n1", "a", "1", present=False), in_slot("n1", "b", "1")), {})
    assert slots.disks == {"enc": {"1": "meshfs-n1-b"}}
    assert slots.problems == ()


def test_an_enclosure_with_too_many_slots_loses_the_rest() -> None:
    disks = by_id(*(in_slot("n1", f"d{number:03}", str(number)) for number in range(600)))
    slots = slots_of(disks, {})
    assert len(slots.disks["enc"]) == limits.SLOTS_PER_ENCLOSURE_MAX
    assert len(slots.problems) == limits.DISK_PROBLEMS_PER_NODE_MAX + 1
