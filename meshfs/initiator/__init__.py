"""The requesting end: one `Port` per disk, over sessions to every exporter."""

from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.port import Port
from meshfs.initiator.initiator import Initiator, InitiatorSettings
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState

__all__ = ["ExporterState", "Handle", "Initiator", "InitiatorSettings", "Port", "RemoteExporter"]
