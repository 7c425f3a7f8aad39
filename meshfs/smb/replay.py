"""Which nonces a session has seen. Pure.

The nonces of most peers count, so that they join into few intervals; those that are drawn at random do not.
``_edges`` holds where what was seen begins and ends, in order:

    seen 1..4 and 7     [1, 5, 7, 8]

A number lies in something seen when an odd count of edges is not above it.
"""

from bisect import bisect_right
from collections.abc import Callable


class SeenNonces:
    """Remembers every nonce as long as that takes at most ``intervals_max`` intervals.

    After that it is ``full``: what it knows it goes on to refuse, and what would take one more interval is let
    through and forgotten. ``on_full`` is called once, so that the session can see to it that only one channel is left.
    """

    __slots__ = ("_edges", "_edges_max", "_next", "full", "on_full")

    def __init__(self, intervals_max: int) -> None:
        self.full = False
        self.on_full: Callable[[], None] = _nobody
        self._edges: list[int] = []
        self._edges_max = 2 * intervals_max
        #: The last edge: what follows the highest nonce seen.
        self._next = -1

    def __len__(self) -> int:
        """The number of intervals."""
        return len(self._edges) // 2

    def add(self, nonce: int) -> bool:
        """Whether the nonce was not seen before. It is seen from now on."""
        if nonce == self._next:
            self._next = self._edges[-1] = nonce + 1
            return True
        return self._add_elsewhere(nonce)

    def _add_elsewhere(self, nonce: int) -> bool:
        edges = self._edges
        index = bisect_right(edges, nonce)
        if index % 2:
            return False
        follows = index > 0 and edges[index - 1] == nonce
        precedes = index < len(edges) and edges[index] == nonce + 1
        if follows and precedes:
            del edges[index - 1 : index + 1]
        elif follows:
            edges[index - 1] = nonce + 1
        elif precedes:
            edges[index] = nonce
        elif len(edges) < self._edges_max:
            edges[index:index] = (nonce, nonce + 1)
        elif not self.full:
            self.full = True
            self.on_full()
        self._next = edges[-1]
        return True


def _nobody() -> None:
    """Nobody wants to know."""
