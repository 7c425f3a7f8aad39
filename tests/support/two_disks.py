"""A client of an exporter with two disks, and a second client."""

from meshfs.smb.constants import Command
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter

ECHO = b"\x04\0\0\0"


def client_of_two_disks() -> RawInitiator:
    """Return a client of node n2 with many credits, at an exporter of disk0 and disk1."""
    server = make_exporter(disk0=MemoryDisk(1 << 20), disk1=MemoryDisk(1 << 20))
    client = RawInitiator(server).log_in()
    client.call(Command.ECHO, ECHO, credits=500)
    return client


def another(client: RawInitiator, node: str = "n3", share: str = "disks-system") -> RawInitiator:
    """Return a client of another node at the same exporter, with many credits."""
    other = RawInitiator(client.exporter).log_in(node, share)
    other.call(Command.ECHO, ECHO, credits=500)
    return other
