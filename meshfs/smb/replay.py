"""The nonces that a session has seen, so that an encrypted message cannot be replayed. Pure.

Most peers count their nonces, so the nonces join into few intervals. Nonces that are drawn at random do not join.
``_edges`` holds the begin and the end (exclusive) of each interval, in order:

    seen 1 to 4, and 7     [1, 5, 7, 8]

A nonce was seen if the number of edges at or below it is odd. For example, two edges are at or below 6, so it was not
seen; three are at or below 7, so it was.
"""

from bisect import bisect_right
from collections.abc import Callable


class SeenNonces:
    """Remembers every nonce while at most ``intervals_max`` intervals are enough.

    After that the object is ``full``. It still refuses the nonces that it knows, but a nonce that would need one more
    interval is accepted and not remembered. ``on_full`` is called once, so that the session can reduce itself to one
    channel. Within one channel, the message ids prevent replays.
    """

    __slots__ = ("_edges", "_edges_max", "_next", "full", "on_full")

    def __init__(self, intervals_max: int) -> None:
        self.full = False
        self.on_full: Callable[[], None] = _nobody
        self._edges: list[int] = []
        self._edges_max = 2 * intervals_max
        #: The last edge, which is the highest nonce seen plus 1.
        self._next = -1

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self._edges) // 2

    def add(self, nonce: int) -> bool:
        """Remember the nonce, and return whether it was not seen before."""
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
    """Do nothing. This is the default of ``on_full``."""
