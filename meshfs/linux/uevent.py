"""Notifications of disks and enclosures that appear, disappear or change: the kernel's uevents, and udev's.

    devices_of       tells what one message is about
    DeviceChanges    wakes a task after a message about a block device or an enclosure

The kernel sends a uevent (group 1) when a device appears, disappears, or changes its size. udev sends a message of its
own (group 2) after it has created the links in /dev/disk for the device. Only then may a path of the config lead to the
device again. Both wake the same task, which then looks at the disks to find out what happened.

The kernel sends uevents only to network namespaces of the initial user namespace. A container gets none, and neither
does a machine without the socket. There the exporter relies on its check of the disks every DISK_CHECK_S.

Layouts: lib/kobject_uevent.c (ACTION@PATH, then NUL-terminated KEY=VALUE properties). libudev's monitor: "libudev",
NUL, then a magic number, the header's size, the offset and the length of the properties.
"""

import enum
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


class Devices(enum.Flag):
    """Names the devices that a message may be about. A SES device is a SCSI generic device with or without a driver."""

    NONE = 0
    BLOCK = enum.auto()
    ENCLOSURE = enum.auto()


_OF: Final = {
    b"SUBSYSTEM=block": Devices.BLOCK,
    b"SUBSYSTEM=enclosure": Devices.ENCLOSURE,
    b"SUBSYSTEM=scsi_generic": Devices.ENCLOSURE,
}


def devices_of(message: bytes) -> Devices:
    """Return what a message of the kernel or of udev is about. A malformed message is about nothing."""
    properties = message
    if message.startswith(_UDEV_PREFIX):
        if len(message) < _UDEV_HEADER.size:
            return Devices.NONE
        _, _, offset, length = _UDEV_HEADER.unpack_from(message)
        properties = message[offset : offset + length]
    found = Devices.NONE
    for each in properties.split(b"\0"):
        found |= _OF.get(each, Devices.NONE)
    return found


class DeviceChanges:
    """Wakes a task when a block device or an enclosure appears, disappears or changes.

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

    async def wait(self) -> Devices:
        """Wait for a change since the last wait() returned, and return what has changed.

        Changes within DEVICE_SETTLE_S count as one.
        """
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if found := self._drain():
                await trio.sleep(limits.DEVICE_SETTLE_S)
                return found | self._drain()
            # A flood of messages about other devices must not keep the event loop from serving I/O.
            await trio.sleep(limits.DEVICE_SETTLE_S)

    def _drain(self) -> Devices:
        """Read the waiting messages. Return what they are, or may have been, about."""
        found = Devices.NONE
        for _ in range(limits.DEVICE_MESSAGES_MAX):
            try:
                found |= devices_of(self._socket.recv(_MESSAGE_MAX_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                # More messages came than the socket holds. A lost one may have been about any device.
                if error.errno != errno.ENOBUFS:
                    raise
                found = Devices.BLOCK | Devices.ENCLOSURE
        return found


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
