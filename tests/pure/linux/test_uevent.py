"""The messages about devices that are about block devices."""

import random
import struct

import pytest

from meshfs.linux.uevent import is_of_block_device

KERNEL = b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0RESIZE=1\0MAJOR=7\0MINOR=0\0"
OTHER = b"add@/devices/virtual/net/x\0ACTION=add\0SUBSYSTEM=net\0NAME=SUBSYSTEM=block\0"


def of_udev(properties: bytes, *, gap: int = 0) -> bytes:
    """Return a message as libudev's monitor sends it. Its header has eight numbers of four bytes after "libudev"."""
    size = 40
    head = struct.pack(">I", 0xFEEDCAFE) + struct.pack("=IIIIIII", size, size + gap, len(properties), 1, 2, 3, 4)
    return b"libudev\0" + head + bytes(gap) + properties


@pytest.mark.parametrize(
    ("message", "rings"),
    [
        (KERNEL, True),
        (OTHER, False),
        (of_udev(b"ACTION=add\0SUBSYSTEM=block\0DEVLINKS=/dev/disk/by-id/x\0"), True),
        (of_udev(b"ACTION=add\0SUBSYSTEM=block\0", gap=16), True),
        (of_udev(OTHER), False),
        (b"", False),
        (b"libudev\0", False),
        (of_udev(b"")[:20], False),
    ],
)
def test_a_message_rings_if_it_is_of_a_block_device(message: bytes, rings: bool) -> None:
    assert is_of_block_device(message) is rings


def test_a_message_of_any_bytes_raises_nothing() -> None:
    generator = random.Random(1)
    for _ in range(2000):
        message = bytearray(generator.choice((KERNEL, of_udev(KERNEL), generator.randbytes(100))))
        for _ in range(generator.randrange(8)):
            if message:
                message[generator.randrange(len(message))] = generator.randrange(256)
        is_of_block_device(bytes(message[: generator.randrange(len(message) + 1)]))
