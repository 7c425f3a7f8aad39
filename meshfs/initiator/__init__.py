"""Implements the requesting end of SMB in a mount.

The initiator has one `Port` for each disk. It has a session to every exporter.
"""

from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.port import Port
from meshfs.initiator.initiator import Initiator, InitiatorSettings
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState

__all__ = ["ExporterState", "Handle", "Initiator", "InitiatorSettings", "Port", "RemoteExporter"]
