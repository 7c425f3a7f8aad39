"""Each rule of the selection refuses a disk with its reason, and only a disk that passes all of them is offered."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshfs.disk.discovery.block_device import BlockDevice
from meshfs.disk.discovery.selection import Examined, Pattern, Refusal, Selection, candidates, judge
from meshfs.disk.discovery.signature import MEMBERS, member_of, parse_export

TIB = 1 << 40
DISK = BlockDevice(
    name="sda",
    path=Path("/dev/sda"),
    number="8:0",
    size_bytes=4 * TIB,
    bus="sas",
    model="ST4000NM0085",
    serial="ZC1",
    id="wwn-0x5000c500a1b2c3d4",
    rotational=True,
    removable=False,
    read_only=False,
    place=Path("/sys/devices/x/block/sda"),
)
LOOP = replace(DISK, name="loop0", number="7:0", bus="loop", id="loop-77", path=Path("/dev/loop0"), model="")


def refusal(device: BlockDevice, selection: Selection = Selection(), **listed: str) -> Refusal | None:  # noqa: B008
    numbers = {number.replace("_", ":").removeprefix("n"): name for number, name in listed.items()}
    examine, refused = candidates([device], selection, numbers)
    assert len(examine) + len(refused) == 1
    return refused[0].refusal if refused else None


def test_a_physical_disk_is_a_candidate() -> None:
    assert refusal(DISK) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size_bytes": 0}, Refusal.EMPTY),
        ({"id": ""}, Refusal.NO_ID),
        ({"bus": "loop"}, Refusal.VIRTUAL),
        ({"bus": "dm"}, Refusal.VIRTUAL),
        ({"removable": True}, Refusal.REMOVABLE),
        ({"read_only": True}, Refusal.READ_ONLY),
    ],
)
def test_a_rule_refuses_a_disk(change: dict[str, object], expected: Refusal) -> None:
    assert refusal(replace(DISK, **change)) is expected  # type: ignore[arg-type]


def test_a_listed_disk_is_not_discovered_a_second_time() -> None:
    _, (verdict,) = candidates([DISK], Selection(), {"8:0": "disk0"})
    assert verdict.refusal is Refusal.LISTED
    assert "'disk0'" in verdict.why


def test_two_devices_with_one_id_are_both_refused_and_each_names_the_other() -> None:
    twin = replace(DISK, name="sdb", number="8:16")
    other = replace(DISK, name="sdc", number="8:32", id="wwn-0x1")
    examine, refused = candidates([DISK, twin, other], Selection(), {})
    assert examine == [other]
    assert [(verdict.device.name, verdict.why.partition(" ")[0]) for verdict in refused] == [
        ("sda", "sdb"),
        ("sdb", "sda"),
    ]


def test_a_listed_path_does_not_hide_that_another_path_leads_to_the_same_disk() -> None:
    twin = replace(DISK, name="sdb", number="8:16")
    examine, refused = candidates([DISK, twin], Selection(), {"8:0": "disk0"})
    assert examine == []
    assert [verdict.refusal for verdict in refused] == [Refusal.LISTED, Refusal.SAME_ID]


def test_ids_that_differ_only_in_case_are_the_same_name_in_a_share() -> None:
    twin = replace(DISK, name="sdb", number="8:16", id=DISK.id.upper().replace("WWN", "wwn"))
    examine, refused = candidates([DISK, twin], Selection(), {})
    assert (examine, [verdict.refusal for verdict in refused]) == ([], [Refusal.SAME_ID] * 2)


def test_an_id_that_is_the_name_of_a_listed_disk_is_not_used_twice() -> None:
    _, (verdict,) = candidates([DISK], Selection(), {}, names=[DISK.id.upper()])
    assert verdict.refusal is Refusal.NAME_TAKEN


def test_a_disk_is_not_offered_before_udev_has_finished_with_it() -> None:
    assert refusal(replace(DISK, is_pending=True)) is Refusal.PENDING


def test_a_disk_that_is_served_stays_when_it_becomes_read_only() -> None:
    failing = replace(DISK, read_only=True)
    assert candidates([failing], Selection(), {}, {DISK.id: "8:0"}) == ([failing], [])


def test_a_virtual_disk_without_an_id_is_refused_as_virtual() -> None:
    assert refusal(replace(LOOP, id="")) is Refusal.VIRTUAL


def test_only_patterns_that_may_match_have_a_virtual_device_opened_for_its_id() -> None:
    assert Selection(include=(Pattern(id="loop-7*"),)).may_include(replace(LOOP, id=""))
    assert not Selection(include=(Pattern(bus="sas"),)).may_include(replace(LOOP, id=""))
    assert not Selection().may_include(LOOP)


def test_a_second_path_that_is_excluded_does_not_refuse_the_first() -> None:
    twin = replace(DISK, name="sdb", number="8:16", path=Path("/dev/sdb"))
    examine, refused = candidates([DISK, twin], Selection(exclude=(Pattern(path="/dev/sdb"),)), {})
    assert (examine, [verdict.refusal for verdict in refused]) == ([DISK], [Refusal.EXCLUDED])


def test_a_disk_that_is_served_stays_when_another_device_with_its_id_appears() -> None:
    twin = replace(DISK, name="sdb", number="8:16")
    examine, refused = candidates([DISK, twin], Selection(), {}, {DISK.id: "8:0"})
    assert (examine, [verdict.device for verdict in refused]) == ([DISK], [twin])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Pattern(id="wwn-0x5000c5*"), True),
        (Pattern(id="wwn-0x6*"), False),
        (Pattern(path="/dev/sd*"), True),
        (Pattern(path="/dev/sd"), False),
        (Pattern(model="ST*"), True),
        (Pattern(model="st*"), False),
        (Pattern(bus="sas"), True),
        (Pattern(bus="nvme"), False),
        (Pattern(size_min_bytes=4 * TIB), True),
        (Pattern(size_min_bytes=4 * TIB + 1), False),
        (Pattern(size_max_bytes=4 * TIB), True),
        (Pattern(size_max_bytes=4 * TIB - 1), False),
        (Pattern(model="ST*", bus="nvme"), False),
        (Pattern(), True),
    ],
)
def test_a_pattern_matches_by_all_of_its_fields(pattern: Pattern, expected: bool) -> None:
    assert pattern.matches(DISK) is expected
    assert refusal(DISK, Selection(include=(pattern,))) is (None if expected else Refusal.NOT_INCLUDED)
    assert refusal(DISK, Selection(exclude=(pattern,))) is (Refusal.EXCLUDED if expected else None)


def test_an_excluded_disk_stays_out_although_it_is_included() -> None:
    both = Selection(include=(Pattern(bus="sas"),), exclude=(Pattern(model="ST*"),))
    assert refusal(DISK, both) is Refusal.EXCLUDED


def test_an_included_virtual_disk_is_a_candidate() -> None:
    assert refusal(LOOP, Selection(include=(Pattern(path="/dev/loop*"),))) is None


@pytest.mark.parametrize(
    ("examined", "before", "expected"),
    [
        (Examined(), False, None),
        (Examined(used_by="mounted on /"), False, Refusal.USED),
        (Examined(used_by="mounted on /"), True, Refusal.USED),
        (Examined(member_of="a ZFS pool"), False, Refusal.MEMBER),
        (Examined(member_of="a ZFS pool"), True, None),
        (Examined(unknown="blkid is missing"), False, Refusal.UNKNOWN),
        (Examined(unknown="blkid is missing"), True, Refusal.UNKNOWN),
    ],
)
def test_a_disk_in_use_is_not_offered(examined: Examined, before: bool, expected: Refusal | None) -> None:
    verdict = judge(DISK, examined, offered_before=before)
    assert verdict.refusal is expected
    assert verdict.is_offered is (expected is None)
    assert bool(verdict.why) is not verdict.is_offered


@pytest.mark.parametrize("kind", sorted(MEMBERS))
def test_members_are_known_by_their_signature(kind: str) -> None:
    assert member_of(parse_export(b"DEVNAME=/dev/sda\nTYPE=%s\nUSAGE=raid\n" % kind.encode())) == MEMBERS[kind]


@pytest.mark.parametrize("kind", ["isw_raid_member", "ddf_raid_member"])
def test_members_of_a_firmware_raid_are_known(kind: str) -> None:
    assert member_of({"TYPE": kind}) == "a firmware RAID"


@pytest.mark.parametrize("signature", [{}, {"PTTYPE": "gpt"}, {"TYPE": "ext4"}, {"TYPE": "xfs"}])
def test_a_disk_that_is_no_member_belongs_to_nothing(signature: dict[str, str]) -> None:
    assert member_of(signature) is None


def test_contradicting_signatures_count_as_a_membership() -> None:
    assert "wipefs" in (member_of({"TYPE": "ambivalent"}) or "")
