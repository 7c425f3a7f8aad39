"""A disk is in the slot whose page says so. Whatever is uncertain puts a disk into no slot."""

from pathlib import Path

import pytest

from meshfs.enclosure.found import DiskPorts, SlotLink
from meshfs.enclosure.matching import occupants
from meshfs.ses.additional import SlotDevice, pack_additional
from meshfs.ses.configuration import Configuration, ElementPlace, ElementType, Subenclosure, pack_configuration
from meshfs.ses.slots import EnclosurePages, EnclosureView, read_slots
from meshfs.ses.status import pack_status
from meshfs.ses.texts import pack_texts

BOX = Subenclosure(0, 1, "V", "P", "R")
A, B, C = 0x5000_C500_AAAA_0001, 0x5000_C500_BBBB_0001, 0x5000_C500_CCCC_0001


def view_of(
    devices: dict[int, SlotDevice], texts: list[str] | None = None, overall: str = "", fans: int = 0
) -> EnclosureView:
    """Return an enclosure of 4 slots, after a type of ``fans`` fans if there are any."""
    fan_types = (ElementType(0x03, fans),) if fans else ()
    configuration = Configuration(7, (BOX,), (*fan_types, ElementType(0x17, 4)))
    header = len(fan_types)
    names = {ElementPlace(header, number): text for number, text in enumerate(texts or [])}
    return read_slots(
        EnclosurePages(
            pack_configuration(configuration),
            pack_status(configuration, 0, {}),
            pack_texts(configuration, names | {ElementPlace(header, -1): overall}) if texts else b"",
            pack_additional(configuration, {ElementPlace(header, number): each for number, each in devices.items()}),
        )
    )


def disk(name: str, *addresses: int, serial: str = "", model: str = "") -> DiskPorts:
    return DiskPorts(name, Path("/sys/devices") / name, frozenset(addresses), serial, model)


def test_a_disk_is_in_the_slot_that_has_one_of_its_addresses() -> None:
    view = view_of({0: SlotDevice(1, (A,)), 2: SlotDevice(3, (B, C))}, ["a", "b", "c", "d"])
    assert occupants(view, [disk("sda", A, 77), disk("sdb", C), disk("sdc", 99), disk("sdd")]) == {
        "a": ("sda",),
        "c": ("sdb",),
    }


def test_a_disk_with_two_paths_is_in_its_slot_under_both_names() -> None:
    view = view_of({1: SlotDevice(1, (A, B))})
    assert occupants(view, [disk("sdb", B), disk("sda", A)]) == {"slot1": ("sda", "sdb")}


def test_a_disk_that_would_be_in_two_slots_is_in_none() -> None:
    view = view_of({0: SlotDevice(1, (A,)), 1: SlotDevice(2, (A,)), 2: SlotDevice(3, (B,))})
    assert occupants(view, [disk("sda", A), disk("sdb", B)]) == {"slot2": ("sdb",)}


def test_an_nvme_disk_is_recognised_by_its_model_with_its_serial_number() -> None:
    view = view_of({})
    slots = [
        type(slot)(slot.place, slot.name, slot.text, slot.element, SlotDevice(number, serial=serial, model="M"))
        for number, (slot, serial) in enumerate(zip(view.slots, ("S1", "", "S2", "S3"), strict=True))
    ]
    view = EnclosureView(view.configuration, 0, view.elements, view.texts, tuple(slots))
    disks = [disk("nvme0n1", serial="S1", model="M"), disk("nvme1n1", serial="S2", model="X"), disk("sda", model="M")]
    assert occupants(view, disks) == {"slot0": ("nvme0n1",)}


# --- links of the kernel ----------------------------------------------------------------------


def test_a_link_counts_by_the_number_on_the_chassis() -> None:
    view = view_of({number: SlotDevice(number + 1) for number in range(4)}, ["a", "b", "c", "d"])
    links = [SlotLink("wrong", 3, ("sda",)), SlotLink("a", 4, ("sdb",)), SlotLink("b", 9, ("sdc",))]
    assert occupants(view, [], links) == {"c": ("sda",), "d": ("sdb",)}


def test_a_number_that_repeats_counts_for_nothing() -> None:
    view = view_of({number: SlotDevice(0) for number in range(4)}, ["a", "b", "c", "d"])
    links = [SlotLink(name, 0, (f"sd{name}",)) for name in "abcd"]
    assert occupants(view, [], links) == {}
    assert occupants(view, [], [SlotLink("a", 0, ("sda",))]) == {}


def test_an_address_counts_more_than_a_link() -> None:
    view = view_of({0: SlotDevice(1, (A,)), 1: SlotDevice(2)})
    assert occupants(view, [disk("sda", A)], [SlotLink("x", 2, ("sda",))]) == {"slot0": ("sda",)}


@pytest.mark.parametrize(
    ("texts", "folders"),
    [
        (["Slot 1", "Slot 2", "Slot 3", "Slot 4"], ["Slot 1", "Slot 2", "Slot 3", "Slot 4"]),
        (["Bay 1  ", "Bay 1", "x/y", ""], ["Bay 1", "Bay 1-1", "x!y", "3"]),
        (["n" * 80, "n" * 80, "b", "c"], ["n" * 63, "n" * 63 + "-1", "b", "c"]),
        (["Fach S\ufffd\ufffdd", "b", "c", "d"], ["Fach S\udcc3\udcbcd", "b", "c", "d"]),
    ],
)
def test_without_numbers_a_link_counts_by_the_name_of_its_folder(texts: list[str], folders: list[str]) -> None:
    view = view_of({}, [text.replace("\ufffd", "\xff") for text in texts])
    view = EnclosureView(
        view.configuration,
        0,
        view.elements,
        {slot.place: text.strip() for slot, text in zip(view.slots, texts, strict=True)},
        view.slots,
    )
    links = [SlotLink(name, None, (f"sd{number}",)) for number, name in enumerate(folders)]
    expected = {slot.name: (f"sd{number}",) for number, slot in enumerate(view.slots)}
    assert occupants(view, [], links) == expected


def test_the_driver_that_counts_texts_wrongly_is_understood() -> None:
    """The driver takes the overall text of all types but the first as the text of an element."""
    view = view_of({}, ["Slot 1", "Slot 2", "Slot 3", "Slot 4"], overall="Slots", fans=2)
    names = ["Slots", "Slot 1", "Slot 2", "Slot 3"]
    links = [SlotLink(name, None, (f"sd{number}",)) for number, name in enumerate(names)]
    assert occupants(view, [], links) == {f"Slot_{number + 1}": (f"sd{number}",) for number in range(4)}


def test_a_driver_that_counts_rightly_is_understood_too() -> None:
    view = view_of({}, ["Slot 1", "Slot 2", "Slot 3", "Slot 4"], overall="Slots", fans=2)
    links = [SlotLink(f"Slot {number + 1}", None, (f"sd{number}",)) for number in range(4)]
    assert occupants(view, [], links) == {f"Slot_{number + 1}": (f"sd{number}",) for number in range(4)}


def test_names_that_may_mean_two_slots_count_for_nothing() -> None:
    """With the overall text "Slot 4", both ways of counting give the same names in another order."""
    view = view_of({}, ["Slot 1", "Slot 2", "Slot 3", "Slot 4"], overall="Slot 4", fans=2)
    links = [SlotLink(f"Slot {number + 1}", None, (f"sd{number}",)) for number in range(4)]
    assert occupants(view, [], links) == {}


def test_names_that_do_not_follow_from_the_texts_count_for_nothing() -> None:
    view = view_of({}, ["Slot 1", "Slot 2", "Slot 3", "Slot 4"])
    links = [SlotLink("Slot 1", None, ("sda",)), SlotLink("Slot 2", None, ("sdb",))]
    assert occupants(view, [], links) == {}


def test_folders_without_texts_have_positions_as_names() -> None:
    links = [SlotLink(str(number), None, (f"sd{number}",)) for number in range(4)]
    assert occupants(view_of({}), [], links) == {f"slot{number}": (f"sd{number}",) for number in range(4)}
