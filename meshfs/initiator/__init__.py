"""The requesting end: one `Port` per disk, over sessions to every exporter."""

from meshfs.initiator.mesh import Initiator, Settings
from meshfs.initiator.port import Handle, Port
from meshfs.initiator.session import ExporterSession

__all__ = ["ExporterSession", "Handle", "Initiator", "Port", "Settings"]
