"""A CREATE that waits for something to end: I/O at a disk, or an oplock (MS-SMB2 3.3.4.2, 3.3.5.9).

It is answered when that has ended, when it is cancelled, and also when what it was asked of goes: its tree, its
session, or the disk, which may have I/O that never ends. Then it tries again, and is refused as a new one would be.

In the middle of a compound it waits without an interim reply: the replies leave together.
"""

from abc import ABC, abstractmethod

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.created import check_room, check_still_there
from meshfs.exporter.rules.holdings import Resource


class PendingCreate(ABC):
    """Its tree has it in ``creates`` while it waits."""

    __slots__ = ("_over", "request")

    def __init__(self, request: Request) -> None:
        """Raises StatusError where too many requests of the connection wait, or too many CREATEs of its node."""
        self.request = request
        self._over = False
        request.session.holdings.take_for(self._wait, Resource.WAITING_CREATES)
        request.tree.creates[self] = None

    def _wait(self) -> None:
        request = self.request
        if request.is_last:
            wait(request, self.end)

    def end(self) -> None:
        """It waits no longer, and is answered by whoever calls this."""
        if not self._over:
            self._over = True
            self.request.session.holdings.give_back(Resource.WAITING_CREATES)
        self.request.tree.creates.pop(self, None)

    def retry(self) -> None:
        """What was in its way has ended, or what it was asked of has gone."""
        if self._over:
            return
        if self.request.peer.closed:
            self.end()
            return
        try:
            check_still_there(self.request)
            check_room(self.request.session)
            self._try()
        except StatusError as error:
            self.end()
            self.request.fail(error.status)

    @abstractmethod
    def _try(self) -> None:
        """Call ``end`` and answer it, or wait for the next thing in its way. Raises StatusError."""
