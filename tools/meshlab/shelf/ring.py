"""The ring in shared memory over which the kernel's target_core_user asks a program (Documentation/target).

    mailbox    4  offset of the ring     8  its size     12  head, which the kernel moves
               64  tail, which the program moves
    entry      0  length, with the operation in its low 3 bits     4  command id     6  flags of the kernel
               7  flags of the program
      asked    8  number of iovecs     24  offset of the CDB     48  iovecs: offset and length, 8 bytes each
      answered 8  SCSI status     12  length of the data     16  sense data

All numbers are in the byte order of the machine, and offsets count from the start of the mapping.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final

from meshlab.shelf.unit import LogicalUnit

_RING_OFFSET: Final = 1
_RING_SIZE: Final = 2
_HEAD: Final = 3
_TAIL: Final = 16
_OPERATION_BITS: Final = 7
_COMMAND: Final = 1
_ENTRY: Final = struct.Struct("@IHBBI12xQ")
_IOVEC: Final = struct.Struct("@QQ")
_IOVECS_AT: Final = 48
_ANSWER: Final = struct.Struct("@B3xI")
_ANSWER_AT: Final = 8
_SENSE_AT: Final = 16
_FLAGS_AT: Final = 7
_LENGTH_IS_GIVEN: Final = 0x02
_CDB_BYTES: Final = 16
_DOORBELL: Final = bytes(4)


class Ring:
    """Answers the commands for one logical unit. ``uio`` is the folder of its device in /sys/class/uio."""

    def __init__(self, uio: Path, unit: LogicalUnit) -> None:
        self.unit = unit
        self.fd = os.open(Path("/dev") / uio.name, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        size = int((uio / "maps/map0/size").read_text(), 16)
        self._map = mmap.mmap(self.fd, size)
        # A program that the caller starts by a fork must not keep the device busy.
        self._map.madvise(mmap.MADV_DONTFORK)
        # A word is read and written as a whole, which copying bytes would not ensure.
        self._words = memoryview(self._map)[: 4 * (_TAIL + 1)].cast("I")

    def answer(self) -> None:
        """Execute all commands in the ring, and ring the kernel's doorbell."""
        try:
            os.read(self.fd, len(_DOORBELL))
        except BlockingIOError:
            return
        offset, size, tail = self._words[_RING_OFFSET], self._words[_RING_SIZE], self._words[_TAIL]
        while tail != self._words[_HEAD]:
            length = self._entry(offset + tail)
            tail = (tail + length) % size
            self._words[_TAIL] = tail
        os.write(self.fd, _DOORBELL)

    def _entry(self, at: int) -> int:
        """Execute the entry at this offset, and return its length."""
        operation, _, _, _, iovecs, cdb_at = _ENTRY.unpack_from(self._map, at)
        if operation & _OPERATION_BITS == _COMMAND:
            spans = [_IOVEC.unpack_from(self._map, at + _IOVECS_AT + _IOVEC.size * each) for each in range(iovecs)]
            answer = self.unit.execute(self._map[cdb_at : cdb_at + _CDB_BYTES], lambda: self._gathered(spans))
            if answer.data:
                self._scatter(spans, answer.data)
                self._map[at + _FLAGS_AT] = _LENGTH_IS_GIVEN
            _ANSWER.pack_into(self._map, at + _ANSWER_AT, answer.status, len(answer.data))
            self._map[at + _SENSE_AT : at + _SENSE_AT + len(answer.sense)] = answer.sense
        return int(operation) & ~_OPERATION_BITS

    def _gathered(self, spans: list[tuple[int, int]]) -> bytes:
        return b"".join(self._map[start : start + length] for start, length in spans)

    def _scatter(self, spans: list[tuple[int, int]], data: bytes) -> None:
        rest = memoryview(data)
        for start, length in spans:
            part, rest = rest[:length], rest[length:]
            self._map[start : start + len(part)] = bytes(part)

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.fd)
