"""Each page of an enclosure is read as SES-3 lays it out, and every malformed page is refused with a reason."""

import random
import struct

import pytest

from meshfs.errors import EnclosurePageError
from meshfs.ses.additional import SlotDevice, pack_additional, parse_additional
from meshfs.ses.build import Bay, bundle, supported_pages, unbundle, virtual_pages
from meshfs.ses.configuration import (
    Configuration,
    ElementPlace,
    ElementType,
    Subenclosure,
    pack_configuration,
    parse_configuration,
)
from meshfs.ses.page import SLOT_KINDS, ElementKind
from meshfs.ses.slots import EnclosurePages, read_slots, slot_names
from meshfs.ses.status import Element, ElementCode, Lamps, pack_control, pack_status, parse_control, parse_status
from meshfs.ses.texts import pack_texts, parse_texts
from support.damage import damage

BOX = Subenclosure(0, 0x5000_C500_1234_5678, "ACME", "24 bay JBOD", "0100")
SLOTS = ElementType(ElementKind.ARRAY_DEVICE_SLOT, 3, 0, "Slots")
FANS = ElementType(0x03, 2, 0, "Fans")
EXPANDER = ElementType(ElementKind.SAS_EXPANDER, 1, 0, "Expander")
CONFIGURATION = Configuration(77, (BOX,), (FANS, SLOTS, EXPANDER))
SLOT_0, SLOT_1, SLOT_2 = (ElementPlace(1, number) for number in range(3))
ADDRESS = 0x5000_C500_AAAA_0001


def slot_element(code: int = ElementCode.OK, byte_1: int = 0, byte_2: int = 0, byte_3: int = 0) -> Element:
    return Element(bytes((code, byte_1, byte_2, byte_3)))


ELEMENTS = {
    SLOT_0: slot_element(0x40 | ElementCode.OK, byte_2=0x02),
    SLOT_1: slot_element(ElementCode.NOT_INSTALLED),
    SLOT_2: slot_element(ElementCode.CRITICAL, byte_1=0x81, byte_2=0x40, byte_3=0x60),
}
PAGES = EnclosurePages(
    pack_configuration(CONFIGURATION),
    pack_status(CONFIGURATION, 0, ELEMENTS),
    pack_texts(CONFIGURATION, {SLOT_0: "Slot 1", SLOT_2: "Slot 3"}),
    pack_additional(CONFIGURATION, {SLOT_0: SlotDevice(1, (ADDRESS,)), SLOT_1: SlotDevice(2)}),
)


def with_length(page: bytearray) -> bytes:
    page[2:4] = (len(page) - 4).to_bytes(2, "big")
    return bytes(page)


# --- layouts -------------------------------------------------------------------------------


def test_a_configuration_page_has_the_layout_of_ses_3() -> None:
    page = pack_configuration(Configuration(5, (BOX,), (SLOTS,)))
    head = bytes.fromhex("01 00 0035 00000005")
    descriptor = bytes.fromhex("11 00 01 24 5000c50012345678") + b"ACME    24 bay JBOD     0100"
    assert page == head + descriptor + bytes.fromhex("17 03 00 05") + b"Slots"


def test_a_configuration_with_a_secondary_subenclosure_is_read_back() -> None:
    second = Subenclosure(1, 9, "V", "P", "R")
    configuration = Configuration(1, (BOX, second), (SLOTS, ElementType(0x17, 8, 1, "Rear")))
    assert parse_configuration(pack_configuration(configuration)) == configuration


def test_vendor_specific_bytes_behind_an_enclosure_descriptor_are_skipped() -> None:
    page = bytearray(pack_configuration(CONFIGURATION))
    page[11] += 4
    page[48:48] = b"\xff\xfe\x00\x01"
    assert parse_configuration(with_length(page)) == CONFIGURATION


def test_a_status_page_has_an_overall_element_before_those_of_each_type() -> None:
    page = pack_status(CONFIGURATION, 0x02, ELEMENTS)
    fans, slots, expander = 3, 4, 2
    assert len(page) == 8 + 4 * (fans + slots + expander)
    assert page[:8] == bytes.fromhex("02 02 0028 0000004d")
    assert page[8 + 4 * (fans + 1) :][:4] == ELEMENTS[SLOT_0].raw
    assert parse_status(page, CONFIGURATION)[SLOT_2] == ELEMENTS[SLOT_2]


def test_the_state_of_a_slot_is_read_from_its_bits() -> None:
    element = ELEMENTS[SLOT_0]
    assert (element.code, element.predicts_failure, element.identifies) == (ElementCode.OK, True, True)
    assert not element.fault_requested
    element = ELEMENTS[SLOT_2]
    assert (element.fault_sensed, element.fault_requested, element.device_off) == (True, True, False)


def test_texts_of_elements_are_trimmed_and_may_be_missing() -> None:
    texts = parse_texts(pack_texts(CONFIGURATION, {SLOT_0: " bay one\0\0"}), CONFIGURATION)
    assert (texts[SLOT_0], texts[SLOT_1]) == ("bay one", "")


def test_a_sas_address_stands_20_bytes_into_a_descriptor_with_an_element_index() -> None:
    page = pack_additional(CONFIGURATION, {SLOT_0: SlotDevice(1, (ADDRESS,))})
    assert page[8 + 20 : 8 + 28] == ADDRESS.to_bytes(8, "big")
    assert page[8:16] == bytes.fromhex("16 22 00 02 01 00 00 01")
    assert parse_additional(page, CONFIGURATION) == {SLOT_0: SlotDevice(1, (ADDRESS,))}


def test_an_element_index_may_count_the_overall_elements() -> None:
    page = bytearray(pack_additional(CONFIGURATION, {SLOT_0: SlotDevice(1)}))
    page[10], page[11] = 1, 4
    assert parse_additional(bytes(page), CONFIGURATION) == {SLOT_0: SlotDevice(1)}


def test_descriptors_without_an_index_belong_to_slots_and_expanders_in_turn() -> None:
    phy = bytes(12) + ADDRESS.to_bytes(8, "big") + bytes(8)
    descriptor = b"\x06\x1e\x01\x00" + phy
    page = with_length(bytearray(struct.pack(">BBHI", 0x0A, 0, 0, 77) + b"\x06\x02\x00\x00" + descriptor))
    assert parse_additional(page, CONFIGURATION) == {SLOT_0: SlotDevice(), SLOT_1: SlotDevice(None, (ADDRESS,))}


def test_descriptors_that_are_invalid_or_of_another_protocol_are_skipped() -> None:
    head = struct.pack(">BBHI", 0x0A, 0, 0, 77)
    page = with_length(bytearray(head + b"\x96\x06\0\x02\0\0\0\x01" + b"\x15\x06\0\x03\0\0\0\x02"))
    assert parse_additional(page, CONFIGURATION) == {}


def numbered(eiioe: int, *indexes: int) -> bytes:
    """Return an additional status page with a device slot's descriptor for each element index, numbered from 1."""
    content = b"".join(bytes((0x16, 6, eiioe, index, 0, 0, 0, number)) for number, index in enumerate(indexes, start=1))
    return with_length(bytearray(struct.pack(">BBHI", 0x0A, 0, 0, 77) + content))


@pytest.mark.parametrize(
    ("eiioe", "indexes"),
    [
        pytest.param(0, (2, 3, 4), id="all but the overall elements"),
        pytest.param(0, (4, 5, 6), id="also the overall elements, although EIIOE is 0"),
        pytest.param(0, (0, 1, 2), id="only the elements that can have a descriptor"),
        pytest.param(1, (4, 5, 6), id="EIIOE 1"),
        pytest.param(2, (2, 3, 4), id="EIIOE 2"),
        pytest.param(3, (2, 3, 4), id="EIIOE 3"),
    ],
)
def test_an_element_index_counts_what_its_firmware_counts(eiioe: int, indexes: tuple[int, ...]) -> None:
    devices = parse_additional(numbered(eiioe, *indexes), CONFIGURATION)
    assert devices == {SLOT_0: SlotDevice(1), SLOT_1: SlotDevice(2), SLOT_2: SlotDevice(3)}


@pytest.mark.parametrize(
    ("eiioe", "indexes", "reason"),
    [
        (1, (2, 3, 4), "a descriptor of a slot names element 2, which is no slot"),
        (2, (4, 5, 6), "names element 5, which is no slot"),
        (0, (2, 2), "two descriptors name element 2"),
        (0, (1, 8), "names element 1, which is no slot"),
    ],
)
def test_an_element_index_that_fits_in_no_numbering_is_refused(
    eiioe: int, indexes: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(EnclosurePageError, match=reason):
        parse_additional(numbered(eiioe, *indexes), CONFIGURATION)


def test_the_descriptor_of_an_element_that_the_index_cannot_count_is_skipped() -> None:
    assert parse_additional(numbered(0, 2, 255, 255), CONFIGURATION) == {SLOT_0: SlotDevice(1)}


def test_an_nvme_disk_is_named_by_its_serial_number_and_a_fibre_channel_disk_only_by_its_slot() -> None:
    nvme = b"\x1b\x46\0\x02\x01\x20\0\x07" + bytes(4) + b"S123".ljust(20) + b"Model X".ljust(40)
    fcp = b"\x10\x0e\0\x03\0\0\0\x08" + bytes(8)
    page = with_length(bytearray(struct.pack(">BBHI", 0x0A, 0, 0, 77) + nvme + fcp))
    assert parse_additional(page, CONFIGURATION) == {
        SLOT_0: SlotDevice(7, serial="S123", model="Model X"),
        SLOT_1: SlotDevice(8),
    }


# --- slots ---------------------------------------------------------------------------------


def test_the_pages_together_describe_the_slots() -> None:
    view = read_slots(PAGES)
    assert (view.configuration, view.problems) == (CONFIGURATION, ())
    assert [(slot.name, slot.is_installed, slot.device.sas_addresses) for slot in view.slots] == [
        ("Slot_1", True, (ADDRESS,)),
        ("slot1", False, ()),
        ("Slot_3", True, ()),
    ]


def test_an_enclosure_may_lack_names_and_addresses() -> None:
    view = read_slots(EnclosurePages(PAGES.configuration, PAGES.status))
    assert [slot.name for slot in view.slots] == ["slot0", "slot1", "slot2"]


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["a", "a", "a"], ["a", "a-1", "a-2"]),
        (["", ""], ["slot0", "slot1"]),
        (["slot1", ""], ["slot1", "slot1-1"]),
        (["a-1", "a", "a"], ["a-1", "a", "a-2"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-2-2"]),
        (["../..", "x/y", "\n", "."], ["_..", "x_y", "slot2", "slot3"]),
        (["bay \ufffd9"], ["bay__9"]),
    ],
)
def test_slots_have_safe_names_that_differ(texts: list[str], names: list[str]) -> None:
    assert slot_names(texts) == names


def test_every_name_of_a_slot_can_be_a_file_name() -> None:
    rng = random.Random(12)
    for _ in range(2_000):
        texts = ["".join(map(chr, rng.choices(range(1, 0x3000), k=rng.randrange(255)))) for _ in range(4)]
        for name in slot_names(texts):
            assert 0 < len(name) < 80
            assert name.isascii()
            assert not set(name) & set("/\0\n\t ")
            assert not name.startswith(".")


# --- control -------------------------------------------------------------------------------


def test_a_control_page_selects_only_the_slot_that_changes_and_keeps_its_other_bits() -> None:
    page = pack_control(CONFIGURATION, ELEMENTS | {SLOT_2: ELEMENTS[SLOT_2]}, {SLOT_2: Lamps(locate=True)})
    elements = parse_status(page, CONFIGURATION)
    assert elements[SLOT_2].raw == bytes((0x80, 0x81, 0x42, 0x20))
    assert all(element.raw == bytes(4) for place, element in elements.items() if place != SLOT_2)


def test_a_lamp_is_switched_off_without_the_other() -> None:
    page = pack_control(CONFIGURATION, ELEMENTS, {SLOT_2: Lamps(fault=False)})
    assert parse_status(page, CONFIGURATION)[SLOT_2].raw[2:] == bytes((0x40, 0x00))


def test_the_slot_address_of_a_device_slot_is_not_written_into_the_reserved_byte_of_its_control_element() -> None:
    configuration = Configuration(5, (BOX,), (ElementType(ElementKind.DEVICE_SLOT, 1),))
    place = ElementPlace(0, 0)
    page = pack_control(configuration, {place: slot_element(byte_1=0x07)}, {place: Lamps(locate=True)})
    assert page[12:] == bytes.fromhex("80 00 02 00")


def test_a_control_page_is_carried_out_for_its_selected_slots_alone() -> None:
    page = pack_control(CONFIGURATION, ELEMENTS, {SLOT_1: Lamps(locate=True), SLOT_2: Lamps(fault=True)})
    assert list(parse_control(page, CONFIGURATION)) == [
        (SLOT_1, Lamps(locate=True, fault=False)),
        (SLOT_2, Lamps(locate=False, fault=True)),
    ]


def test_a_selected_overall_element_stands_for_all_slots_of_its_type() -> None:
    page = pack_status(CONFIGURATION, 0, {ElementPlace(1, -1): slot_element(0x80, byte_2=0x02)})
    assert [place for place, _ in parse_control(page, CONFIGURATION)] == [SLOT_0, SLOT_1, SLOT_2]


def test_a_selected_fan_changes_nothing_as_only_slots_have_lamps() -> None:
    page = pack_status(CONFIGURATION, 0, {ElementPlace(0, 0): slot_element(0x80, byte_2=0x02)})
    assert list(parse_control(page, CONFIGURATION)) == []


@pytest.mark.parametrize("change", [-8, -4, -1, 1, 4])
def test_a_control_page_of_another_length_is_refused_as_a_whole(change: int) -> None:
    page = bytearray(pack_control(CONFIGURATION, ELEMENTS, {SLOT_0: Lamps(locate=True)}))
    page = page[:change] if change < 0 else page + bytes(change)
    with pytest.raises(EnclosurePageError):
        parse_control(with_length(page), CONFIGURATION)
    with pytest.raises(EnclosurePageError):
        parse_control(bytes(page), CONFIGURATION)


def test_a_control_page_of_another_generation_is_refused() -> None:
    older = Configuration(76, CONFIGURATION.subenclosures, CONFIGURATION.types)
    with pytest.raises(EnclosurePageError, match="generation 76, but the configuration has 77"):
        parse_control(pack_control(older, ELEMENTS, {SLOT_0: Lamps(locate=True)}), CONFIGURATION)


# --- malformed pages -----------------------------------------------------------------------


def parse_all(configuration: bytes, status: bytes, texts: bytes, additional: bytes) -> None:
    """Parse all pages. Raises EnclosurePageError if one is malformed, also if the slots are known without it."""
    view = read_slots(EnclosurePages(configuration, status, texts, additional))
    assert len(view.slots) == sum(each.count for each in view.configuration.types if each.kind in SLOT_KINDS)
    if view.problems:
        raise EnclosurePageError(view.problems[0])


WHOLE = [PAGES.configuration, PAGES.status, PAGES.texts, PAGES.additional]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("mended", [False, True], ids=["as it was cut", "with a length that fits"])
def test_a_page_that_is_cut_at_any_byte_is_refused(number: int, mended: bool) -> None:
    whole = WHOLE[number]
    for end in range(len(whole)):
        cut = bytearray(whole[:end])
        if mended and end >= 8:
            cut[2:4] = (end - 4).to_bytes(2, "big")
        # Without any bytes, the names and the addresses are the pages that an enclosure does not support. Without a
        # descriptor, or behind a whole one, the last page is whole.
        is_whole = (number > 1 and end == 0) or (number == 3 and mended and end in (8, 44))
        pages = [*WHOLE[:number], bytes(cut), *WHOLE[number + 1 :]]
        if is_whole:
            parse_all(*pages)
        else:
            with pytest.raises(EnclosurePageError, match="of the enclosure"):
                parse_all(*pages)


@pytest.mark.parametrize("number", [2, 3])
def test_a_malformed_page_of_names_or_addresses_leaves_the_slots_and_their_lamps_known(number: int) -> None:
    pages = [*WHOLE[:number], WHOLE[number][:-1], *WHOLE[number + 1 :]]
    view = read_slots(EnclosurePages(*pages))
    assert [slot.element.identifies for slot in view.slots] == [True, False, False]
    assert [slot.element.fault_requested for slot in view.slots] == [False, False, True]
    names, addresses = (["slot0", "slot1", "slot2"], (ADDRESS,)) if number == 2 else (["Slot_1", "slot1", "Slot_3"], ())
    assert [slot.name for slot in view.slots] == names
    assert view.slots[0].device.sas_addresses == addresses
    assert [problem[:7] for problem in view.problems] == [f"page {WHOLE[number][0]:02x}"]


def test_a_text_has_no_characters_that_a_terminal_obeys() -> None:
    view = read_slots(EnclosurePages(*WHOLE[:2], pack_texts(CONFIGURATION, {SLOT_0: "a\x1b[2J\nb\x7f"})))
    assert (view.slots[0].text, view.slots[0].name) == ("a\ufffd[2J\ufffdb\ufffd", "a__2J_b")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_page_of_another_generation_is_refused(number: int) -> None:
    page = bytearray(WHOLE[number])
    page[7] ^= 1
    with pytest.raises(EnclosurePageError, match="read all pages again"):
        parse_all(*WHOLE[:number], bytes(page), *WHOLE[number + 1 :])


@pytest.mark.parametrize("number", range(4))
def test_another_page_than_the_one_that_was_asked_for_is_refused(number: int) -> None:
    page = b"\x04" + WHOLE[number][1:]
    with pytest.raises(EnclosurePageError, match="its code is 04"):
        parse_all(*WHOLE[:number], page, *WHOLE[number + 1 :])


def test_a_type_header_of_an_unknown_subenclosure_is_refused() -> None:
    page = pack_configuration(Configuration(1, (BOX,), (SLOTS,)))
    with pytest.raises(EnclosurePageError, match="subenclosure 3"):
        parse_configuration(page[:50] + b"\x03" + page[51:])


def test_an_element_index_behind_the_last_element_is_refused() -> None:
    page = bytearray(pack_additional(CONFIGURATION, {SLOT_0: SlotDevice(1)}))
    page[11] = 9
    with pytest.raises(EnclosurePageError, match="names element 9, but there are 6"):
        parse_additional(bytes(page), CONFIGURATION)


def test_more_descriptors_than_elements_are_refused() -> None:
    head = struct.pack(">BBHI", 0x0A, 0, 0, 77)
    with pytest.raises(EnclosurePageError, match="more descriptors"):
        parse_additional(with_length(bytearray(head + b"\x06\x02\0\0" * 5)), CONFIGURATION)


def test_damaged_pages_raise_nothing_but_a_refusal(fuzz_cases: int) -> None:
    rng = random.Random(2711)
    refused = 0
    for _ in range(fuzz_cases):
        pages = [bytearray(page) for page in WHOLE]
        for _ in range(rng.randrange(1, 4)):
            damage(rng, rng.choice(pages))
        try:
            parse_all(*map(bytes, pages))
            list(parse_control(bytes(pages[1]), CONFIGURATION))
        except EnclosurePageError:
            refused += 1
    assert fuzz_cases * 0.3 < refused < fuzz_cases


# --- virtual enclosures --------------------------------------------------------------------


def bays(count: int) -> list[Bay]:
    return [Bay(f"bay{number}", number % 256, number % 2 == 0, locate=number == 1) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 700])
def test_a_virtual_enclosure_shows_its_bays_as_slots(count: int) -> None:
    slots = read_slots(virtual_pages(BOX, 3, bays(count))).slots
    assert [slot.name for slot in slots] == [bay.name for bay in bays(count)]
    assert [slot.is_installed for slot in slots] == [bay.installed for bay in bays(count)]
    assert [slot.name for slot in slots if slot.element.identifies] == [bay.name for bay in bays(count) if bay.locate]
    assert [slot.device.number for slot in slots[:255]] == list(range(min(count, 255)))


def test_a_failing_bay_makes_the_whole_enclosure_critical() -> None:
    pages = virtual_pages(BOX, 3, [Bay("a", 0, True), Bay("b", 1, True, failing=True)])
    assert pages.status[1] == 0x02
    slots = read_slots(pages).slots
    assert [slot.element.code for slot in slots] == [ElementCode.OK, ElementCode.CRITICAL]


def test_the_content_of_a_device_file_is_the_pages_one_after_the_other() -> None:
    pages = virtual_pages(BOX, 3, bays(3))
    content = bundle(supported_pages(), pages)
    assert unbundle(content) == {
        0x00: bytes.fromhex("00 00 0005 00 01 02 07 0a"),
        0x01: pages.configuration,
        0x02: pages.status,
        0x07: pages.texts,
        0x0A: pages.additional,
    }
    assert 0x0A not in unbundle(content[:-1])
