"""A disk and the root of a share as information classes describe them, and readers of smbprotocol's structures."""

from datetime import datetime, timedelta
from typing import Any

from meshfs.smb.info import FileFacts
from meshfs.smb.messages import FileTimes

WHEN = [datetime(2021, 1, 2, 3, 4, second) for second in range(4)]


TIMES = FileTimes(*((when - datetime(1601, 1, 1)) // timedelta(microseconds=1) * 10 for when in WHEN))


DISK = FileFacts("disk0", 4095, 4096, 0x77, read_only=True, times=TIMES, links=1, volume_serial=0xABCD)


ROOT = FileFacts("", 0, 0, 1, is_directory=True, times=TIMES)


def read(kind: type, data: bytes) -> Any:
    structure = kind()
    assert structure.unpack(data) == b""
    return structure


def value(structure: Any, *names: str) -> list[Any]:
    return [structure[name].get_value() for name in names]
