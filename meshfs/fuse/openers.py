"""Find the opener that a truncation without a file handle belongs to. Pure; time is an argument.

For an open with O_TRUNC, the kernel sends two requests: OPEN without the flag, then SETATTR with the size 0 and without
a file handle (fuse_do_setattr, ATTR_OPEN). Both contain the id of the calling thread. The thread does nothing in
between, so the SETATTR belongs to its latest open of the disk. A truncate(2) by path looks the same. If its thread has
the disk open, it is applied to the latest open as well.

All threads of a PID namespace that this process does not see have the id 0. If two of them opened the disk within
`limits.FUSE_TRUNCATE_WITHIN_S`, nothing shows which of them truncates. With a wrong guess, data of one opener would be
zeroed, and the other opener would keep old bytes. So the truncation is refused (`Ambiguous`).
"""

from typing import Generic, TypeVar

from meshfs import limits
from meshfs.errors import MeshfsError

T = TypeVar("T")
_FOREIGN_PID = 0


class Ambiguous(MeshfsError):
    """The truncation may belong to either of two openers, because their threads have the same id."""


class Openers(Generic[T]):
    """Holds the openers of a mount by inode and thread. Two openers are the same only if they are the same object."""

    def __init__(self) -> None:
        # Each opener with the time of its open, the latest one last.
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
        """Return the opener that a SETATTR without a handle belongs to, or None if the thread has none.

        Raises Ambiguous.
        """
        openers = self._of.get((inode, pid))
        if not openers:
            return None
        opener, _ = openers[-1]
        if pid == _FOREIGN_PID:
            since_s = now - limits.FUSE_TRUNCATE_WITHIN_S
            if len([each for each, opened_s in openers if opened_s >= since_s]) > 1:
                raise Ambiguous
            # This open has had its truncation. It must not make that of a further open ambiguous.
            openers[-1] = (opener, -float("inf"))
        return opener
