"""Decide which disk is in which slot of a virtual enclosure. Pure.

The slots are numbered from 1. A disk may ask for a slot by its number: an image asks by the number at the beginning of
its file's name. The rules, in this order:

    a disk whose wish has not changed        keeps its slot
    a disk that asks for a free slot         gets it
    a disk that asks for an occupied slot    gets it if the occupant itself asks for another slot that is free then
                                             (so two images can be swapped by renaming them)
    any other disk                           keeps its slot, or gets the lowest free one
    a disk for which no slot is left         is in no slot

Example: "07-db.img" goes into slot 7. If it is renamed to "03-db.img" while slot 3 is free, it moves to slot 3. If
slot 3 is occupied, it stays in slot 7.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_NUMBER: Final = re.compile(r"0*([0-9]{1,4})(?![0-9])")


@dataclass(frozen=True, slots=True)
class Wish:
    """Holds the slot that a disk asks for, or None if the disk asks for no slot."""

    disk: str
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Says that a disk is in a slot. ``wish`` is the slot that the disk asked for when it got this slot."""

    slot: int
    wish: int | None = None


def number_of(name: str) -> int | None:
    """Return the number at the beginning of a file name, or None if the name begins with anything else."""
    found = _NUMBER.match(name)
    return int(found[1]) if found else None


def slot_name(prefix: str, slot: int) -> str:
    """Return the name of a slot. It does not depend on the number of slots, because a name must stay the same."""
    return f"{prefix}{slot:02}"


def assign(wishes: Sequence[Wish], before: Mapping[str, Place], slots: int) -> dict[str, Place]:
    """Return the place of each disk that is in a slot. ``before`` has the earlier places of disks, by disk."""
    table = _Table(wishes, before, slots)
    for wish in wishes:
        if wish.disk not in table.places or table.places[wish.disk].wish != wish.slot:
            table.grant(wish)
    for wish in wishes:
        table.settle(wish)
    return table.places


class _Table:
    """Holds the places during an assignment."""

    def __init__(self, wishes: Sequence[Wish], before: Mapping[str, Place], slots: int) -> None:
        self._slots = slots
        self.places: dict[str, Place] = {}
        self._occupants: dict[int, Wish] = {}
        for wish in wishes:
            place = before.get(wish.disk)
            if place is not None and place.slot <= slots and place.slot not in self._occupants:
                self._occupants[place.slot] = wish
                self.places[wish.disk] = place

    def grant(self, wish: Wish) -> None:
        """Give the disk the slot that it asks for, if that slot is free or can be made free."""
        if wish.slot is None or not 1 <= wish.slot <= self._slots:
            return
        occupant = self._occupants.get(wish.slot)
        if occupant is None:
            self._put(wish, wish.slot)
        elif occupant is not wish and self._can_leave(occupant, wish):
            mine = self.places.pop(wish.disk, None)
            if mine is not None:
                del self._occupants[mine.slot]
            assert occupant.slot is not None
            self._put(occupant, occupant.slot)
            self._put(wish, wish.slot)

    def settle(self, wish: Wish) -> None:
        """Note the disk's wish, and give the disk the lowest free slot if it is in no slot."""
        place = self.places.get(wish.disk)
        if place is not None:
            self.places[wish.disk] = Place(place.slot, wish.slot)
            return
        free = next((slot for slot in range(1, self._slots + 1) if slot not in self._occupants), None)
        if free is not None:
            self._put(wish, free)

    def _can_leave(self, occupant: Wish, wish: Wish) -> bool:
        """Return whether the occupant asks for a slot that is free as soon as the disk of ``wish`` has moved."""
        if occupant.slot is None or occupant.slot == wish.slot or not 1 <= occupant.slot <= self._slots:
            return False
        holder = self._occupants.get(occupant.slot)
        return holder is None or holder is wish

    def _put(self, wish: Wish, slot: int) -> None:
        place = self.places.get(wish.disk)
        if place is not None and self._occupants.get(place.slot) is wish:
            del self._occupants[place.slot]
        self._occupants[slot] = wish
        self.places[wish.disk] = Place(slot, wish.slot)
