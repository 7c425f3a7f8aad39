"""Enclosures as exporters announce them, for tests of a mount without a network."""

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
