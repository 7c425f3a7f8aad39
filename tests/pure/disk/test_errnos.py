"""The table of errnos, row by row."""

import errno
import os
from collections.abc import Sequence

import pytest

from meshfs.disk.base import Op
from meshfs.disk.errnos import ROWS, Sign, verdict
from meshfs.smb.status import errno_from_status, status_from_errno

SIZE_BYTES = 1 << 20
# What a read, a write and a flush that fail with each errno give the caller, and what that means for the disk.
EIO, EAGAIN, ENOSPC, EROFS = errno.EIO, errno.EAGAIN, errno.ENOSPC, errno.EROFS
FAILED, GONE, NOTHING = Sign.FAILED, Sign.GONE, Sign.NOTHING
TABLE: list[tuple[str, tuple[int, int, int], Sign]] = [
    ("EIO", (EIO, EIO, EIO), FAILED),
    ("ENODATA", (EIO, EIO, EIO), FAILED),
    ("EILSEQ", (EIO, EIO, EIO), FAILED),
    ("EREMOTEIO", (EIO, EIO, EIO), FAILED),
    ("ENOLINK", (EIO, EIO, EIO), FAILED),
    ("ETIMEDOUT", (EIO, EIO, EIO), FAILED),
    ("ETIME", (EIO, EIO, EIO), FAILED),
    ("EBADE", (EIO, EIO, EIO), FAILED),
    ("EREMCHG", (EIO, EIO, EIO), FAILED),
    ("ETOOMANYREFS", (EIO, EIO, EIO), FAILED),
    ("EOVERFLOW", (EIO, EIO, EIO), FAILED),
    ("EUCLEAN", (EIO, EIO, EIO), FAILED),
    ("EBADMSG", (EIO, EIO, EIO), FAILED),
    ("ENOKEY", (EIO, EIO, EIO), FAILED),
    ("ENODEV", (EIO, EIO, EIO), GONE),
    ("ENXIO", (EIO, EIO, EIO), GONE),
    ("ENOMEDIUM", (EIO, EIO, EIO), GONE),
    ("ESHUTDOWN", (EIO, EIO, EIO), GONE),
    ("ENOTCONN", (EIO, EIO, EIO), GONE),
    ("ESTALE", (EIO, EIO, EIO), GONE),
    ("ENOSPC", (EIO, ENOSPC, ENOSPC), FAILED),
    ("EDQUOT", (EIO, ENOSPC, ENOSPC), FAILED),
    ("EFBIG", (EIO, EIO, EIO), FAILED),
    ("EROFS", (EIO, EROFS, EIO), FAILED),
    ("EPERM", (EIO, EROFS, EIO), FAILED),
    ("EACCES", (EIO, EIO, EIO), FAILED),
    ("ETXTBSY", (EIO, EIO, EIO), FAILED),
    ("EINVAL", (EIO, EIO, EIO), FAILED),
    ("EOPNOTSUPP", (EIO, EIO, EIO), FAILED),
    ("EBADF", (EIO, EIO, EIO), FAILED),
    ("EFAULT", (EIO, EIO, EIO), FAILED),
    ("ECANCELED", (EIO, EIO, EIO), FAILED),
    ("ENOMEM", (EAGAIN, EAGAIN, EAGAIN), NOTHING),
    ("ENOBUFS", (EAGAIN, EAGAIN, EAGAIN), NOTHING),
    ("EAGAIN", (EAGAIN, EAGAIN, EAGAIN), NOTHING),
    ("EINTR", (EAGAIN, EAGAIN, EAGAIN), NOTHING),
    ("EBUSY", (EAGAIN, EAGAIN, EAGAIN), NOTHING),
]


@pytest.mark.parametrize("device_bytes", [SIZE_BYTES, None], ids=["device", "image"])
@pytest.mark.parametrize(("name", "answers", "sign"), TABLE, ids=[row[0] for row in TABLE])
def test_each_row_holds_for_read_write_and_flush(
    name: str, answers: Sequence[int], sign: Sign, device_bytes: int | None
) -> None:
    number = getattr(errno, name)
    for op, answer in zip((Op.READ, Op.WRITE, Op.FLUSH), answers, strict=True):
        assert verdict(number, op, stop=4096, device_bytes=device_bytes) == (answer, sign), op.name


def test_the_table_has_every_row() -> None:
    assert {getattr(errno, name) for name, _, _ in TABLE} == set(ROWS)


@pytest.mark.parametrize("op", list(Op))
@pytest.mark.parametrize("number", sorted({*errno.errorcode} - {*ROWS}), ids=os.strerror)
def test_any_other_errno_is_eio(number: int, op: Op) -> None:
    assert verdict(number, op, stop=4096, device_bytes=SIZE_BYTES) == (EIO, FAILED)


@pytest.mark.parametrize("op", list(Op))
@pytest.mark.parametrize("number", [number for number, row in ROWS.items() if row.sign is not NOTHING], ids=os.strerror)
def test_a_device_without_a_size_is_gone_whatever_it_answers(number: int, op: Op) -> None:
    assert verdict(number, op, stop=4096, device_bytes=0) == (EIO, GONE)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EINVAL])
def test_behind_the_end_of_a_device_that_shrank_is_eio(number: int) -> None:
    assert verdict(number, Op.WRITE, stop=8192, device_bytes=4096) == (EIO, FAILED)


@pytest.mark.parametrize("device_bytes", [SIZE_BYTES, None])
def test_a_disk_that_cannot_discard_is_well(device_bytes: int | None) -> None:
    assert verdict(errno.EOPNOTSUPP, Op.DISCARD, stop=4096, device_bytes=device_bytes) == (errno.EOPNOTSUPP, NOTHING)
    assert verdict(errno.EIO, Op.DISCARD, stop=4096, device_bytes=device_bytes) == (EIO, FAILED)


def test_a_full_thin_pool_stays_enospc() -> None:
    assert verdict(errno.ENOSPC, Op.WRITE, stop=4096, device_bytes=4096) == (ENOSPC, FAILED)


@pytest.mark.parametrize("answer", [EIO, ENOSPC, EROFS, EAGAIN])
def test_an_answer_reaches_the_caller_as_it_is(answer: int) -> None:
    """The answer to EAGAIN is another try. The other errnos reach the caller unchanged."""
    assert errno_from_status(status_from_errno(answer)) == answer


def test_no_timeout_leaves_the_owner() -> None:
    assert errno.ETIMEDOUT not in {row.answer for row in ROWS.values()}
