"""Connects a request to a disk with the request of a peer that caused it."""

from typing import Protocol

from meshfs.disk.base import DiskRequest


class MayBeClosed(Protocol):
    """Stands for a connection, for example `meshfs.exporter.state.peer.Peer`."""

    closed: bool


class Cause(Protocol):
    """Stands for the request of a peer, for example `meshfs.exporter.exchange.request.Request`."""

    @property
    def peer(self) -> MayBeClosed:
        """Return the connection that the reply goes to."""

    def fault(self, done: DiskRequest, error: Exception) -> None:
        """End the connection, because handling the answer of the disk has raised ``error``."""


class PeerDiskRequest(DiskRequest):
    """Represents a request to a disk. ``request`` is the request of a peer that caused this one.

    The code that makes this object sets ``request`` right after the construction. A constructor that takes ``request``
    would be one more call per READ and WRITE.
    """

    __slots__ = ("request",)
    request: Cause
