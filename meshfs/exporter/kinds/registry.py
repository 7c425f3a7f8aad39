"""Decides which kind of open a CREATE makes. Each share has kinds. The first one that takes the name makes the open.

A new kind is one line here. In the shares of disks, the line comes before the disks, which take all remaining names.
"""

from collections.abc import Callable
from typing import Final

from meshfs.enclosure_info import SHARE_ENCLOSURES
from meshfs.exporter.kinds import pipe
from meshfs.exporter.kinds.at_create import Creator
from meshfs.exporter.kinds.disk import create as disk_create
from meshfs.exporter.kinds.disk import root as disks_root
from meshfs.exporter.kinds.enclosure import create as enclosure_create
from meshfs.exporter.kinds.enclosure import root as enclosures_root
from meshfs.exporter.kinds.scratch import create as scratch_create
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.shares import SHARE_IPC, SHARE_SCRATCH
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM

_OF_DISKS: Final = (
    disks_root.CREATOR,
    disk_create.CREATOR,
)
#: The kinds of each share, by the name of the share in lower case, as in `Tree.share`.
CREATORS: Final[dict[str, tuple[Creator, ...]]] = {
    SHARE_DISKS: _OF_DISKS,
    SHARE_DISKS_SYSTEM: _OF_DISKS,
    SHARE_ENCLOSURES: (enclosures_root.CREATOR, enclosure_create.CREATOR),
    SHARE_SCRATCH: (scratch_create.CREATOR,),
    SHARE_IPC.lower(): (pipe.CREATOR,),
}


def creator(share: str, name: str) -> Creator:
    """Return the kind that makes an open of that name in the share. The last kind of each share takes every name."""
    return next(each for each in CREATORS[share] if each.takes(name))


def ticks(exporter: Exporter) -> list[Callable[[Exporter], None]]:
    """Return the functions to call every KIND_TICK_S, for the kinds of the shares that are offered."""
    creators = dict.fromkeys(each for share in exporter.shares() for each in CREATORS[share.name.lower()])
    return [each.tick for each in creators if each.tick is not None]
