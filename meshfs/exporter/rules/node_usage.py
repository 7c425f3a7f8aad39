"""Counts what each node holds of an exporter: connections, sessions, memory, and all that `Holdings` counts. Pure.

Every node has its own part of the connections and sessions, and no node can take the part of another. The size of a
part follows from the number of nodes that may log in. Memory is given back within moments, but connections and sessions
are not. So memory is shared by thresholds instead (memory_budget.py). All strangers together are one more owner of
memory. The connections of strangers are bounded by admission.py.
"""

from collections.abc import Callable, Collection

from meshfs import limits
from meshfs.buffers import Account
from meshfs.exporter.rules.holdings import Holdings


def connections_per_node(nodes: int, descriptors: int) -> int:
    """Return how many connections each of ``nodes`` may have if the process may open ``descriptors`` files."""
    share = max(limits.CONNECTIONS_PER_NODE_MIN, limits.CONNECTIONS_MAX // max(nodes, 1))
    return max(1, min(share, (descriptors - limits.DESCRIPTORS_KEPT) // max(nodes, 1)))


def sessions_per_node(nodes: int) -> int:
    return max(limits.CONNECTIONS_PER_NODE_MIN, limits.SESSIONS_MAX // max(nodes, 1))


class NodeUsage:
    """Holds the usage of one node. ``connections`` and ``sessions`` are those that the node is logged in on."""

    __slots__ = ("connections", "holdings", "memory", "name", "sessions")

    def __init__(self, name: str, on_refusal: Callable[[str], None]) -> None:
        self.name = name
        self.connections = 0
        self.sessions = 0
        self.memory = Account()
        self.holdings = Holdings(name, on_refusal)


class UsageByNode:
    """Holds the usage of all nodes, and the limits of each.

    ``on_refusal`` gets the reason whenever a node is refused something that `Holdings` counts.
    """

    def __init__(self, descriptors: int, nodes: Collection[str], on_refusal: Callable[[str], None]) -> None:
        self._descriptors = descriptors
        self._nodes: dict[str, NodeUsage] = {}
        self._on_refusal = on_refusal
        self.strangers = NodeUsage("", on_refusal)
        self.connections_max = self.sessions_max = 0
        self.configure(nodes)

    def configure(self, nodes: Collection[str]) -> None:
        """Let these nodes log in from now on. A node keeps what it has already."""
        self.connections_max = connections_per_node(len(nodes), self._descriptors)
        self.sessions_max = sessions_per_node(len(nodes))

    def of(self, node: str) -> NodeUsage:
        """Return the usage of the node with that name in the config."""
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = NodeUsage(node, self._on_refusal)
        return found

    def why_no_session(self, node: str, *, replaces: bool, more: bool) -> str:
        """Return why the node may have no further session, or "" if it may.

        ``replaces`` says that another session of the node ends for the new one. ``more`` says that the connection does
        not belong to the node yet.
        """
        usage = self.of(node)
        if usage.sessions - replaces >= self.sessions_max:
            return f"node {node} has {usage.sessions} sessions of at most {self.sessions_max}, and wants one more"
        return self.why_no_connection(node) if more else ""

    def why_no_connection(self, node: str) -> str:
        """Return why the node may have no further connection, or "" if it may."""
        used = self.of(node).connections
        if used < self.connections_max:
            return ""
        return f"node {node} has {used} connections of at most {self.connections_max}, and wants one more"

    def all(self) -> list[NodeUsage]:
        return list(self._nodes.values())
