"""The meaning of an error status for the initiator."""

import pytest

from meshfs.initiator.attached.outcomes import Meaning, Over, meaning
from meshfs.smb.constants import NtStatus


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (NtStatus.USER_SESSION_DELETED, Meaning.SESSION_LOST),
        (NtStatus.FILE_CLOSED, Meaning.OPEN_LOST),
        (NtStatus.FILE_NOT_AVAILABLE, Meaning.BUSY),
        (NtStatus.ACCESS_DENIED, Meaning.REFUSED),
        (0xDEADBEEF, Meaning.REFUSED),
    ],
)
def test_a_status_has_one_meaning_as_a_member_and_as_a_number(status: int, expected: Meaning) -> None:
    assert meaning(status) is meaning(int(status)) is expected


def test_what_is_over_raises_its_own_error() -> None:
    error = OSError(5, "no")
    with pytest.raises(OSError, match="no") as raised:
        Over(error).end()
    assert raised.value is error
