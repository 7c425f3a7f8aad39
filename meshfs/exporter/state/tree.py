"""A tree: the connection of a session to a share (MS-SMB2 3.3.1.9)."""

from collections.abc import Callable
from typing import Protocol

from meshfs.model import IoClass


class OpenOfTree(Protocol):
    """What a tree knows of its opens; `meshfs.exporter.state.open.Open` is the base of all."""

    def close(self, then: Callable[[], object]) -> None:
        """End the open, and call ``then`` when nothing of it is at a disk any more."""


class CreateOfTree(Protocol):
    """A CREATE that waits for something; `meshfs.exporter.kinds.pending_create.PendingCreate` is one."""

    def retry(self) -> None:
        """Try again, as what the CREATE waits for has ended or its tree has gone."""


class Tree:
    """A connected share; ``io_class`` is None where the share has no disks.

    opens     those that are closing are among them until nothing of them is left
    creates   the CREATE requests that wait
    """

    __slots__ = ("creates", "id", "io_class", "opens", "share")

    def __init__(self, tree_id: int, share: str, io_class: IoClass | None) -> None:
        self.opens: dict[OpenOfTree, None] = {}
        self.creates: dict[CreateOfTree, None] = {}
        self.id = tree_id
        self.share = share
        self.io_class = io_class
