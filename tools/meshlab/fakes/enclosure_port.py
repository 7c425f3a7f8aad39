"""Enclosures as exporters announce them, and ports of enclosures in memory, for tests of a mount without a network."""

import errno
import os

from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, SlotInfo
from meshfs.model import Access


def fake_enclosure(
    node: str, name: str, *, access: Access = Access.READ_WRITE, slots: tuple[SlotInfo, ...] = (), size_bytes: int = 0
) -> EnclosureInfo:
    """Return the announcement of an enclosure, with the id that a folder of images would have."""
    return EnclosureInfo(
        id=f"enc-{node}-{name}",
        node=node,
        name=name,
        kind=EnclosureKind.DIRECTORY,
        access=access,
        size_bytes=size_bytes,
        changed_ns=1_000_000_000,
        slots=slots,
    )


class FakeEnclosurePort:
    """Serves as the port of one enclosure. It records its calls, and a test sets its faults.

    content         what readings return
    error           errno of every later reading and control page; None: they succeed
    gone            is set if the enclosure counts as removed
    reads           the number of readings
    pages           the control pages, in order; each is appended to the content
    """

    def __init__(self, info: EnclosureInfo) -> None:
        self.info = info
        self.content = bytes(info.size_bytes)
        self.error: int | None = None
        self.gone = False
        self.reads = 0
        self.pages: list[bytes] = []

    def check(self) -> None:
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    async def read(self) -> bytes:
        self._enter()
        self.reads += 1
        return self.content

    async def control(self, page: bytes) -> None:
        self._enter()
        self.pages.append(page)
        self.content += page

    def _enter(self) -> None:
        self.check()
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
