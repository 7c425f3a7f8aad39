"""What a device, a host adapter and a driver answer to a SCSI command becomes one error with a reason."""

import ctypes
import errno
from pathlib import Path

import pytest

from meshfs.linux import scsi_generic
from meshfs.linux.scsi_generic import CheckCondition, ScsiGeneric, Sense, judge, parse_sense


def fixed(key: int, code: int, qualifier: int, response: int = 0x70) -> bytes:
    return bytes((response, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0))


def described(key: int, code: int, qualifier: int, response: int = 0x72) -> bytes:
    return bytes((response, key, code, qualifier, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("data", "sense"),
    [
        (fixed(5, 0x24, 1), Sense(5, 0x24, 1)),
        (fixed(5, 0x24, 1, 0xF0), Sense(5, 0x24, 1)),
        (fixed(6, 0x29, 0, 0x71), Sense(6, 0x29, 0, is_deferred=True)),
        (described(5, 0x26, 2), Sense(5, 0x26, 2)),
        (described(4, 0x44, 0, 0x73), Sense(4, 0x44, 0, is_deferred=True)),
        (fixed(5, 0x24, 1)[:13], Sense(5, 0, 0)),
        (fixed(0xE5, 0x24, 1), Sense(5, 0x24, 1)),
        (b"", None),
        (b"\x70\0\x05", None),
        (bytes(18), None),
        (b"\x7f" * 18, None),
    ],
)
def test_sense_data_are_read_in_both_formats(data: bytes, sense: Sense | None) -> None:
    assert parse_sense(data) == sense


@pytest.mark.parametrize(
    ("status", "host", "driver", "sense", "number", "text"),
    [
        (0x02, 0, 8, fixed(5, 0x24, 0), errno.EINVAL, "a field of the command (illegal request, 24/00)"),
        (0x02, 0, 0, described(5, 0x26, 0), errno.EINVAL, "a field of the page (illegal request, 26/00)"),
        (0x02, 0, 8, fixed(5, 0x20, 0), errno.EOPNOTSUPP, "the device does not know this command"),
        (0x02, 0, 8, fixed(5, 0x25, 0), errno.ENODEV, "the device has no such logical unit"),
        (0x02, 0, 8, fixed(2, 0x04, 1), errno.EBUSY, "the device refused the command (not ready, 04/01)"),
        (0x02, 0, 8, fixed(4, 0x35, 2), errno.EIO, "services are not available now (hardware error, 35/02)"),
        (0x02, 0, 8, fixed(4, 0x35, 9), errno.EIO, "the enclosure services failed (hardware error, 35/09)"),
        (0x02, 0, 8, fixed(7, 0x27, 0), errno.EACCES, "(data protect, 27/00)"),
        (0x02, 0, 8, fixed(0xD, 0, 0), errno.EIO, "(sense key d, 00/00)"),
        (0x02, 0, 0, b"", errno.EIO, "the device refused the command without a reason"),
        (0x02, 0x10, 8, fixed(5, 0x26, 0), errno.EINVAL, "does not accept a field of the page"),
        (0, 0, 8, fixed(4, 0x44, 0), errno.EIO, "(hardware error, 44/00)"),
        (0x08, 0, 0, b"", errno.EBUSY, "the device is busy"),
        (0x18, 0, 0, b"", errno.EBUSY, "another host has reserved the device"),
        (0x28, 0, 0, b"", errno.EBUSY, "queue of commands is full"),
        (0x30, 0, 0, b"", errno.EIO, "the device answered with the status 0x30"),
        (0, 0x01, 0, b"", errno.ENODEV, "no connection to the device"),
        (0, 0x03, 0, b"", errno.ETIMEDOUT, "the device did not answer in time"),
        (0, 0x07, 0, b"", errno.EIO, "the host adapter reports 0x07"),
        (0, 0, 6, b"", errno.ETIMEDOUT, "the device did not answer in time"),
        (0, 0, 4, b"", errno.EIO, "the driver reports 0x04"),
    ],
)  # fmt: skip
def test_each_result_has_an_errno_and_a_reason(
    status: int, host: int, driver: int, sense: bytes, number: int, text: str
) -> None:
    error = judge(status, host, driver, sense)
    assert error is not None
    assert error.errno == number
    assert text in str(error.strerror)
    assert isinstance(error, CheckCondition) == (status == 0x02 or bool(sense))


@pytest.mark.parametrize(
    ("status", "driver", "sense"),
    [(0, 0, b""), (0x04, 0, b""), (0x02, 8, fixed(1, 0x17, 0)), (0x02, 8, fixed(0, 0, 0)), (0, 8, fixed(1, 0x17, 0))],
)
def test_a_command_that_succeeded_has_no_error(status: int, driver: int, sense: bytes) -> None:
    assert judge(status, 0, driver, sense) is None


@pytest.mark.parametrize(
    ("sense", "may_pass", "is_unsupported"),
    [
        (fixed(6, 0x29, 0), True, False),
        (fixed(2, 0x04, 1), True, False),
        (fixed(0xB, 0x47, 0), True, False),
        (fixed(4, 0x44, 0, 0x71), True, False),
        (fixed(4, 0x44, 0), False, False),
        (fixed(5, 0x24, 0), False, True),
        (b"", False, False),
    ],
)
def test_a_refusal_says_if_it_may_pass(sense: bytes, may_pass: bool, is_unsupported: bool) -> None:
    error = judge(0x02, 0, 8, sense)
    assert isinstance(error, CheckCondition)
    assert (error.may_pass, error.is_unsupported) == (may_pass, is_unsupported)


class Kernel:
    """Stands for fcntl.ioctl: it carries out the command as a device would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: bytes = b"", residual: int = 0, **results: int) -> None:
        self.data, self.residual, self.results = data, residual, results
        self.sense = b""
        self.received = b""
        self.command = b""
        self.timeouts_ms: list[int] = []
        self.interruptions = 0
        monkeypatch.setattr("fcntl.ioctl", self)

    def __call__(self, fd: int, request: int, header: scsi_generic._Header) -> int:
        assert (request, header.interface_id, ctypes.sizeof(header)) == (0x2285, ord("S"), 88)
        if self.interruptions:
            self.interruptions -= 1
            raise InterruptedError(errno.EINTR, "signal")
        self.timeouts_ms.append(header.timeout)
        self.command = ctypes.string_at(header.cmdp, header.cmd_len)
        if header.dxfer_direction == -3:
            ctypes.memmove(header.dxferp, self.data, min(len(self.data), header.dxfer_len))
        else:
            self.received = ctypes.string_at(header.dxferp, header.dxfer_len)
        header.resid = self.residual
        ctypes.memmove(header.sbp, self.sense, len(self.sense))
        header.sb_len_wr = len(self.sense)
        for name, value in self.results.items():
            setattr(header, name, value)
        return 0


@pytest.fixture
def device(tmp_path: Path) -> ScsiGeneric:
    path = tmp_path / "sg0"
    path.write_bytes(b"")
    return ScsiGeneric(path)


def test_a_command_returns_what_the_device_sent(monkeypatch: pytest.MonkeyPatch, device: ScsiGeneric) -> None:
    kernel = Kernel(monkeypatch, b"page", residual=6)
    kernel.interruptions = 3
    assert device.receive(b"\x1c\x01\x02\0\x0a\0", 10, 1.5) == b"page"
    assert (kernel.command, kernel.timeouts_ms) == (b"\x1c\x01\x02\0\x0a\0", [1500])
    device.close()


@pytest.mark.parametrize(("residual", "length"), [(0, 10), (10, 0), (11, 0), (1 << 30, 0), (-5, 10)])
def test_a_residual_is_honoured_also_if_it_is_nonsense(
    monkeypatch: pytest.MonkeyPatch, device: ScsiGeneric, residual: int, length: int
) -> None:
    Kernel(monkeypatch, b"0123456789", residual)
    assert len(device.receive(bytes(6), 10, 1)) == length
    device.close()


def test_data_are_sent_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, device: ScsiGeneric) -> None:
    kernel = Kernel(monkeypatch)
    device.send(b"\x1d\x10\0\0\x03\0", b"\x02\0\x01", 0.0001)
    assert (kernel.received, kernel.timeouts_ms) == (b"\x02\0\x01", [1])
    kernel.residual = 1
    with pytest.raises(OSError, match="took only 2 of 3 bytes"):
        device.send(b"\x1d\x10\0\0\x03\0", b"\x02\0\x01", 1)
    device.close()


def test_an_error_names_the_device(monkeypatch: pytest.MonkeyPatch, device: ScsiGeneric) -> None:
    kernel = Kernel(monkeypatch, status=0x02, driver_status=8)
    kernel.sense = fixed(5, 0x24, 0)
    with pytest.raises(CheckCondition, match=r"a field of the command .*sg0'") as caught:
        device.receive(bytes(6), 8, 1)
    assert caught.value.sense == Sense(5, 0x24, 0)
    device.close()


def test_signals_for_ever_do_not_repeat_a_command_for_ever(
    monkeypatch: pytest.MonkeyPatch, device: ScsiGeneric
) -> None:
    Kernel(monkeypatch).interruptions = 1000
    with pytest.raises(InterruptedError):
        device.receive(bytes(6), 8, 1)
    device.close()


def test_a_file_that_is_no_scsi_device_is_an_error(device: ScsiGeneric) -> None:
    with pytest.raises(OSError, match=r"ioctl") as caught:
        device.receive(bytes(6), 8, 1)
    assert caught.value.errno == errno.ENOTTY
    device.close()


def test_a_node_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScsiGeneric(tmp_path / "sg9")
