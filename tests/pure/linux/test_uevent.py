"""The messages of the kernel and of udev that are about block devices or enclosures."""

import random
import struct

import pytest

from meshfs.linux.uevent import Devices, devices_of

KERNEL = b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0RESIZE=1\0MAJOR=7\0MINOR=0\0"
OTHER = b"add@/devices/virtual/net/x\0ACTION=add\0SUBSYSTEM=net\0NAME=SUBSYSTEM=block\0"


def of_udev(properties: bytes, *, gap: int = 0) -> bytes:
    """Return a message as libudev's monitor sends it. Its header has eight numbers of four bytes after "libudev"."""
    size = 40
    head = struct.pack(">I", 0xFEEDCAFE) + struct.pack("=IIIIIII", size, size + gap, len(properties), 1, 2, 3, 4)
    return b"libudev\0" + head + bytes(gap) + properties


@pytest.mark.parametrize(
    ("message", "devices"),
    [
        (KERNEL, Devices.BLOCK),
        (OTHER, Devices.NONE),
        (of_udev(b"ACTION=add\0SUBSYSTEM=block\0DEVLINKS=/dev/disk/by-id/x\0"), Devices.BLOCK),
        (of_udev(b"ACTION=add\0SUBSYSTEM=block\0", gap=16), Devices.BLOCK),
        (of_udev(OTHER), Devices.NONE),
        (b"add@/devices/x\0ACTION=add\0SUBSYSTEM=enclosure\0", Devices.ENCLOSURE),
        (of_udev(b"ACTION=remove\0SUBSYSTEM=scsi_generic\0DEVNAME=/dev/sg3\0"), Devices.ENCLOSURE),
        (b"", Devices.NONE),
        (b"libudev\0", Devices.NONE),
        (of_udev(b"")[:20], Devices.NONE),
    ],
)
def test_what_a_message_is_about(message: bytes, devices: Devices) -> None:
    assert devices_of(message) is devices


def test_a_message_of_any_bytes_raises_nothing() -> None:
    generator = random.Random(1)
    for _ in range(2000):
        message = bytearray(generator.choice((KERNEL, of_udev(KERNEL), generator.randbytes(100))))
        for _ in range(generator.randrange(8)):
            if message:
                message[generator.randrange(len(message))] = generator.randrange(256)
        devices_of(bytes(message[: generator.randrange(len(message) + 1)]))
