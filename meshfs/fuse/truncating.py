"""Which opener an open with O_TRUNC belongs to. Pure; time is an argument.

The kernel opens with O_TRUNC in two requests: OPEN without the flag, then SETATTR with the size 0 and without a
file handle (fuse_do_setattr, ATTR_OPEN). Both carry the id of the calling thread, which does nothing in between:
so the SETATTR means the latest open of that thread. A truncate(2) by path looks the same, and means the same
where its thread has the disk open.

Threads of a PID namespace that this process does not see all have the id 0. Where two of them opened the disk
within `limits.FUSE_TRUNCATE_WITHIN_S`, it cannot be told which one truncates, and neither is right: the wrong one
would have its data zeroed, the right one would keep old bytes.
"""

from typing import Generic, TypeVar

from meshfs import limits
from meshfs.errors import MeshfsError

T = TypeVar("T")
_FOREIGN_PID = 0


class Ambiguous(MeshfsError):
    """Two openers whose threads have the same id may be meant."""


class Openers(Generic[T]):
    """The openers of a mount by inode and thread; ``T`` is the caller's, unique among them."""

    def __init__(self) -> None:
        # Openers and when they opened; the latest last.
        self._of: dict[tuple[int, int], list[tuple[T, float]]] = {}

    def opened(self, opener: T, inode: int, pid: int, now: float) -> None:
        self._of.setdefault((inode, pid), []).append((opener, now))

    def released(self, opener: T, inode: int, pid: int) -> None:
        left = [entry for entry in self._of.get((inode, pid), ()) if entry[0] is not opener]
        if left:
            self._of[inode, pid] = left
        else:
            self._of.pop((inode, pid), None)

    def truncating(self, inode: int, pid: int, now: float) -> T | None:
        """Return the opener that a SETATTR without a handle means, None where the thread has none. Raises Ambiguous."""
        openers = self._of.get((inode, pid))
        if not openers:
            return None
        opener, _ = openers[-1]
        if pid == _FOREIGN_PID:
            since_s = now - limits.FUSE_TRUNCATE_WITHIN_S
            if len([each for each, opened_s in openers if opened_s >= since_s]) > 1:
                raise Ambiguous
            # It is done with; another one may open and truncate right after it.
            openers[-1] = (opener, -float("inf"))
        return opener
