"""Describes a disk as a file that has the disk's size and the times of the last write."""

from dataclasses import replace

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.facts import index_number, times_of_change, volume_serial
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access
from meshfs.smb.info import FileFacts, FilesystemFacts, short_name


def disk_facts(request: Request, disk: OfferedDisk) -> FileFacts:
    """Return the facts of a disk for the node of the request."""
    exporter = request.peer.exporter
    return FileFacts(
        name=disk.name,
        size_bytes=disk.size_bytes,
        allocation_bytes=disk.size_bytes,
        index_number=index_number(disk.info.id),
        short_name=short_name(disk.name),
        read_only=disk.access_of(request.session.user) is Access.READ_ONLY,
        times=times_of_change(exporter.started_filetime, disk.written_ns()),
        volume_serial=volume_serial(exporter),
    )


def with_disk(facts: FilesystemFacts, disk: OfferedDisk, node: str) -> FilesystemFacts:
    """Return the facts of the volume for an open of a disk, with the disk's sectors and the node's access."""
    return replace(
        facts,
        logical_sector_bytes=disk.info.logical_block_size_bytes,
        physical_sector_bytes=disk.info.physical_block_size_bytes,
        can_trim=disk.info.discard_granularity_bytes > 0,
        read_only=disk.access_of(node) is Access.READ_ONLY,
    )
