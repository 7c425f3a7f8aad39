"""Describes an enclosure: as a file with the size of its pages, and by FSCTL_MESHFS_QUERY_ENCLOSURES."""

from meshfs.enclosure_info import encode_enclosures
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.facts import index_number, times_of_change, volume_serial
from meshfs.exporter.kinds.kind import reply_to_ioctl
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.exporter.state.open import Open
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.info import FileFacts, short_name
from meshfs.smb.messages import IoctlRequest


def enclosure_facts(request: Request, enclosure: OfferedEnclosure, size_bytes: int) -> FileFacts:
    """Return the facts of an enclosure's file for the node of the request."""
    exporter = request.peer.exporter
    return FileFacts(
        name=enclosure.name,
        size_bytes=size_bytes,
        allocation_bytes=size_bytes,
        index_number=index_number(enclosure.info.id),
        short_name=short_name(enclosure.name),
        read_only=enclosure.access_of(request.session.user) is Access.READ_ONLY,
        times=times_of_change(exporter.started_filetime, enclosure.info.changed_ns),
        volume_serial=volume_serial(exporter),
    )


def reply_to_query(request: Request, body: IoctlRequest, opened: Open, enclosures: list[OfferedEnclosure]) -> None:
    """Answer FSCTL_MESHFS_QUERY_ENCLOSURES of an open. Raise StatusError if the open may not read."""
    if not opened.access & AccessMask.READ_DATA:
        raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
    user = request.session.user
    output = encode_enclosures([enclosure.info_for(user) for enclosure in enclosures])
    if len(output) > body.output_bytes_max:
        raise StatusError(
            NtStatus.BUFFER_TOO_SMALL, f"the output buffer is too small for {len(output)} bytes of enclosures"
        )
    reply_to_ioctl(request, body, output)
