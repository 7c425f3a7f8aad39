"""Lists the shares of an exporter. A client connects to a share by a tree, and opens what is in it.

`meshfs.exporter.kinds.registry` has the kinds of opens of each share, and decides what a CREATE in the share opens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshfs.enclosure_info import SHARE_ENCLOSURES
from meshfs.exporter.rules.access import READ_RIGHTS, WRITE_RIGHTS
from meshfs.exporter.rules.scratch.rules import SCRATCH_RIGHTS
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM, IoClass
from meshfs.smb.constants import ShareFlags, ShareType

SHARE_IPC: Final = "IPC$"
#: The share with files in memory (`meshfs.exporter.rules.scratch.volume`), which the config may ask for.
SHARE_SCRATCH: Final = "scratch"


@dataclass(frozen=True, slots=True)
class Share:
    """Holds the facts of a share for TREE_CONNECT and for a listing of the shares.

    remark     the purpose of the share. A share without a remark is not listed
    rights     the most access that anybody may have in the share (MaximalAccess)
    io_class   the class of the I/O of its trees, or None if the share has no disks
    """

    name: str
    remark: str
    rights: int
    io_class: IoClass | None = None
    type: ShareType = ShareType.DISK
    flags: ShareFlags = ShareFlags.NO_CACHING


_DISK_RIGHTS: Final = int(READ_RIGHTS | WRITE_RIGHTS)
_ALL: Final = (
    Share(SHARE_DISKS, "disks, for applications", _DISK_RIGHTS, IoClass.APP),
    Share(SHARE_DISKS_SYSTEM, "disks, for the system", _DISK_RIGHTS, IoClass.SYSTEM),
    Share(SHARE_ENCLOSURES, "enclosures of disks, by their SES pages", _DISK_RIGHTS),
    Share(SHARE_SCRATCH, "files in memory", SCRATCH_RIGHTS),
    Share(SHARE_IPC, "", _DISK_RIGHTS, type=ShareType.PIPE, flags=ShareFlags(0)),
)
#: The shares by their names in lower case, because names of shares are compared without regard to case.
SHARES: Final[Mapping[str, Share]] = {share.name.lower(): share for share in _ALL}
