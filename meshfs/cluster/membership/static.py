"""The nodes of the config file."""

from collections.abc import AsyncIterator

from meshfs.cluster.config import Config, Node


class StaticMembership:
    """Never changes: a file that was read once says nothing new."""

    def __init__(self, config: Config) -> None:
        self._nodes = config.nodes

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self._nodes

    async def changes(self) -> AsyncIterator[tuple[Node, ...]]:
        never: tuple[tuple[Node, ...], ...] = ()
        for nodes in never:
            yield nodes
