"""Security descriptors: the parts that an open may ask for, and the layout of the answer."""

import struct

import pytest
from smbprotocol import security_descriptor

from meshfs.smb import info
from meshfs.smb.constants import AccessMask, NtStatus

READ_CONTROL = int(AccessMask.READ_CONTROL)


def test_a_descriptor_has_owner_group_and_access() -> None:
    status, data = info.query_security(7, READ_CONTROL, 0x12019F, 4096)
    descriptor = security_descriptor.SMB2CreateSDBuffer()
    descriptor.unpack(data)
    assert status is NtStatus.SUCCESS
    assert str(descriptor.get_owner()) == str(descriptor.get_group()) == "S-1-5-18"
    aces = descriptor.get_dacl()["aces"].get_value()
    assert [(str(ace["sid"].get_value()), ace["mask"].get_value()) for ace in aces] == [
        ("S-1-5-18", 0x1F01FF),
        ("S-1-5-11", 0x12019F),
    ]


@pytest.mark.parametrize(
    ("additional", "opened", "status"),
    [
        (7, 0, NtStatus.ACCESS_DENIED),
        (7, 0x1F01FF & ~READ_CONTROL, NtStatus.ACCESS_DENIED),
        (0, READ_CONTROL, NtStatus.SUCCESS),
        (0, 0, NtStatus.SUCCESS),
        # The SACL is asked for alone or with the rest, or a backup asks for everything.
        (8, READ_CONTROL, NtStatus.ACCESS_DENIED),
        (15, READ_CONTROL, NtStatus.ACCESS_DENIED),
        (0x10000, READ_CONTROL, NtStatus.ACCESS_DENIED),
        # Label, attributes, scope and meaningless bits ask for nothing that exists.
        (0x70, READ_CONTROL, NtStatus.SUCCESS),
        (0x8000_0000, READ_CONTROL, NtStatus.SUCCESS),
    ],
)
def test_who_may_ask_for_which_part(additional: int, opened: int, status: NtStatus) -> None:
    assert info.query_security(additional, opened, 1, 4096).status is status


def test_descriptor_has_what_was_asked_for() -> None:
    for additional in range(8):
        head = struct.unpack_from("<BBHIIII", info.pack_descriptor(additional, 0))
        owner, group, sacl, dacl = head[3:]
        assert [bool(owner), bool(group), bool(dacl)] == [bool(additional & bit) for bit in (1, 2, 4)]
        assert not sacl


def test_a_descriptor_is_not_cut() -> None:
    whole = info.query_security(7, READ_CONTROL, 1, 4096).data
    short = info.query_security(7, READ_CONTROL, 1, len(whole) - 1)
    assert short == (NtStatus.BUFFER_TOO_SMALL, len(whole).to_bytes(4, "little"))
