"""Keeps the disks that an exporter offers, by name."""

from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.state.offer import Offer
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access


class OfferedDisks(Offer[OfferedDisk]):
    """Holds the disks on offer."""

    def enforce(self, offered: OfferedDisk) -> None:
        """End the opens with more access than their nodes now have, and notify of the change.

        The opens that stay no longer keep writers out, if their nodes may only read the disk.
        """
        for opened in list(offered.opens):
            access = offered.access_of(opened.node)
            if access is not Access.READ_WRITE and not opened.access & ~DISK_RIGHTS[access]:
                opened.stop_excluding()
        super().enforce(offered)
