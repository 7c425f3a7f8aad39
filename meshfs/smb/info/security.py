"""Answer a QUERY_INFO of a security descriptor (MS-DTYP 2.4.6, MS-SMB2 3.3.5.20.3).

The rights of a node come from the cluster's config, and not from descriptors. A descriptor only shows these rights. Its
owner and group are the system, and every authenticated user has the access of the node that asks.
"""

from struct import Struct
from typing import Final

from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.info.facts import Output

OWNER_SECURITY_INFORMATION: Final = 0x1
GROUP_SECURITY_INFORMATION: Final = 0x2
DACL_SECURITY_INFORMATION: Final = 0x4
SACL_SECURITY_INFORMATION: Final = 0x8
#: The bit that asks for all parts, including the SACL.
BACKUP_SECURITY_INFORMATION: Final = 0x1_0000

# Revision, Sbz1, Control, OffsetOwner, OffsetGroup, OffsetSacl, OffsetDacl
_DESCRIPTOR: Final = Struct("<BBHIIII")
# AclRevision, Sbz1, AclSize, AceCount, Sbz2
_ACL: Final = Struct("<BBHHH")
# AceType (0: allow), AceFlags, AceSize, Mask
_ACE: Final = Struct("<BBHI")
_SELF_RELATIVE: Final = 0x8000
_DACL_PRESENT: Final = 0x0004
# Revision 1, number of sub-authorities, authority (6 bytes, big-endian), sub-authorities (u32).
_SYSTEM: Final = bytes.fromhex("01 01 000000000005 12000000")  # S-1-5-18
_AUTHENTICATED_USERS: Final = bytes.fromhex("01 01 000000000005 0b000000")  # S-1-5-11
_FULL_ACCESS: Final = 0x001F_01FF


def _allow(sid: bytes, mask: int) -> bytes:
    return _ACE.pack(0, 0, _ACE.size + len(sid), mask) + sid


def pack_descriptor(additional: int, allowed_access: int) -> bytes:
    """Return a self-relative descriptor with the parts that ``additional`` asks for."""
    parts = bytearray()
    offsets = {}
    aces = _allow(_SYSTEM, _FULL_ACCESS) + _allow(_AUTHENTICATED_USERS, allowed_access)
    acl = _ACL.pack(2, 0, _ACL.size + len(aces), 2, 0) + aces
    for wanted, part in (
        (OWNER_SECURITY_INFORMATION, _SYSTEM),
        (GROUP_SECURITY_INFORMATION, _SYSTEM),
        (DACL_SECURITY_INFORMATION, acl),
    ):
        if additional & wanted:
            offsets[wanted] = _DESCRIPTOR.size + len(parts)
            parts += part
    head = _DESCRIPTOR.pack(
        1,
        0,
        _SELF_RELATIVE | (_DACL_PRESENT if additional & DACL_SECURITY_INFORMATION else 0),
        offsets.get(OWNER_SECURITY_INFORMATION, 0),
        offsets.get(GROUP_SECURITY_INFORMATION, 0),
        0,
        offsets.get(DACL_SECURITY_INFORMATION, 0),
    )
    return head + bytes(parts)


def query_security(additional: int, opened_access: int, allowed_access: int, output_bytes_max: int) -> Output:
    """Return the security descriptor of a file, as the response to QUERY_INFO (InfoType SECURITY) contains it.

    The node that asks has ``allowed_access`` to the file, and its open was granted ``opened_access``. The SACL needs a
    privilege that no node has. Every other part needs READ_CONTROL (MS-SMB2 2.2.37). A descriptor without parts needs
    no right.

    Statuses: SUCCESS, ACCESS_DENIED, or BUFFER_TOO_SMALL, whose data is the size needed (u32), for the ERROR response.
    """
    needed = int(AccessMask.READ_CONTROL) if additional else 0
    if additional & (SACL_SECURITY_INFORMATION | BACKUP_SECURITY_INFORMATION):
        needed |= AccessMask.ACCESS_SYSTEM_SECURITY
    if needed & ~opened_access:
        return Output(NtStatus.ACCESS_DENIED)
    descriptor = pack_descriptor(additional, allowed_access)
    if len(descriptor) > output_bytes_max:
        return Output(NtStatus.BUFFER_TOO_SMALL, len(descriptor).to_bytes(4, "little"))
    return Output(NtStatus.SUCCESS, descriptor)
