"""The granules of a disk: the units in which its device or image can discard data. Pure.

A device frees whole granules only. A granule begins at each multiple of its size, plus the offset of the first one
(Documentation/ABI/stable/sysfs-block: discard_granularity, discard_alignment). If a partition begins in the middle of a
granule of its disk, the offset is not 0.

Example: with granules of 64 KiB and an offset of 0, a discard of the bytes from 10 KiB to 200 KiB frees the bytes from
64 KiB to 192 KiB. If the range were cut at 100 KiB, its two pieces would free only one granule. So a long range is
cut where a granule begins (`cut`).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Granules:
    """Describes the granules of a disk. A size of 0 says that the disk cannot discard."""

    size_bytes: int
    offset_bytes: int = 0

    def __bool__(self) -> bool:
        """Return whether the disk can discard."""
        return self.size_bytes > 0

    def whole(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of all granules that lie inside [start, stop). If there are none, the range is empty."""
        first, last = self._up(start), self._down(stop)
        return (first, last) if first < last else (start, start)

    def cut(self, start: int, stop: int, length: int) -> int:
        """Return where the first piece of the range [start, stop) ends.

        The piece has at most ``length`` bytes, but at least one granule. Only the last piece may end inside a granule.
        """
        if stop - start <= length:
            return stop
        end = self._down(start + length)
        return min(end if end > start else self._up(start + 1), stop)

    def _down(self, offset: int) -> int:
        return offset - (offset - self.offset_bytes) % self.size_bytes

    def _up(self, offset: int) -> int:
        return offset + (self.offset_bytes - offset) % self.size_bytes


NO_GRANULES: Final = Granules(0)
#: The unit of a zeroing, which can begin and end at each byte.
BYTES: Final = Granules(1)
