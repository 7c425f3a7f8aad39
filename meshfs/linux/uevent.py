"""News of block devices that come, go or change: the kernel's uevents, and udev's.

    is_of_block_device   whether one message is about a block device
    DeviceChanges        a bell that rings when there was one

The kernel sends a uevent (group 1) when a device appears, disappears, or has another size. udev sends its own (group 2)
when it has made the links of /dev/disk for it, which is when a path of the config may lead to the device again. Both
ring the same bell: what happened is found by looking.

A uevent reaches network namespaces of the initial user namespace only. A container gets none, as does a machine without
the socket; there a slow look every DISK_CHECK_S has to do.

Layouts: lib/kobject_uevent.c (ACTION@PATH and NUL-terminated KEY=VALUE); libudev's monitor: "libudev", NUL, then
a magic number, the header's size, the offset and the length of the properties.
"""

import errno
import logging
import os
import socket
import struct
from typing import Final

import trio

from meshfs import limits

logger = logging.getLogger(__name__)

_NETLINK_KOBJECT_UEVENT: Final = 15
_GROUPS: Final = 0x1 | 0x2
# "libudev\0", magic (big-endian), header size, offset and length of the properties (in the machine's order).
_UDEV_HEADER: Final = struct.Struct("=8s4xIII")
_UDEV_PREFIX: Final = b"libudev\0"
# The kernel's messages are at most 2 KiB plus a path; udev's hold all properties of a device.
_MESSAGE_MAX_BYTES: Final = 64 * 1024
_OF_BLOCK: Final = b"SUBSYSTEM=block"


def is_of_block_device(message: bytes) -> bool:
    """Whether the message, the kernel's or udev's, is about a block device; False of one that makes no sense."""
    properties = message
    if message.startswith(_UDEV_PREFIX):
        if len(message) < _UDEV_HEADER.size:
            return False
        _, _, offset, length = _UDEV_HEADER.unpack_from(message)
        properties = message[offset : offset + length]
    return _OF_BLOCK in properties.split(b"\0")


class DeviceChanges:
    """A bell that rings when a block device came, went or changed; from the moment it is made on.

    Raises OSError where the kernel gives no such socket.
    """

    def __init__(self) -> None:
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | flags, _NETLINK_KOBJECT_UEVENT)
        try:
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def wait(self) -> None:
        """Until a block device changed since the last wait() returned; changes that come together are one."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if self._drain():
                await trio.sleep(limits.DEVICE_SETTLE_S)
                self._drain()
                return
            # A storm of other devices' messages must leave room for I/O.
            await trio.sleep(limits.DEVICE_SETTLE_S)

    def _drain(self) -> bool:
        """Take what is there; whether some of it is, or may have been, about a block device."""
        rings = False
        for _ in range(limits.DEVICE_MESSAGES_MAX):
            try:
                rings = is_of_block_device(self._socket.recv(_MESSAGE_MAX_BYTES)) or rings
            except BlockingIOError:
                break
            except OSError as error:
                # More came than the socket holds: some of it is lost, and may have been about a block device.
                if error.errno != errno.ENOBUFS:
                    raise
                rings = True
        return rings


def open_device_changes() -> DeviceChanges | None:
    """The bell, or None where there is none, which is logged."""
    try:
        return DeviceChanges()
    except OSError as error:
        logger.info(
            "the kernel does not report changes of devices here (%s): disks are looked at every %g s",
            os.strerror(error.errno or errno.EIO), limits.DISK_CHECK_S,
        )  # fmt: skip
        return None
