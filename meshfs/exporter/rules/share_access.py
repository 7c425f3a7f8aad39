"""Share access: which opens of one disk or file may exist at the same time (MS-FSA 2.1.5.1.2.2). Pure.

An open says what it does (reads, writes, deletes) and which of these it lets others do meanwhile. A new open has to fit
every other open. So it is enough to count how many opens do each of the three, and how many forbid each of them:

    open A: reads,  shares reading               reading: 1   forbid writing: 1   forbid deleting: 1
    a new open that writes                       is refused, because an open forbids writing
    a new open that reads and shares nothing     is refused, because an open reads

Opens of attributes only exclude no other open and are excluded by none. They are not counted.
"""

from typing import Final

from meshfs.smb.constants import AccessMask, ShareAccess

READS: Final = int(AccessMask.READ_DATA | AccessMask.EXECUTE)
WRITES: Final = int(AccessMask.WRITE_DATA | AccessMask.APPEND_DATA)
_DELETES: Final = int(AccessMask.DELETE)
_DATA: Final = READS | WRITES | _DELETES
#: Each kind of access to data, and the bit by which an open lets others have the same access.
_KINDS: Final = (
    (READS, int(ShareAccess.READ)),
    (WRITES, int(ShareAccess.WRITE)),
    (_DELETES, int(ShareAccess.DELETE)),
)


class ShareCounts:
    """Counts the opens of one disk or file."""

    __slots__ = ("_does", "_forbids")

    def __init__(self) -> None:
        self._does = [0, 0, 0]
        self._forbids = [0, 0, 0]

    def conflicts(self, access: int, share: int) -> bool:
        """Return whether an open (access, share) cannot exist beside the counted opens."""
        if not access & _DATA:
            return False
        for index, (does, shares) in enumerate(_KINDS):
            if access & does and self._forbids[index]:
                return True
            if not share & shares and self._does[index]:
                return True
        return False

    def add(self, access: int, share: int) -> None:
        self._count(access, share, 1)

    def remove(self, access: int, share: int) -> None:
        """Count one open less. It was added with the same access and share."""
        self._count(access, share, -1)

    def _count(self, access: int, share: int, step: int) -> None:
        if not access & _DATA:
            return
        for index, (does, shares) in enumerate(_KINDS):
            if access & does:
                self._does[index] += step
            if not share & shares:
                self._forbids[index] += step
