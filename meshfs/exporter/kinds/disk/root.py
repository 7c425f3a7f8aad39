"""Serves the root of a share of disks, a directory with all disks that the node may know of."""

from typing import Final

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk.facts import disk_facts
from meshfs.exporter.kinds.disk.views import exchange_views
from meshfs.exporter.kinds.root import RootOpen, root_creator
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.smb.constants import Fsctl
from meshfs.smb.info import FileFacts
from meshfs.smb.messages import IoctlRequest


class DisksRoot(RootOpen[OfferedDisk]):
    """Represents an open of the root of a share of disks."""

    __slots__ = ()

    def facts_of(self, request: Request, offered: OfferedDisk) -> FileFacts:
        return disk_facts(request, offered)

    def disks(self, request: Request, name: bytes) -> list[OfferedDisk]:
        """Return all disks that the node may know of, or only the disk with the name ``name``."""
        node = request.session.user
        if not name:
            self.watchers.informed(self.directory)
            return self.offer.visible(node)
        named = self.offer.find(name.decode(errors="replace"), node)
        return [] if named is None else [named]

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code == Fsctl.MESHFS_EXCHANGE_VIEWS:
            exchange_views(request, body, self)
        else:
            super().ioctl(request, body)


def _open(request: Request, access: int) -> DisksRoot:
    exporter = request.peer.exporter
    return DisksRoot(
        request.session, request.tree, exporter.new_file_id(), access, exporter.disks, exporter.disk_watchers
    )


CREATOR: Final = root_creator(_open)
