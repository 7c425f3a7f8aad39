"""A disk of the shelf, whose blocks are in memory (SBC-3). Pure."""

from collections.abc import Callable
from typing import Final

from meshlab.shelf.unit import (
    ILLEGAL_REQUEST,
    INVALID_FIELD_IN_CDB,
    OUT_OF_RANGE,
    Answer,
    Identity,
    LogicalUnit,
    failed,
)

BLOCK_BYTES: Final = 512
#: The bytes of a CDB with the first block's number, and with the number of blocks, by operation code.
_FIELDS_10: Final = (slice(2, 6), slice(7, 9))
_FIELDS_16: Final = (slice(2, 10), slice(10, 14))
_READS: Final = {0x28: _FIELDS_10, 0x88: _FIELDS_16}
_WRITES: Final = {0x2A: _FIELDS_10, 0x8A: _FIELDS_16}
#: START STOP UNIT, SYNCHRONIZE CACHE (10) and (16) have nothing to do here.
_NOTHING_TO_DO: Final = (0x1B, 0x35, 0x91)
_READ_CAPACITY_10: Final = 0x25
_SERVICE_ACTION_IN_16: Final = 0x9E
_READ_CAPACITY_16: Final = 0x10
_MODE_SENSE_6: Final = 0x1A
_MODE_SENSE_10: Final = 0x5A
_DPO_FUA: Final = 0x10
#: The caching mode page (SBC-3 6.5.5), with the write cache off.
_CACHING: Final = bytes((0x08, 0x12)) + bytes(18)
_ALL_MODE_PAGES: Final = 0x3F


class MemoryDisk(LogicalUnit):
    """Executes the commands of a disk with a size of ``size_bytes``."""

    def __init__(self, identity: Identity, size_bytes: int) -> None:
        super().__init__(identity)
        self.content = bytearray(size_bytes)
        self.commands |= dict.fromkeys(_READS, self._read) | dict.fromkeys(_WRITES, self._write)
        self.commands |= dict.fromkeys(_NOTHING_TO_DO, lambda cdb, sent: Answer())
        self.commands |= {
            _READ_CAPACITY_10: self._read_capacity_10,
            _SERVICE_ACTION_IN_16: self._read_capacity_16,
            _MODE_SENSE_6: self._mode_sense_6,
            _MODE_SENSE_10: self._mode_sense_10,
        }

    @property
    def blocks(self) -> int:
        return len(self.content) // BLOCK_BYTES

    def _range(self, cdb: bytes, fields: tuple[slice, slice]) -> slice | None:
        """Return the bytes of the disk that a command is about, or None if they are not on the disk."""
        first, count = (int.from_bytes(cdb[field], "big") for field in fields)
        if first + count > self.blocks:
            return None
        return slice(first * BLOCK_BYTES, (first + count) * BLOCK_BYTES)

    def _read(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        where = self._range(cdb, _READS[cdb[0]])
        return failed(ILLEGAL_REQUEST, OUT_OF_RANGE) if where is None else Answer(bytes(self.content[where]))

    def _write(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        where = self._range(cdb, _WRITES[cdb[0]])
        if where is None:
            return failed(ILLEGAL_REQUEST, OUT_OF_RANGE)
        data = sent()
        if len(data) != where.stop - where.start:
            return failed(ILLEGAL_REQUEST, INVALID_FIELD_IN_CDB)
        self.content[where] = data
        return Answer()

    def _read_capacity_10(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        last = min(self.blocks - 1, 0xFFFF_FFFF)
        return Answer(last.to_bytes(4, "big") + BLOCK_BYTES.to_bytes(4, "big"))

    def _read_capacity_16(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        if cdb[1] & 0x1F != _READ_CAPACITY_16:
            return failed(ILLEGAL_REQUEST, INVALID_FIELD_IN_CDB)
        data = (self.blocks - 1).to_bytes(8, "big") + BLOCK_BYTES.to_bytes(4, "big") + bytes(20)
        return Answer(data[: int.from_bytes(cdb[10:14], "big")])

    def _mode_sense_6(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        pages = _mode_pages(cdb)
        head = bytes((3 + len(pages), 0, _DPO_FUA, 0))
        return Answer((head + pages)[: cdb[4]])

    def _mode_sense_10(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        pages = _mode_pages(cdb)
        head = (6 + len(pages)).to_bytes(2, "big") + bytes((0, _DPO_FUA, 0, 0, 0, 0))
        return Answer((head + pages)[: int.from_bytes(cdb[7:9], "big")])


def _mode_pages(cdb: bytes) -> bytes:
    return _CACHING if cdb[2] & 0x3F in (_CACHING[0], _ALL_MODE_PAGES) else b""
