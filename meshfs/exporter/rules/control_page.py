"""Decides whether a WRITE to an enclosure's file is one whole enclosure control page (SES-3 6.1.3). Pure.

The enclosure itself checks the length and the generation against its configuration. This module only checks that the
WRITE is one page, so that no part of a page, and no rest of a larger file, reaches a device.
"""

from meshfs.errors import StatusError
from meshfs.ses.page import HEAD_BYTES, PageCode
from meshfs.smb.constants import NtStatus


def check_control_page(page: bytes, offset: int) -> None:
    """Raise StatusError INVALID_PARAMETER if a WRITE of ``page`` at ``offset`` is not one whole control page."""
    if offset:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"a control page is written at 0, and not at {offset}")
    if len(page) < HEAD_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"a WRITE of {len(page)} bytes is too short for a control page")
    own_bytes = 4 + int.from_bytes(page[2:4], "big")
    if page[0] != PageCode.STATUS or len(page) != own_bytes:
        raise StatusError(
            NtStatus.INVALID_PARAMETER,
            f"the WRITE has {len(page)} bytes of page {page[0]:02x}, whose own length is {own_bytes} bytes. "
            f"It has to be one whole page {PageCode.STATUS:02x}",
        )
