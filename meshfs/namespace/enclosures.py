"""The enclosures of the cluster, merged from what the exporters announce (merging.py). Pure.

A slot is refused if its name cannot be a file name, or if the enclosure has an earlier slot of that name. Slots past
``limits.SLOTS_PER_ENCLOSURE_MAX`` are refused as well. The enclosure and its other slots stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from meshfs import limits
from meshfs.enclosure_info import EnclosureInfo, SlotInfo
from meshfs.namespace.merging import CatalogEntry, Merging, Terms
from meshfs.namespace.names import is_file_name


class CatalogEnclosure(CatalogEntry[EnclosureInfo]):
    """Describes one enclosure of the cluster."""

    __slots__ = ()


class EnclosureCatalog(Merging[EnclosureInfo, CatalogEnclosure]):
    """Merges the enclosures that the exporters announce. ``nodes`` are the config's nodes, in its order."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes, Terms("enclosure", limits.ENCLOSURES_PER_NODE_MAX, CatalogEnclosure, _with_good_slots))

    @property
    def enclosures(self) -> Mapping[str, CatalogEnclosure]:
        """Return every enclosure by its id, sorted by id."""
        return self.entries


def _with_good_slots(info: EnclosureInfo, known: EnclosureInfo | None) -> tuple[EnclosureInfo, Sequence[str]]:
    """Return the enclosure with the slots that can be shown, and a line for each slot that cannot."""
    slots: dict[str, SlotInfo] = {}
    refused: list[str] = []
    for slot in info.slots:
        if len(slots) >= limits.SLOTS_PER_ENCLOSURE_MAX:
            refused.append(f"it has more than {limits.SLOTS_PER_ENCLOSURE_MAX} slots")
            break
        if not is_file_name(slot.name):
            refused.append(f"the name {slot.name!r} of a slot cannot be a file name")
        elif slot.name in slots:
            refused.append(f"it has a second slot named {slot.name!r}")
        else:
            slots[slot.name] = slot
    return (replace(info, slots=tuple(slots.values())) if refused else info), refused
