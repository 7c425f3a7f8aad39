"""A SES device gives its pages byte for byte, and takes a control page only for the configuration that it has now."""

from pathlib import Path

from meshfs.enclosure.ses_device import SesDevice, SesReading
from meshfs.enclosure_info import EnclosureKind, EnclosureState, SlotInfo
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import Configuration
from meshfs.ses.status import Lamps, pack_control
from support.fake_ses import (
    CONFIGURATION,
    LOGICAL_ID,
    SLOT_1,
    FakeSes,
    elements,
)

PATH = Path("/dev/sg3")
ID = "enc-0x500e004aaaaaaa1e"
#: The configuration after a part was plugged in.
LATER = Configuration(78, CONFIGURATION.subenclosures, CONFIGURATION.types)
LOCATE = pack_control(CONFIGURATION, elements(), {SLOT_1: Lamps(locate=True)})


def device_of(fake: FakeSes, logical_id: int | None = LOGICAL_ID) -> SesDevice:
    return SesDevice(ID, PATH, logical_id, fake.open)


def names(reading: SesReading) -> list[str]:
    return [slot.name for slot in reading.info.slots]


# --- reading -------------------------------------------------------------------------------


def test_the_content_is_the_pages_byte_for_byte() -> None:
    fake = FakeSes()
    reading = device_of(fake).read()
    assert reading.content == b"".join(fake.pages[code] for code in (0x00, 0x01, 0x02, 0x07, 0x0A))
    assert unbundle(reading.content) == fake.pages


def test_the_properties_say_what_the_pages_mean() -> None:
    info = device_of(FakeSes()).read().info
    assert (info.id, info.name, info.kind, info.state, info.why) == (ID, ID, EnclosureKind.SES, EnclosureState.OK, "")
    assert (info.vendor, info.product, info.revision) == ("ACME", "24 bay JBOD", "0100")
    assert info.slots[1:3] == (
        SlotInfo("Slot_02", "Slot 02", 2, "ok"),
        SlotInfo("Slot_03", "Slot 03", 3, "not-installed"),
    )


def test_each_page_is_asked_for_once_after_its_length_is_known() -> None:
    fake = FakeSes()
    device = device_of(fake)
    for _ in range(2):
        device.read()
        assert fake.codes_asked() == [0x00, 0x01, 0x02, 0x07, 0x0A]
    assert fake.opened == 1
