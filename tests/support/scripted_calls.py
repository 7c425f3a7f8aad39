"""Reads and writes over a channel whose exporter follows a script."""

import trio

from meshfs.initiator.channel.channel import Channel
from meshfs.smb.messages import FileId

FILE = FileId(1, 2)
TREE = 5
FOREVER = 1e9


async def read(channel: Channel, offset: int, length: int, timeout_s: float = FOREVER) -> bytes:
    """Read, and return the data."""
    slot = channel.start_read(TREE, FILE, offset, length, trio.current_time() + timeout_s)
    return bytes(await slot)


async def write(channel: Channel, offset: int, data: bytes | memoryview, timeout_s: float = FOREVER) -> int:
    """Write, and return the number of bytes written."""
    deadline = trio.current_time() + timeout_s
    slot = channel.start_write(TREE, FILE, offset, data, deadline, write_through=False)
    count: int = await slot
    return count
