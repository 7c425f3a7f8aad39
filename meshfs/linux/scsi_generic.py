"""SCSI commands to a device through its node /dev/sgN: ioctl SG_IO with the header of version 3 (scsi/sg.h).

    ScsiGeneric       sends one command, and returns its data or raises what went wrong
    CheckCondition    the error if the device itself refuses a command, with the reason that it gives (SPC-4 4.5)

A command ends with three results: the status of the device, the status of the host adapter, and that of the kernel's
driver. `judge` makes one error of them.
"""

import ctypes
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SG_IO: Final = 0x2285
_INTERFACE: Final = ord("S")
_TO_DEVICE: Final = -2
_FROM_DEVICE: Final = -3
_SENSE_BYTES: Final = 252
#: A signal interrupts the ioctl, which then has to be repeated. More signals than this stop no command by chance.
_INTERRUPTIONS_MAX: Final = 8

_GOOD: Final = frozenset((0x00, 0x04))
_CHECK_CONDITION: Final = 0x02
_STATUS_ERRORS: Final = {
    0x08: (errno.EBUSY, "the device is busy"),
    0x18: (errno.EBUSY, "another host has reserved the device"),
    0x28: (errno.EBUSY, "the device's queue of commands is full"),
    0x40: (errno.EIO, "the device aborted the command"),
}
_HOST_ERRORS: Final = {
    0x01: (errno.ENODEV, "the host adapter has no connection to the device"),
    0x02: (errno.EBUSY, "the bus of the host adapter stays busy"),
    0x03: (errno.ETIMEDOUT, "the device did not answer in time"),
    0x04: (errno.ENODEV, "the host adapter finds no device at its address"),
    0x0F: (errno.EIO, "the link to the device failed"),
    0x0E: (errno.EIO, "the link to the device was interrupted"),
    0x11: (errno.EBUSY, "another host has reserved the device"),
}
#: The driver's status 8 only says that there is sense data.
_DRIVER_SENSE: Final = 8
_DRIVER_FINE: Final = frozenset((0, _DRIVER_SENSE))
_DRIVER_TIMEOUT: Final = 6

_NO_SENSE: Final = 0x0
_RECOVERED: Final = 0x1
_NOT_READY: Final = 0x2
_ILLEGAL_REQUEST: Final = 0x5
_UNIT_ATTENTION: Final = 0x6
_DATA_PROTECT: Final = 0x7
_ABORTED: Final = 0xB
_KEYS: Final = {
    _NOT_READY: "not ready",
    0x3: "medium error",
    0x4: "hardware error",
    _ILLEGAL_REQUEST: "illegal request",
    _UNIT_ATTENTION: "unit attention",
    _DATA_PROTECT: "data protect",
    _ABORTED: "aborted command",
}
#: The additional sense codes that enclosures send most (SPC-4 annex D), with ASCQ, or with None for any ASCQ.
_CODES: Final[dict[tuple[int, int | None], str]] = {
    (0x20, None): "the device does not know this command",
    (0x24, None): "the device does not accept a field of the command",
    (0x25, None): "the device has no such logical unit",
    (0x26, None): "the device does not accept a field of the page",
    (0x1A, None): "the device expects a page of another length",
    (0x29, None): "the device was reset",
    (0x35, 0x01): "the enclosure has no such function",
    (0x35, 0x02): "the enclosure services are not available now",
    (0x35, 0x03): "the transfer to or from the enclosure failed",
    (0x35, 0x04): "the enclosure refused the transfer",
    (0x35, None): "the enclosure services failed",
    (0x3F, None): "the state of the device changed",
}
_CODE_ERRORS: Final = {0x20: errno.EOPNOTSUPP, 0x25: errno.ENODEV}
_KEY_ERRORS: Final = {_ILLEGAL_REQUEST: errno.EINVAL, _DATA_PROTECT: errno.EACCES, _NOT_READY: errno.EBUSY}


@dataclass(frozen=True, slots=True)
class Sense:
    """Holds why a device refused a command: the sense key, and the additional sense code with its qualifier."""

    key: int
    code: int
    qualifier: int
    is_deferred: bool = False

    @property
    def text(self) -> str:
        """Return the reason in words and numbers."""
        words = _CODES.get((self.code, self.qualifier)) or _CODES.get((self.code, None))
        key = _KEYS.get(self.key, f"sense key {self.key:x}")
        return f"{words or 'the device refused the command'} ({key}, {self.code:02x}/{self.qualifier:02x})"


class CheckCondition(OSError):
    """The device answered that it did not carry out the command. ``sense`` is its reason, or None if it gave none."""

    sense: Sense | None = None

    @property
    def may_pass(self) -> bool:
        """Return whether the same command may succeed at once: the device only announced an event, or aborted it."""
        keys = (_UNIT_ATTENTION, _NOT_READY, _ABORTED)
        return self.sense is not None and (self.sense.is_deferred or self.sense.key in keys)

    @property
    def is_unsupported(self) -> bool:
        """Return whether the device does not support the command, so that a repetition is of no use."""
        return self.sense is not None and self.sense.key == _ILLEGAL_REQUEST


class _Header(ctypes.Structure):
    """Is struct sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class ScsiGeneric:
    """Sends SCSI commands to one device node. Every method blocks. The kernel ends a command after its time limit."""

    def __init__(self, path: Path) -> None:
        """Open the device node. Raises OSError."""
        self._path = path
        # With O_NONBLOCK, open(2) fails at once while another program has the device exclusively.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def receive(self, command: bytes, most_bytes: int, timeout_s: float) -> bytes:
        """Return the data of a command, at most ``most_bytes``. Raises OSError; CheckCondition if it is refused."""
        buffer = ctypes.create_string_buffer(most_bytes)
        header = self._execute(command, _FROM_DEVICE, buffer, timeout_s)
        # The residual is what the device left unused. A broken driver may report nonsense there.
        return buffer.raw[: most_bytes - min(max(header.resid, 0), most_bytes)]

    def send(self, command: bytes, data: bytes, timeout_s: float) -> None:
        """Send a command with data. Raises OSError; CheckCondition if the device refuses the command."""
        header = self._execute(command, _TO_DEVICE, ctypes.create_string_buffer(data, len(data)), timeout_s)
        if header.resid > 0:
            raise OSError(errno.EIO, f"{self._path} took only {len(data) - header.resid} of {len(data)} bytes")

    def close(self) -> None:
        os.close(self._fd)

    def _execute(
        self, command: bytes, direction: int, buffer: ctypes.Array[ctypes.c_char], timeout_s: float
    ) -> _Header:
        sense = ctypes.create_string_buffer(_SENSE_BYTES)
        packed = ctypes.create_string_buffer(command, len(command))
        header = _Header(
            interface_id=_INTERFACE,
            dxfer_direction=direction,
            cmd_len=len(command),
            mx_sb_len=_SENSE_BYTES,
            dxfer_len=len(buffer),
            dxferp=ctypes.addressof(buffer),
            cmdp=ctypes.addressof(packed),
            sbp=ctypes.addressof(sense),
            timeout=max(1, round(timeout_s * 1000)),
        )
        for left in reversed(range(_INTERRUPTIONS_MAX)):
            try:
                fcntl.ioctl(self._fd, _SG_IO, header)
                break
            except InterruptedError:
                if not left:
                    raise
        error = judge(header.status, header.host_status, header.driver_status, sense.raw[: header.sb_len_wr])
        if error is not None:
            error.filename = str(self._path)
            raise error
        return header


def judge(status: int, host_status: int, driver_status: int, sense_data: bytes) -> OSError | None:
    """Return the error of a command from its three results and its sense data, or None if the command succeeded."""
    sense = parse_sense(sense_data)
    status &= 0x7E
    refused = status == _CHECK_CONDITION or (sense is not None and driver_status & 0x0F == _DRIVER_SENSE)
    refusal = _refusal(sense) if refused else None
    # The device's own reason says more than what the host adapter makes of it.
    if refusal is not None:
        return refusal
    if host_status:
        number, text = _HOST_ERRORS.get(host_status, (errno.EIO, f"the host adapter reports {host_status:#04x}"))
        return OSError(number, text)
    if not refused and status not in _GOOD:
        number, text = _STATUS_ERRORS.get(status, (errno.EIO, f"the device answered with the status {status:#04x}"))
        return OSError(number, text)
    if driver_status & 0x0F == _DRIVER_TIMEOUT:
        return OSError(errno.ETIMEDOUT, "the device did not answer in time")
    if driver_status & 0x0F not in _DRIVER_FINE:
        return OSError(errno.EIO, f"the driver reports {driver_status:#04x}")
    return None


def _refusal(sense: Sense | None) -> OSError | None:
    if sense is None:
        return CheckCondition(errno.EIO, "the device refused the command without a reason")
    if sense.key in (_NO_SENSE, _RECOVERED) and not sense.is_deferred:
        return None
    number = _CODE_ERRORS.get(sense.code) or _KEY_ERRORS.get(sense.key, errno.EIO)
    error = CheckCondition(number, sense.text)
    error.sense = sense
    return error


def parse_sense(data: bytes) -> Sense | None:
    """Return the sense data of a device in fixed or descriptor format (SPC-4 4.5), or None if it has neither."""
    if len(data) < 4:
        return None
    response = data[0] & 0x7F
    if response in (0x72, 0x73):
        return Sense(data[1] & 0x0F, data[2], data[3], response == 0x73)
    if response in (0x70, 0x71):
        code, qualifier = (data[12], data[13]) if len(data) >= 14 else (0, 0)
        return Sense(data[2] & 0x0F, code, qualifier, response == 0x71)
    return None
