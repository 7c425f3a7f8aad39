"""The table of errno and NTSTATUS, and the text of a status."""

import errno

import pytest

from meshfs.smb.constants import NtStatus
from meshfs.smb.status import errno_from_status, status_from_errno, status_text


@pytest.mark.parametrize(
    "number",
    [
        *(errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EBUSY, errno.EINVAL),
        *(errno.ETIMEDOUT, errno.ENODEV, errno.ESTALE),
    ],
)
def test_what_a_disk_or_an_enclosure_says_reaches_the_caller_unchanged(number: int) -> None:
    assert errno_from_status(status_from_errno(number)) == number


def test_what_nobody_knows_is_an_io_error() -> None:
    assert status_from_errno(9999) is NtStatus.INTERNAL_ERROR
    assert errno_from_status(0xC0FFEE00) == errno.EIO


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (NtStatus.FILE_CLOSED, "STATUS_FILE_CLOSED"),
        (0xC0000257, "STATUS_PATH_NOT_COVERED"),
        (0xC0FFEE00, "NTSTATUS 0xc0ffee00"),
    ],
)
def test_texts(status: int, text: str) -> None:
    assert status_text(status) == text
