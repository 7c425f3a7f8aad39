"""Notifications of block devices that appear, disappear or change: the kernel's uevents, and udev's.

    is_of_block_device   decides whether one message is about a block device
    DeviceChanges        wakes a task after such a message

The kernel sends a uevent (group 1) when a device appears, disappears, or changes its size. udev sends a message of its
own (group 2) after it has created the links in /dev/disk for the device. Only then may a path of the config lead to the
device again. Both wake the same task, which then looks at the disks to find out what happened.

The kernel sends uevents only to network namespaces of the initial user namespace. A container gets none, and neither
does a machine without the socket. There the exporter relies on its check of the disks every DISK_CHECK_S.

Layouts: lib/kobject_uevent.c (ACTION@PATH, then NUL-terminated KEY=VALUE properties). libudev's monitor: "libudev",
NUL, then a magic number, the header's size, the offset and the length of the properties.
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
    """Return whether a message of the kernel or of udev is about a block device. A malformed message is not."""
    properties = message
    if message.startswith(_UDEV_PREFIX):
        if len(message) < _UDEV_HEADER.size:
            return False
        _, _, offset, length = _UDEV_HEADER.unpack_from(message)
        properties = message[offset : offset + length]
    return _OF_BLOCK in properties.split(b"\0")


class DeviceChanges:
    """Wakes a task when a block device appears, disappears or changes.

    Changes count from the moment the object is created. Raises OSError if the kernel does not give a netlink socket.
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
        """Wait for a change of a block device since the last wait() returned.

        Changes within DEVICE_SETTLE_S count as one.
        """
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if self._drain():
                await trio.sleep(limits.DEVICE_SETTLE_S)
                self._drain()
                return
            # A flood of messages about other devices must not keep the event loop from serving I/O.
            await trio.sleep(limits.DEVICE_SETTLE_S)

    def _drain(self) -> bool:
        """Read the waiting messages. Return whether one of them is, or may have been, about a block device."""
        rings = False
        for _ in range(limits.DEVICE_MESSAGES_MAX):
            try:
                rings = is_of_block_device(self._socket.recv(_MESSAGE_MAX_BYTES)) or rings
            except BlockingIOError:
                break
            except OSError as error:
                # More messages came than the socket holds. A lost one may have been about a block device.
                if error.errno != errno.ENOBUFS:
                    raise
                rings = True
        return rings


def open_device_changes() -> DeviceChanges | None:
    """Return a DeviceChanges, or None if the kernel gives no socket, which is logged."""
    try:
        return DeviceChanges()
    except OSError as error:
        logger.info(
            "the kernel does not report changes of devices here (%s): disks are looked at every %g s",
            os.strerror(error.errno or errno.EIO),
            limits.DISK_CHECK_S,
        )
        return None
