"""Handles FSCTL_FILE_LEVEL_TRIM of a disk (MS-SMB2 3.3.5.15, MS-FSCC 2.3.13). Its ranges are discarded (`pieces.py`).

A trim is a hint. The disk discards whole granules only, so a range shrinks to the granules inside it, and a range
without any is left out. A discarded range may read as anything until it is written again.

    a disk that cannot discard                    INVALID_DEVICE_REQUEST, as MS-FSCC 2.3.14 has it
    no granule in any range                       NO_RANGES_PROCESSED
    an error after some ranges                    SUCCESS, and NumRangesProcessed says how many ranges are done
    more ranges than limits.TRIM_RANGES_MAX       SUCCESS, and the ranges past the limit are not processed
"""

from typing import Final

from meshfs.disk.base import Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk.io import DiskIo
from meshfs.exporter.kinds.disk.pieces import PiecewiseRequest, check_may_clear
from meshfs.granules import Granules
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import IoctlRequest, IoctlResponse, TrimOutput, TrimRanges

_OFFSET_MAX: Final = (1 << 64) - 1


def file_level_trim(request: Request, opened: DiskIo, body: IoctlRequest) -> None:
    """Discard the ranges of the request. The parts of ranges past the end of the disk are left out."""
    wanted = TrimRanges.unpack(body.input)
    if wanted.key or not wanted.ranges or body.output_bytes_max < TrimOutput.LAYOUT.size:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, "FILE_LEVEL_TRIM has a key, or no range, or no room for the answer"
        )
    if any(offset + length > _OFFSET_MAX for offset, length in wanted.ranges):
        raise StatusError(NtStatus.INTEGER_OVERFLOW, "a range of FILE_LEVEL_TRIM ends past 2^64")
    info, size = opened.disk.info, opened.disk.size_bytes
    inside = [(min(offset, size), min(offset + length, size)) for offset, length in wanted.ranges]
    check_may_clear(opened, inside)
    granules = Granules(info.discard_granularity_bytes, info.discard_alignment_bytes)
    if not granules:
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"disk {opened.name} cannot discard")
    ranges = [granules.whole(start, stop) for start, stop in inside]
    skipped = next((index for index, (start, stop) in enumerate(ranges) if start < stop), None)
    if skipped is None:
        raise StatusError(NtStatus.NO_RANGES_PROCESSED, "no range of FILE_LEVEL_TRIM has a whole granule")

    def answer(done: int) -> bytes | None:
        if not done:
            return None
        return IoctlResponse(body.ctl_code, body.file_id, TrimOutput(skipped + done).pack()).pack()

    PiecewiseRequest(request, opened, Op.DISCARD, ranges[skipped:], granules, answer).start()
