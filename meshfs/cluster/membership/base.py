"""Which nodes the cluster has: asked by the composition roots, answered by a file or a service."""

from collections.abc import AsyncIterator
from typing import Protocol

from meshfs.cluster.config import Node


class Membership(Protocol):
    """A source of the cluster's nodes."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes as they are known now."""

    def changes(self) -> AsyncIterator[tuple[Node, ...]]:
        """The nodes after each change; ends when there can be no further one."""
