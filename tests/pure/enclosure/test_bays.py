"""Slots of virtual enclosures: disks keep their slots, names ask for slots, and too many disks are in no slot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.enclosure.bays import Place, Wish, assign, number_of, slot_name


def slots(wishes: list[Wish], before: dict[str, Place], count: int = 4) -> dict[str, int]:
    return {disk: place.slot for disk, place in assign(wishes, before, count).items()}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("07-db.img", 7),
        ("7", 7),
        ("0012_x", 12),
        ("00-x", 0),
        ("db07.img", None),
        ("", None),
        ("-3", None),
        ("20231127-backup.img", None),
        ("٣-x", None),
    ],
)
def test_the_number_at_the_beginning_of_a_name(name: str, number: int | None) -> None:
    assert number_of(name) == number


def test_a_slot_has_the_same_name_however_many_there_are() -> None:
    assert [slot_name("slot", number) for number in (1, 24, 255)] == ["slot01", "slot24", "slot255"]


def test_disks_get_the_slots_that_they_ask_for_and_the_others_the_lowest_free_ones() -> None:
    assert slots([Wish("a"), Wish("b", 1), Wish("c"), Wish("d", 3)], {}) == {"b": 1, "a": 2, "d": 3, "c": 4}


def test_disks_keep_their_slots_when_others_leave() -> None:
    before = assign([Wish("a"), Wish("b"), Wish("c")], {}, 4)
    assert slots([Wish("b"), Wish("c"), Wish("d")], before) == {"b": 2, "c": 3, "d": 1}


def test_a_disk_whose_wish_was_not_granted_stays_when_the_slot_becomes_free() -> None:
    before = assign([Wish("a", 3), Wish("b", 3)], {}, 4)
    assert {disk: place.slot for disk, place in before.items()} == {"a": 3, "b": 1}
    assert slots([Wish("b", 3)], before) == {"b": 1}


def test_another_name_moves_a_disk_to_a_free_slot_only() -> None:
    before = assign([Wish("a", 3), Wish("b", 4)], {}, 4)
    assert slots([Wish("a", 2), Wish("b", 4)], before) == {"a": 2, "b": 4}
    assert slots([Wish("a", 4), Wish("b", 4)], before) == {"a": 3, "b": 4}
    assert slots([Wish("a"), Wish("b", 4)], before) == {"a": 3, "b": 4}
    assert slots([Wish("a", 9), Wish("b", 4)], before) == {"a": 3, "b": 4}


def test_two_disks_are_swapped_by_three_renames() -> None:
    places = assign([Wish("a", 3), Wish("b", 4)], {}, 4)
    for wishes in (
        [Wish("a"), Wish("b", 4)],
        [Wish("a"), Wish("b", 3)],
        [Wish("a", 4), Wish("b", 3)],
    ):
        places = assign(wishes, places, 4)
    assert {disk: place.slot for disk, place in places.items()} == {"a": 4, "b": 3}


def test_two_disks_are_swapped_at_once() -> None:
    before = assign([Wish("a", 3), Wish("b", 4)], {}, 4)
    assert slots([Wish("a", 4), Wish("b", 3)], before) == {"a": 4, "b": 3}


def test_disks_without_a_slot_are_left_out() -> None:
    before = assign([Wish("a"), Wish("b")], {}, 2)
    assert slots([Wish("0"), Wish("a"), Wish("b")], before, 2) == {"a": 1, "b": 2}
    assert slots([Wish("a"), Wish("b")], before, 1) == {"a": 1}


_WISHES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(0, 9)), unique_by=lambda each: each[0], max_size=8
)


@given(st.lists(_WISHES, min_size=1, max_size=6), st.integers(1, 6))
def test_every_slot_has_at_most_one_disk_and_no_disk_is_left_out_without_need(
    rounds: list[list[tuple[str, int | None]]], count: int
) -> None:
    before: dict[str, Place] = {}
    for each in rounds:
        wishes = [Wish(disk, slot) for disk, slot in each]
        places = assign(wishes, before, count)
        taken = [place.slot for place in places.values()]
        assert sorted(set(taken)) == sorted(taken)
        assert all(1 <= slot <= count for slot in taken)
        assert len(places) == min(count, len(wishes))
        for wish in wishes:
            if wish.disk in before and before[wish.disk].wish == wish.slot and wish.disk in places:
                moved = places[wish.disk].slot != before[wish.disk].slot
                assert not moved or places[wish.disk].slot == wish.slot
        assert assign(wishes, places, count) == places
        before = places
