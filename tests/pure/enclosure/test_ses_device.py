"""A SES device gives its pages byte for byte, and takes a control page only for the configuration that it has now."""

import errno
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs import limits
from meshfs.enclosure.ses_device import SesDevice, SesReading, read_logical_id
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, EnclosureState, SlotInfo
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import Configuration, ElementPlace, ElementType, Subenclosure, pack_configuration
from meshfs.ses.page import ElementKind
from meshfs.ses.status import Element, Lamps, pack_control, pack_status
from meshfs.ses.texts import pack_texts
from support.damage import damage
from support.fake_ses import BOX, CONFIGURATION, LOGICAL_ID, SLOT_1, FakeSes, elements, pages_of, refusal

PATH = Path("/dev/sg3")
ID = "enc-0x500e004aaaaaaa1e"
#: The configuration after a part was plugged in.
LATER = Configuration(78, CONFIGURATION.subenclosures, CONFIGURATION.types)
LOCATE = pack_control(CONFIGURATION, elements(), {SLOT_1: Lamps(locate=True)})
NAMED = ["Slot_01", "Slot_02", "Slot_03", "Slot_04"]
UNNAMED = ["slot0", "slot1", "slot2", "slot3"]


def device_of(fake: FakeSes, logical_id: int | None = LOGICAL_ID) -> SesDevice:
    return SesDevice(ID, PATH, logical_id, fake.open)


def read(fake: FakeSes) -> EnclosureInfo:
    return device_of(fake).read().info


def names(info: EnclosureInfo) -> list[str]:
    return [slot.name for slot in info.slots]


# --- reading -------------------------------------------------------------------------------


def test_the_content_is_the_pages_byte_for_byte() -> None:
    fake = FakeSes()
    reading = device_of(fake).read()
    assert reading.content == b"".join(fake.pages[code] for code in (0x00, 0x01, 0x02, 0x07, 0x0A))
    assert unbundle(reading.content) == fake.pages
    assert reading.info.size_bytes == len(reading.content)


def test_the_properties_say_what_the_pages_mean() -> None:
    info = read(FakeSes())
    assert (info.id, info.name, info.kind, info.state, info.why) == (ID, ID, EnclosureKind.SES, EnclosureState.OK, "")
    assert (info.vendor, info.product, info.revision) == ("ACME", "24 bay JBOD", "0100")
    assert info.slots[1:3] == (
        SlotInfo("Slot_02", "Slot 02", 2, "ok"),
        SlotInfo("Slot_03", "Slot 03", 3, "not-installed"),
    )


def test_a_page_that_the_device_does_not_list_is_not_asked_for() -> None:
    fake = FakeSes()
    fake.pages[0x00] = bytes.fromhex("00 00 0003 00 01 02")
    info = read(fake)
    assert fake.codes_asked() == [0x00, 0x01, 0x02]
    assert (info.state, names(info)) == (EnclosureState.OK, UNNAMED)


def test_each_page_costs_one_command_after_its_length_is_known() -> None:
    fake = FakeSes()
    device = device_of(fake)
    for _ in range(2):
        device.read()
        assert fake.codes_asked() == [0x00, 0x01, 0x02, 0x07, 0x0A]
    assert fake.opened == 1
    assert device.read().content == device_of(fake).read().content


def test_a_page_that_grew_is_asked_for_again_with_its_own_length() -> None:
    fake = FakeSes()
    device = device_of(fake)
    device.read()
    fake.pages = pages_of(Configuration(78, (BOX,), (ElementType(0x17, 200, 0, "Slots" * 20),)))
    fake.pages[0x02] = pack_status(Configuration(78, (BOX,), (ElementType(0x17, 200),)), 0, {})
    fake.codes_asked()
    reading = device.read()
    assert len(reading.info.slots) == 200
    assert fake.codes_asked()[:6] == [0x00, 0x01, 0x01, 0x02, 0x02, 0x07]
    assert unbundle(reading.content)[0x02] == fake.pages[0x02]


def test_a_page_longer_than_the_first_allocation_is_read_whole() -> None:
    fake = FakeSes()
    configuration = Configuration(77, (BOX,), tuple(ElementType(0x17, 255) for _ in range(5)))
    fake.pages = pages_of(configuration)
    fake.pages[0x02] = pack_status(configuration, 0, {})
    reading = device_of(fake).read()
    assert unbundle(reading.content)[0x02] == fake.pages[0x02]
    assert len(reading.info.slots) == limits.SLOTS_PER_ENCLOSURE_MAX
    assert "it has 1275 slots, of which only the first 512 are shown" in reading.info.why


def test_short_data_are_asked_for_again() -> None:
    fake = FakeSes()
    counts = {0x01: 1, 0x02: 2, 0x07: 3}
    whole = dict(fake.pages)

    def shorten(command: bytes) -> None:
        code = command[2]
        left = counts.get(code, 0)
        counts[code] = left - 1
        fake.pages[code] = whole[code][: (0, 3, 20)[left - 1]] if left > 0 else whole[code]

    fake.before = shorten
    assert device_of(fake).read().content == b"".join(whole.values())


def test_a_page_that_stays_shorter_than_it_says_is_left_out_of_the_content() -> None:
    fake = FakeSes()
    fake.pages[0x07] = fake.pages[0x07][:-3]
    reading = device_of(fake).read()
    assert sorted(unbundle(reading.content)) == [0x00, 0x01, 0x02, 0x0A]
    size = len(fake.pages[0x07])
    assert reading.info.why == (
        f"page 07 of the enclosure is malformed: its length field says {size + 3} bytes,"
        f" but the device sends only {size}"
    )


# --- one configuration ----------------------------------------------------------------------


@pytest.mark.parametrize("changed_before", [0x02, 0x07, 0x0A])
def test_a_configuration_that_changes_between_two_pages_is_read_again(changed_before: int) -> None:
    fake = FakeSes()

    def change(command: bytes) -> None:
        if command[2] == changed_before:
            fake.pages = pages_of(LATER) | generation(78)
            fake.before = lambda command: None

    fake.before = change
    reading = device_of(fake).read()
    assert {page[4:8] for code, page in unbundle(reading.content).items() if code} == {bytes.fromhex("0000004e")}
    assert (reading.info.state, names(reading.info)) == (EnclosureState.OK, NAMED)


def generation(number: int, pages: dict[int, bytes] | None = None) -> dict[int, bytes]:
    """Return all pages with another generation."""
    pages = pages_of() if pages is None else pages
    return {code: page[:4] + number.to_bytes(4, "big") + page[8:] if code else page for code, page in pages.items()}


def test_a_configuration_that_never_stays_the_same_is_reported_after_a_few_readings() -> None:
    fake = FakeSes()
    counter = itertools.count(100)

    def change(command: bytes) -> None:
        fake.pages = generation(next(counter))

    fake.before = change
    info = read(fake)
    assert info.state == EnclosureState.REFUSED
    assert "it changed meanwhile" in info.why
    assert len(fake.commands) == 5 * limits.SES_READINGS_MAX


def test_names_of_another_generation_leave_the_slots_known() -> None:
    fake = FakeSes()
    fake.pages[0x07] = generation(5)[0x07]
    info = read(fake)
    assert (info.state, names(info)) == (EnclosureState.REFUSED, UNNAMED)
    assert info.why.startswith("page 07 of the enclosure has generation 5")


# --- malformed pages ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x07, 0x0A])
@pytest.mark.parametrize("mended", [False, True], ids=["as it was cut", "with a length that fits"])
def test_names_or_addresses_cut_at_any_byte_leave_lamps_and_states_known(code: int, mended: bool) -> None:
    whole = pages_of()[code]
    for end in range(len(whole)):
        cut = whole[:2] + (end - 4).to_bytes(2, "big") + whole[4:end] if mended and end >= 8 else whole[:end]
        fake = FakeSes(pages_of(slot_0=2) | {code: cut})
        info = read(fake)
        assert [slot.status for slot in info.slots] == ["critical", "ok", "not-installed", "not-installed"]
        assert names(info) == (UNNAMED if code == 0x07 else NAMED)
        if info.state == EnclosureState.FAULT:
            assert (code, mended) == (0x0A, True)
        else:
            assert info.state == EnclosureState.REFUSED
            assert info.why.startswith(f"page {code:02x} of the enclosure is malformed")
            assert "slot Slot_01 is critical" in info.why or code == 0x07
        device = device_of(fake)
        device.control(LOCATE)
        assert fake.sent == [LOCATE]


@pytest.mark.parametrize("code", [0x01, 0x02])
def test_a_configuration_or_status_cut_at_any_byte_is_refused_with_the_reason(code: int) -> None:
    whole = pages_of()[code]
    for end in range(len(whole)):
        info = read(FakeSes(pages_of() | {code: whole[:end]}))
        assert (info.state, info.slots) == (EnclosureState.REFUSED, ())
        assert f"page {code:02x} of the enclosure is malformed" in info.why
        assert info.product == ("24 bay JBOD" if code == 0x02 else "")


def test_a_list_of_pages_that_is_malformed_hides_no_page() -> None:
    for end in range(len(pages_of()[0x00])):
        fake = FakeSes(pages_of() | {0x00: pages_of()[0x00][:end]})
        info = read(fake)
        assert (info.state, names(info)) == (EnclosureState.REFUSED, NAMED)
        assert info.why.startswith("page 00 of the enclosure is malformed")


def test_another_page_than_the_one_asked_for_is_refused() -> None:
    info = read(FakeSes(pages_of() | {0x0A: bytes.fromhex("08 00 0000")}))
    assert (info.state, names(info)) == (EnclosureState.REFUSED, NAMED)
    assert info.why == "page 0a of the enclosure is malformed: the device sends page 08 instead"


def test_a_device_without_a_status_page_says_so() -> None:
    fake = FakeSes(pages_of() | {0x00: bytes.fromhex("00 00 0002 00 01")})
    info = read(fake)
    assert (info.state, info.why) == (EnclosureState.REFUSED, "the enclosure does not support page 02")


@pytest.mark.parametrize("code", [0x00, 0x07, 0x0A])
def test_a_page_that_the_device_lists_and_refuses_hides_no_slot(code: int) -> None:
    fake = FakeSes()
    del fake.pages[code]
    info = read(fake)
    assert (info.state, len(info.slots)) == (EnclosureState.REFUSED, 4)
    assert info.why == (
        f"the enclosure refuses to send page {code:02x}: the device does not accept a field of the command"
        " (illegal request, 24/00)"
    )


def test_whatever_a_device_sends_a_reading_ends_with_a_reason(fuzz_cases: int) -> None:
    rng = random.Random(1212)
    whole = {code: bytearray(page) for code, page in pages_of(slot_1=2).items()}
    states = dict.fromkeys(EnclosureState, 0)
    errors: set[int | None] = set()
    for _ in range(fuzz_cases):
        pages = dict(whole)
        for code in rng.sample(sorted(pages), rng.randrange(1, 4)):
            pages[code] = bytearray(pages[code])
            damage(rng, pages[code])
        if rng.random() < 0.1:
            pages[rng.choice(sorted(pages))] = bytearray(rng.randbytes(rng.randrange(600)))
        fake = FakeSes({code: bytes(page) for code, page in pages.items()})
        device = device_of(fake, logical_id=None)
        reading: SesReading | None = None
        try:
            reading = device.read()
            device.control(bytes(pages[0x02]))
        except OSError as error:
            errors.add(error.errno)
        if reading is not None:
            states[reading.info.state] += 1
            assert bool(reading.info.why) == (reading.info.state != EnclosureState.OK)
            assert len({slot.name for slot in reading.info.slots}) == len(reading.info.slots)
        assert len(fake.commands) <= limits.SES_READINGS_MAX * 5 * limits.SES_PAGE_TRIES_MAX + 2
    assert errors <= {errno.EBUSY, errno.EINVAL, errno.ESTALE, errno.EIO}
    assert states[EnclosureState.GONE] == 0
    assert all(states[state] >= fuzz_cases // 1000 for state in EnclosureState if state != EnclosureState.GONE)


# --- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "codes", "why"),
    [
        (0x02, {"slot_1": 2}, "slot Slot_02 is critical"),
        (0, {"fan_1": 4}, "element 1 of type 03 (Fans) is unrecoverable"),
        (0x02, {}, "the enclosure reports a critical condition"),
        (0x01, {}, "the enclosure reports an unrecoverable condition"),
        (0, {"slot_0": 2, "slot_3": 2}, "slot Slot_01 is critical; slot Slot_04 is critical"),
    ],
)
def test_a_fault_is_named(flags: int, codes: dict[str, int], why: str) -> None:
    info = read(FakeSes(pages_of(CONFIGURATION, flags, **codes)))
    assert (info.state, info.why) == (EnclosureState.FAULT, why)


def test_many_faults_are_counted_instead_of_listed() -> None:
    info = read(FakeSes(pages_of(slot_0=2, slot_1=2, slot_2=2, slot_3=2, fan_0=2, fan_1=2)))
    assert info.why == (
        "slot Slot_01 is critical; slot Slot_02 is critical; slot Slot_03 is critical; 3 more elements have faults"
    )


def test_an_overall_fault_counts_if_no_element_has_it() -> None:
    raw = elements() | {ElementPlace(1, -1): Element(bytes((2, 0, 0, 0)))}
    info = read(FakeSes(pages_of() | {0x02: pack_status(CONFIGURATION, 0, raw)}))
    assert info.why == "an element of type 03 (Fans) is critical"


@pytest.mark.parametrize("code", [0, 3, 5, 6, 7, 8, 9, 15])
def test_other_states_of_elements_are_no_fault(code: int) -> None:
    info = read(FakeSes(pages_of(slot_0=code)))
    assert info.state == EnclosureState.OK
    assert info.slots[0].status == {
        0: "unsupported", 3: "non-critical", 5: "not-installed", 6: "unknown", 7: "not-available", 8: "no-access",
        9: "reserved-9", 15: "reserved-15",
    }[code]  # fmt: skip


@pytest.mark.parametrize(
    ("byte_2", "byte_3", "lamps"), [(2, 0, (True, False)), (0, 0x20, (False, True)), (0, 0x40, (False, True))]
)
def test_the_lamps_of_a_slot_are_shown(byte_2: int, byte_3: int, lamps: tuple[bool, bool]) -> None:
    raw = elements() | {SLOT_1: Element(bytes((1, 0, byte_2, byte_3)))}
    slot = read(FakeSes(pages_of() | {0x02: pack_status(CONFIGURATION, 0, raw)})).slots[1]
    assert (slot.locate, slot.fault) == lamps


# --- devices that do not answer --------------------------------------------------------------


def fails(errors: list[OSError]) -> Callable[[bytes], None]:
    """Return a hook that fails the next commands with ``errors``, and then no more."""

    def fail(command: bytes) -> None:
        if errors:
            raise errors.pop(0)

    return fail


def test_a_device_that_announces_events_is_asked_again() -> None:
    fake = FakeSes()
    fake.before = fails([refusal(6, 0x29), refusal(6, 0x3F, 0x0E), refusal(2, 0x04, 0x01), refusal(0xB, 0x47)])
    assert read(fake).state == EnclosureState.OK


def test_a_device_that_announces_events_for_ever_is_given_up() -> None:
    fake = FakeSes()
    fake.before = fails([refusal(6, 0x29, number=errno.EIO)] * 1000)
    with pytest.raises(OSError, match="the device was reset") as caught:
        read(fake)
    assert caught.value.errno == errno.EIO
    assert len(fake.commands) == limits.SES_COMMAND_TRIES_MAX


def test_a_busy_enclosure_is_an_error_that_says_so() -> None:
    with pytest.raises(OSError, match="reports that it is busy") as caught:
        read(FakeSes(pages_of() | {0x02: bytes.fromhex("09 00 0000")}))
    assert caught.value.errno == errno.EBUSY


def test_all_commands_together_are_bounded() -> None:
    now = [0.0]
    fake = FakeSes()

    def pass_time(command: bytes) -> None:
        now[0] += 0.4 * limits.SES_TIMEOUT_S

    fake.before = pass_time
    device = SesDevice(ID, PATH, LOGICAL_ID, fake.open, lambda: now[0])
    with pytest.raises(TimeoutError, match="did not answer all commands within 20 s"):
        device.read()
    assert len(fake.commands) == 3


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENXIO])
def test_a_device_that_went_away_is_opened_again(number: int) -> None:
    fake = FakeSes()
    device = device_of(fake)
    device.read()
    fake.before = fails([OSError(number, "gone")])
    with pytest.raises(OSError, match="gone"):
        device.read()
    assert (fake.opened, fake.closed) == (1, 1)
    assert device.read().info.state == EnclosureState.OK
    assert fake.opened == 2


def test_another_error_keeps_the_device_open() -> None:
    fake = FakeSes()
    device = device_of(fake)
    fake.before = fails([TimeoutError(errno.ETIMEDOUT, "late")])
    with pytest.raises(TimeoutError):
        device.read()
    device.read()
    device.close()
    device.close()
    assert (fake.opened, fake.closed) == (1, 1)


def test_another_enclosure_at_the_same_node_is_not_taken_for_this_one() -> None:
    fake = FakeSes()
    device = device_of(fake, LOGICAL_ID + 1)
    for call in (device.read, lambda: device.control(LOCATE)):
        with pytest.raises(
            OSError, match="another enclosure answers, with the logical id 0x500e004aaaaaaa1e"
        ) as caught:
            call()
        assert caught.value.errno == errno.ENODEV
    assert (fake.sent, fake.opened, fake.closed) == ([], 2, 2)


def test_a_device_without_a_node_says_what_to_do() -> None:
    with pytest.raises(OSError, match="modprobe sg") as caught:
        SesDevice(ID, None).read()
    assert caught.value.errno == errno.ENODEV


# --- control --------------------------------------------------------------------------------


def test_a_control_page_is_sent_as_it_is() -> None:
    fake = FakeSes()
    device_of(fake).control(LOCATE)
    assert fake.sent == [LOCATE]
    assert fake.codes_asked() == [0x01]


@pytest.mark.parametrize(
    "page",
    [
        b"",
        LOCATE[:7],
        LOCATE[:-1],
        LOCATE[:-4],
        LOCATE + b"\0",
        LOCATE + bytes(4),
        b"\x05" + LOCATE[1:],
        LOCATE[:2] + b"\x00\x04" + LOCATE[4:],
        LOCATE[:2] + b"\xff\xff" + LOCATE[4:],
    ],
)
def test_a_malformed_control_page_is_einval_and_sends_nothing(page: bytes) -> None:
    fake = FakeSes()
    with pytest.raises(OSError, match="page 02 of the enclosure is malformed") as caught:
        device_of(fake).control(page)
    assert (caught.value.errno, fake.sent) == (errno.EINVAL, [])


def test_a_control_page_of_another_configuration_is_estale_and_sends_nothing() -> None:
    fake = FakeSes(generation(78))
    with pytest.raises(OSError, match="has generation 77, but the configuration has 78") as caught:
        device_of(fake).control(LOCATE)
    assert (caught.value.errno, fake.sent) == (errno.ESTALE, [])


def test_a_configuration_that_changes_while_a_control_page_is_sent_is_estale() -> None:
    fake = FakeSes()

    def change(command: bytes) -> None:
        if command[0] == 0x1D:
            fake.pages = generation(78)
            raise refusal(5, 0x26)

    fake.before = change
    with pytest.raises(OSError, match="generation 77") as caught:
        device_of(fake).control(LOCATE)
    assert (caught.value.errno, fake.sent) == (errno.ESTALE, [])


def test_a_control_page_that_the_device_refuses_is_einval_with_its_reason() -> None:
    fake = FakeSes()

    def refuse(command: bytes) -> None:
        if command[0] == 0x1D:
            raise refusal(5, 0x26)

    fake.before = refuse
    with pytest.raises(OSError, match="does not accept a field of the page") as caught:
        device_of(fake).control(LOCATE)
    assert caught.value.errno == errno.EINVAL


def test_a_control_page_is_not_sent_if_the_configuration_is_malformed() -> None:
    fake = FakeSes()
    fake.pages[0x01] = fake.pages[0x01][:30]
    with pytest.raises(OSError, match="no control page can be checked: page 01") as caught:
        device_of(fake).control(LOCATE)
    assert (caught.value.errno, fake.sent) == (errno.EIO, [])


# --- large and strange configurations --------------------------------------------------------


def test_slots_of_all_subenclosures_are_shown() -> None:
    second = Subenclosure(1, 9, "V", "P", "R")
    types = (ElementType(0x17, 3, 0), ElementType(0x03, 255, 1), ElementType(ElementKind.DEVICE_SLOT, 255, 1))
    configuration = Configuration(77, (BOX, second), types)
    pages = pages_of(configuration) | {0x02: pack_status(configuration, 0, {}), 0x00: b"\0\0\0\3\0\1\2"}
    reading = device_of(FakeSes(pages)).read()
    assert (reading.info.state, len(reading.info.slots)) == (EnclosureState.OK, 258)


def test_a_configuration_of_more_elements_than_a_status_page_can_have_is_refused() -> None:
    configuration = Configuration(77, (BOX,), tuple(ElementType(0x17, 255) for _ in range(64)))
    pages = pages_of() | {0x01: pack_configuration(configuration)}
    fake = FakeSes(pages)
    info = read(fake)
    assert (info.state, info.slots) == (EnclosureState.REFUSED, ())
    assert "it has 16384 elements, but a status page can have only 16382" in info.why
    with pytest.raises(OSError, match="16384 elements"):
        device_of(fake).control(LOCATE)


def test_long_texts_are_cut_for_the_announcement() -> None:
    raw = elements() | {ElementPlace(1, number): Element(bytes((2, 0, 0, 0))) for number in range(2)}
    texts = {place: "x" * 10_000 for place in CONFIGURATION.places() if place.number >= 0}
    pages = pages_of() | {0x02: pack_status(CONFIGURATION, 0, raw), 0x07: pack_texts(CONFIGURATION, texts)}
    reading = device_of(FakeSes(pages)).read()
    info = reading.info
    assert reading.content == b"".join(pages.values())
    assert (len(info.slots[0].text), len(info.slots[3].name)) == (255, 66)
    assert len(info.why) < 700
    assert info.why.startswith("element 0 of type 03 (Fans), xxxx")


# --- the id ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "logical_id"),
    [
        (pages_of()[0x01], LOGICAL_ID),
        (pack_configuration(Configuration(1, (Subenclosure(0, 0, "", "", ""),), ())), None),
        (pages_of()[0x01][:20], None),
        (None, None),
    ],
)
def test_the_logical_id_is_read_from_the_configuration(page: bytes | None, logical_id: int | None) -> None:
    fake = FakeSes({} if page is None else {0x01: page})
    assert read_logical_id(PATH, fake.open) == logical_id
    assert fake.closed == 1


def test_a_device_that_does_not_answer_has_no_logical_id_yet() -> None:
    fake = FakeSes()
    fake.before = fails([TimeoutError(errno.ETIMEDOUT, "late")])
    with pytest.raises(TimeoutError):
        read_logical_id(PATH, fake.open)
    assert fake.closed == 1
