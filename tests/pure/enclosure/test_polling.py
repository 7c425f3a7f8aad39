"""A poll of a SES device costs one command while little changes, and sees all that a reading sees."""

import errno
from pathlib import Path

import pytest

from meshfs import limits
from meshfs.enclosure.base import Enclosure
from meshfs.enclosure.ses_device import SesDevice
from meshfs.enclosure_info import EnclosureState
from meshfs.ses.configuration import Configuration, ElementPlace
from meshfs.ses.status import Element, pack_status
from support.fake_ses import CONFIGURATION, LOGICAL_ID, SLOT_0, SLOT_1, FakeSes, elements, pages_of

ALL = [0x00, 0x01, 0x02, 0x07, 0x0A]
STATUS = [0x02]


class Polled:
    """Polls a fake device, under a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.fake = FakeSes()
        self.device = SesDevice("enc-x", Path("/dev/sg3"), LOGICAL_ID, self.fake.open, lambda: self.now)
        self.device.read()
        self.fake.codes_asked()

    def status(self, changes: dict[ElementPlace, bytes], flags: int = 0) -> None:
        raw = elements() | {place: Element(element) for place, element in changes.items()}
        self.fake.pages[0x02] = pack_status(CONFIGURATION, flags, raw)


@pytest.fixture
def polled() -> Polled:
    return Polled()


def test_a_ses_device_is_an_enclosure(polled: Polled) -> None:
    enclosure: Enclosure = polled.device
    assert enclosure.read().info == enclosure.poll().info


def test_nothing_changed_is_the_same_reading_after_one_command(polled: Polled) -> None:
    readings = {id(polled.device.poll()) for _ in range(3)}
    assert len(readings) == 1
    assert polled.fake.codes_asked() == 3 * STATUS


def test_a_lamp_a_fault_and_a_sensor_are_seen_with_one_command(polled: Polled) -> None:
    polled.status({SLOT_1: b"\x01\x00\x02\x20", ElementPlace(1, 0): b"\x02\x00\x47\x00"}, flags=0x02)
    info = polled.device.poll().info
    assert polled.fake.codes_asked() == STATUS
    assert (info.slots[1].locate, info.slots[1].fault, info.slots[0].locate) == (True, True, False)
    assert (info.state, info.why) == (EnclosureState.FAULT, "element 0 of type 03 (Fans) is critical")
    assert info == polled.device.read().info


@pytest.mark.parametrize(
    "element", [b"\x05\0\0\0", b"\x02\0\0\0", b"\x11\0\0\0"], ids=["taken out", "failed", "swapped"]
)
def test_a_disk_that_comes_or_goes_has_all_pages_read(polled: Polled, element: bytes) -> None:
    polled.status({SLOT_0: element})
    polled.device.poll()
    assert polled.fake.codes_asked() == STATUS + ALL
    polled.device.poll()
    assert polled.fake.codes_asked() == STATUS


def test_another_configuration_has_all_pages_read(polled: Polled) -> None:
    later = Configuration(78, CONFIGURATION.subenclosures, CONFIGURATION.types)
    polled.fake.pages = {
        code: page[:4] + b"\0\0\0\x4e" + page[8:] if code else page for code, page in pages_of().items()
    }
    reading = polled.device.poll()
    assert polled.fake.codes_asked() == STATUS + ALL
    assert reading.view is not None
    assert reading.view.configuration == later


@pytest.mark.parametrize("status", [b"", b"\x02\0\0\x04\0\0\0\x4d", b"\x08\0\0\0"])
def test_a_malformed_status_is_refused_as_a_reading_refuses_it(polled: Polled, status: bytes) -> None:
    polled.fake.pages[0x02] = status
    info = polled.device.poll().info
    assert info.state == EnclosureState.REFUSED
    assert info == polled.device.read().info
    polled.fake.pages = pages_of()
    assert polled.device.poll().info.state == EnclosureState.OK


def test_a_malformed_page_of_names_is_not_asked_for_again_at_each_poll(polled: Polled) -> None:
    polled.fake.pages[0x07] = polled.fake.pages[0x07][:20]
    reading = polled.device.read()
    polled.fake.codes_asked()
    assert polled.device.poll() is reading
    assert polled.fake.codes_asked() == STATUS


def test_all_pages_are_read_from_time_to_time(polled: Polled) -> None:
    polled.fake.pages[0x0A] = polled.fake.pages[0x0A][:-1] + b"\x01"
    polled.now = limits.SES_FULL_READING_S - 0.1
    polled.device.poll()
    assert polled.fake.codes_asked() == STATUS
    polled.now = limits.SES_FULL_READING_S
    assert polled.device.poll().content.endswith(b"\x01")
    assert polled.fake.codes_asked() == ALL


def test_a_device_that_came_back_has_all_pages_read(polled: Polled) -> None:
    def gone(command: bytes) -> None:
        raise OSError(errno.ENODEV, "gone")

    polled.fake.before = gone
    with pytest.raises(OSError, match="gone"):
        polled.device.poll()
    polled.fake.before = lambda command: None
    polled.fake.codes_asked()
    polled.device.poll()
    assert polled.fake.codes_asked() == ALL


def test_a_new_remark_is_in_the_next_poll(polled: Polled) -> None:
    polled.device.note = "enc-y has the same logical id"
    info = polled.device.poll().info
    assert (info.state, info.why) == (EnclosureState.OK, "enc-y has the same logical id")
    assert polled.fake.codes_asked() == STATUS
