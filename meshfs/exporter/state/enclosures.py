"""Keeps the enclosures that an exporter offers, by name."""

from meshfs.exporter.state.offer import Offer
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure


class OfferedEnclosures(Offer[OfferedEnclosure]):
    """Holds the enclosures on offer."""
