"""The shares of an exporter. A client connects to a share by a tree, and opens what is in it.

What a CREATE in a share opens is told by `meshfs.exporter.kinds.registry`, which has the kinds of opens of each share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshfs.exporter.rules.access import READ_RIGHTS, WRITE_RIGHTS
from meshfs.exporter.rules.scratch.rules import SCRATCH_RIGHTS
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM, IoClass
from meshfs.smb.constants import ShareFlags, ShareType

SHARE_IPC: Final = "IPC$"
#: Files in memory (`meshfs.exporter.rules.scratch.volume`), where the config has them.
SHARE_SCRATCH: Final = "scratch"


@dataclass(frozen=True, slots=True)
class Share:
    """What TREE_CONNECT and a listing of the shares tell of one.

    remark     what it is for; a share without a remark is not listed
    rights     the most that anybody has of anything in it (MaximalAccess)
    io_class   the class of the I/O of its trees, None where it has no disks
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
    Share(SHARE_SCRATCH, "files in memory", SCRATCH_RIGHTS),
    Share(SHARE_IPC, "", _DISK_RIGHTS, type=ShareType.PIPE, flags=ShareFlags(0)),
)
#: By the name in lower case, as shares are found without regard to case.
SHARES: Final[Mapping[str, Share]] = {share.name.lower(): share for share in _ALL}
