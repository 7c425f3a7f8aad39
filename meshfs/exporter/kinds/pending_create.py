"""Keeps a CREATE that waits for the end of I/O at a disk, or of an oplock (MS-SMB2 3.3.4.2, 3.3.5.9).

When the I/O or the oplock has ended, the CREATE is tried again. It is also tried again when its tree or session has
ended or its disk is gone, because I/O at a disk may never end. Then it is refused as a new CREATE would be. A CANCEL
ends the CREATE at once.

A CREATE in the middle of a compound sends no interim reply, because the replies of a compound are sent together.
"""

from abc import ABC, abstractmethod

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.at_create import check_room, check_still_there
from meshfs.exporter.rules.holdings import Resource


class PendingCreate(ABC):
    """Represents a CREATE that waits. While it waits, it is among the ``creates`` of its tree."""

    __slots__ = ("_over", "request")

    def __init__(self, request: Request) -> None:
        """Begin to wait. Raise StatusError if too many requests of the connection, or CREATEs of the node, wait."""
        self.request = request
        self._over = False
        request.session.holdings.take_for(self._wait, Resource.WAITING_CREATES)
        request.tree.creates[self] = None

    def _wait(self) -> None:
        request = self.request
        if request.is_last:
            wait(request, self.end)

    def end(self) -> None:
        """Wait no longer. The caller answers the CREATE."""
        if not self._over:
            self._over = True
            self.request.session.holdings.give_back(Resource.WAITING_CREATES)
        self.request.tree.creates.pop(self, None)

    def retry(self) -> None:
        """Try the CREATE again, because its wait is over, its tree or session has ended, or its disk is gone."""
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
        """Call ``end`` and answer, or wait for the next reason. Raise StatusError to have the CREATE refused."""
