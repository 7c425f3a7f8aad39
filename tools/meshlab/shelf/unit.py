"""What every logical unit of the shelf does: it executes SCSI commands, and identifies itself (SPC-4). Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SENSE_BYTES: Final = 18
#: Sense keys (SPC-4 table 28).
ILLEGAL_REQUEST: Final = 0x5
UNIT_ATTENTION: Final = 0x6
#: Additional sense codes with their qualifiers (SPC-4 annex D).
INVALID_COMMAND: Final = (0x20, 0x00)
OUT_OF_RANGE: Final = (0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = (0x24, 0x00)
INVALID_FIELD_IN_PARAMETERS: Final = (0x26, 0x00)
CONDITIONS_CHANGED: Final = (0x3F, 0x00)

TEST_UNIT_READY: Final = 0x00
REQUEST_SENSE: Final = 0x03
INQUIRY: Final = 0x12
#: Commands that never report a unit attention.
_WITHOUT_ATTENTION: Final = frozenset((REQUEST_SENSE, INQUIRY))

_CHECK_CONDITION: Final = 0x02
_VERSION_SPC4: Final = 0x06
#: Designators of the VPD page 83 (SPC-4 7.8.6): code set binary, type NAA, and what the NAA identifies.
_BINARY: Final = 0x01
_NAA_OF_UNIT: Final = 0x03
_NAA_OF_PORT: Final = 0x93
_PROTOCOL_SAS: Final = 0x60


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds the end of a command: its data for the initiator, or the sense data of a CHECK CONDITION."""

    data: bytes = b""
    sense: bytes = b""

    @property
    def status(self) -> int:
        return _CHECK_CONDITION if self.sense else 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Says what a logical unit is. ``naa`` and ``sas_address`` have 64 bits: of the unit, and of its port."""

    device_type: int
    vendor: str
    product: str
    revision: str
    serial: str
    naa: int
    sas_address: int
    #: Byte 6 of the standard INQUIRY data. 0x40 says that the unit is in an enclosure, or is one.
    flags: int = 0


#: Executes one command. The second argument returns the data that the initiator sent with the command.
Command = Callable[[bytes, Callable[[], bytes]], Answer]


def failed(key: int, code: tuple[int, int]) -> Answer:
    """Return a CHECK CONDITION with sense data in the fixed format (SPC-4 4.5.3)."""
    return Answer(sense=bytes((0x70, 0, key, 0, 0, 0, 0, SENSE_BYTES - 8, 0, 0, 0, 0, *code, 0, 0, 0, 0)))


class LogicalUnit:
    """Executes commands. A subclass adds its own commands to ``commands``, by operation code."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.commands: dict[int, Command] = {
            TEST_UNIT_READY: lambda cdb, sent: Answer(),
            REQUEST_SENSE: lambda cdb, sent: Answer(failed(0, (0, 0)).sense[: cdb[4]]),
            INQUIRY: self._inquiry,
        }
        #: The unit attentions that the next commands report, one each.
        self.attentions: list[tuple[int, int]] = []
        #: How often each operation code was executed.
        self.executed: dict[int, int] = {}

    def execute(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        """Execute a command. ``sent`` returns the data that came with the command."""
        operation = cdb[0]
        self.executed[operation] = self.executed.get(operation, 0) + 1
        if self.attentions and operation not in _WITHOUT_ATTENTION:
            return failed(UNIT_ATTENTION, self.attentions.pop(0))
        command = self.commands.get(operation)
        return command(cdb, sent) if command else failed(ILLEGAL_REQUEST, INVALID_COMMAND)

    def _inquiry(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        wanted = int.from_bytes(cdb[3:5], "big")
        if not cdb[1] & 1:
            return Answer(self._standard_inquiry()[:wanted])
        page = self._vital_product_data(cdb[2])
        return failed(ILLEGAL_REQUEST, INVALID_FIELD_IN_CDB) if page is None else Answer(page[:wanted])

    def _standard_inquiry(self) -> bytes:
        own = self.identity
        head = bytes((own.device_type, 0, _VERSION_SPC4, 0x02, 31, 0, own.flags, 0x02))
        return head + _text(own.vendor, 8) + _text(own.product, 16) + _text(own.revision, 4)

    def _vital_product_data(self, code: int) -> bytes | None:
        own = self.identity
        pages = {
            0x00: bytes((0x00, 0x80, 0x83)),
            0x80: own.serial.encode(),
            0x83: _designator(_BINARY, _NAA_OF_UNIT, own.naa)
            + _designator(_PROTOCOL_SAS | _BINARY, _NAA_OF_PORT, own.sas_address),
        }
        if code not in pages:
            return None
        return bytes((own.device_type, code)) + len(pages[code]).to_bytes(2, "big") + pages[code]


def _designator(code_set: int, kind: int, naa: int) -> bytes:
    return bytes((code_set, kind, 0, 8)) + naa.to_bytes(8, "big")


def _text(text: str, size: int) -> bytes:
    return text.encode().ljust(size)[:size]
