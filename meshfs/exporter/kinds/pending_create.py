"""A CREATE that waits for something to end: for I/O at a disk, or for an oplock (MS-SMB2 3.3.4.2, 3.3.5.9).

When that has ended, the CREATE is tried again. It is tried again also when its tree, its session or its disk goes,
because I/O at a disk may never end; it is then refused as a new CREATE would be. A CANCEL ends it at once.

A CREATE in the middle of a compound sends no interim reply, because the replies of a compound leave together.
"""

from abc import ABC, abstractmethod

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.at_create import check_room, check_still_there
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
        """It waits no longer. The caller answers it."""
        if not self._over:
            self._over = True
            self.request.session.holdings.give_back(Resource.WAITING_CREATES)
        self.request.tree.creates.pop(self, None)

    def retry(self) -> None:
        """Try again, because what was in its way has ended or because its tree, session or disk has gone."""
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
        """Call ``end`` and answer, or wait for the next thing in its way. Raises StatusError to have it refused."""
