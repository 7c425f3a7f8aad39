"""A SES device for tests: it answers the two diagnostic commands from pages that a test gives it."""

import errno
import struct
from collections.abc import Callable
from pathlib import Path

from meshfs.linux.scsi_generic import CheckCondition, Sense
from meshfs.ses.additional import SlotDevice, pack_additional
from meshfs.ses.build import supported_pages
from meshfs.ses.configuration import Configuration, ElementPlace, ElementType, Subenclosure, pack_configuration
from meshfs.ses.page import ElementKind
from meshfs.ses.status import Element, ElementCode, pack_status
from meshfs.ses.texts import pack_texts

LOGICAL_ID = 0x500E_004A_AAAA_AA1E
BOX = Subenclosure(0, LOGICAL_ID, "ACME", "24 bay JBOD", "0100")
SLOTS = ElementType(ElementKind.ARRAY_DEVICE_SLOT, 4, 0, "Slots")
CONFIGURATION = Configuration(77, (BOX,), (SLOTS, ElementType(0x03, 2, 0, "Fans")))
SLOT_0, SLOT_1, SLOT_2, SLOT_3 = (ElementPlace(0, number) for number in range(4))
TEXTS = {place: f"Slot {place.number + 1:02}" for place in (SLOT_0, SLOT_1, SLOT_2, SLOT_3)}
ADDRESS_0, ADDRESS_1 = 0x5000_C500_AAAA_0001, 0x5000_C500_AAAA_0005
DEVICES = {
    SLOT_0: SlotDevice(1, (ADDRESS_0,)),
    SLOT_1: SlotDevice(2, (ADDRESS_1,)),
    SLOT_2: SlotDevice(3),
    SLOT_3: SlotDevice(4),
}


def elements(**codes: int) -> dict[ElementPlace, Element]:
    """Return the elements of two disks, two empty slots, and two fans. `slot_0=2` gives one another status code."""
    made = {place: Element(bytes((ElementCode.OK, 0, 0, 0))) for place in CONFIGURATION.places()}
    made |= {place: Element(bytes((ElementCode.NOT_INSTALLED, 0, 0, 0))) for place in (SLOT_2, SLOT_3)}
    for name, code in codes.items():
        place = ElementPlace(0 if name.startswith("slot") else 1, int(name[-1]))
        made[place] = Element(bytes((code, 0, 0, 0)))
    return made


def pages_of(configuration: Configuration = CONFIGURATION, flags: int = 0, **codes: int) -> dict[int, bytes]:
    """Return all pages of an enclosure with four slots, the first two with disks."""
    return {
        0x00: supported_pages(),
        0x01: pack_configuration(configuration),
        0x02: pack_status(configuration, flags, elements(**codes)),
        0x07: pack_texts(configuration, TEXTS),
        0x0A: pack_additional(configuration, DEVICES),
    }


def refusal(key: int, code: int = 0, qualifier: int = 0, number: int = errno.EINVAL) -> CheckCondition:
    """Return the error of a device that answers a command with this sense data."""
    sense = Sense(key, code, qualifier)
    error = CheckCondition(number, sense.text)
    error.sense = sense
    return error


class FakeSes:
    """Is a `ScsiPort`.

    pages       what it sends, by page code; a page that is missing is refused
    before      is called before each command is carried out, with its bytes. It may raise the command's error
    sent        the control pages that it got
    """

    def __init__(self, pages: dict[int, bytes] | None = None) -> None:
        self.pages = pages_of() if pages is None else pages
        self.before: Callable[[bytes], None] = lambda command: None
        self.commands: list[bytes] = []
        self.sent: list[bytes] = []
        self.opened = 0
        self.closed = 0

    def open(self, path: Path) -> "FakeSes":
        self.opened += 1
        return self

    def receive(self, command: bytes, most_bytes: int, timeout_s: float) -> bytes:
        operation, flags, code, length = struct.unpack(">BBBHx", command)
        assert (operation, flags) == (0x1C, 0x01)
        assert length == most_bytes
        assert timeout_s > 0
        self._count(command)
        if code not in self.pages:
            raise refusal(0x5, 0x24)
        return self.pages[code][:length]

    def send(self, command: bytes, data: bytes, timeout_s: float) -> None:
        operation, flags, length = struct.unpack(">BBxHx", command)
        assert (operation, flags, length) == (0x1D, 0x10, len(data))
        assert timeout_s > 0
        self._count(command)
        self.sent.append(data)

    def close(self) -> None:
        self.closed += 1

    def _count(self, command: bytes) -> None:
        self.commands.append(command)
        self.before(command)

    def codes_asked(self) -> list[int]:
        """Return the codes of the pages that were asked for since the last call."""
        asked = [command[2] for command in self.commands if command[0] == 0x1C]
        self.commands.clear()
        return asked
