"""Serves the root of the share `enclosures`, a directory with all enclosures that the node may know of."""

from typing import Final

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.enclosure.facts import enclosure_facts, reply_to_query
from meshfs.exporter.kinds.root import RootOpen, root_creator
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.smb.constants import Fsctl
from meshfs.smb.info import FileFacts
from meshfs.smb.messages import IoctlRequest


class EnclosuresRoot(RootOpen[OfferedEnclosure]):
    """Represents an open of the root of the share `enclosures`."""

    __slots__ = ()

    def facts_of(self, request: Request, offered: OfferedEnclosure) -> FileFacts:
        return enclosure_facts(request, offered, offered.info.size_bytes)

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code == Fsctl.MESHFS_QUERY_ENCLOSURES:
            reply_to_query(request, body, self, self.offer.visible(request.session.user))
        else:
            super().ioctl(request, body)


def _open(request: Request, access: int) -> EnclosuresRoot:
    exporter = request.peer.exporter
    return EnclosuresRoot(
        request.session, request.tree, exporter.new_file_id(), access, exporter.enclosures, exporter.enclosure_watchers
    )


CREATOR: Final = root_creator(_open)
