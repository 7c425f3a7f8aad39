"""Keeps a tree, which is the connection of a session to a share (MS-SMB2 3.3.1.9)."""

from typing import Protocol

from meshfs.exporter.state.closing import Closable
from meshfs.model import IoClass


class CreateOfTree(Protocol):
    """Stands for a CREATE that waits, as `meshfs.exporter.kinds.pending_create.PendingCreate` does."""

    def retry(self) -> None:
        """Try the CREATE again, because its wait is over or its tree was disconnected."""


class Tree:
    """Represents a connected share. ``io_class`` is None if the share has no disks.

    opens     the opens in the share. An open that is closing stays until nothing of it is at a disk
    creates   the CREATE requests that wait for something
    """

    __slots__ = ("creates", "id", "io_class", "opens", "share")

    def __init__(self, tree_id: int, share: str, io_class: IoClass | None) -> None:
        self.opens: dict[Closable, None] = {}
        self.creates: dict[CreateOfTree, None] = {}
        self.id = tree_id
        self.share = share
        self.io_class = io_class
