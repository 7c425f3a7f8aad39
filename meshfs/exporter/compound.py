"""Compounds: several requests in one frame, several replies in one (MS-SMB2 3.3.5.2.7).

Requests are handled one after the other, each when the one before is answered. Related ones
use the session, tree and file of the one before (3.3.5.2.7.2).
"""

from typing import TYPE_CHECKING, Final

from meshfs.errors import StatusError
from meshfs.exporter.request import Request, chain
from meshfs.smb.connection import Message
from meshfs.smb.constants import Command, Flags, NtStatus

if TYPE_CHECKING:
    from meshfs.exporter.peer import Peer

_RELATED: Final = int(Flags.RELATED_OPERATIONS)
_ERROR: Final = 0xC0000000
_NO_FILE: Final = frozenset(
    (Command.NEGOTIATE, Command.SESSION_SETUP, Command.LOGOFF, Command.TREE_CONNECT, Command.TREE_DISCONNECT,
     Command.ECHO, Command.CANCEL)
)  # fmt: skip


class Compound:
    """Its replies leave together when the last is there."""

    def __init__(self, peer: "Peer", head: Message) -> None:
        self._peer = peer
        self._next: Message | None = head
        self._first = head
        self._replies: list[tuple[Request, bytearray]] = []
        self._running = False
        self._broken = _styles_mixed(head)
        #: What a related request takes over: the identifiers of the one before ...
        self._session_id: int | None = None
        self._tree_id: int | None = None
        self.file_id: int | None = None
        #: ... and its error, if it had to do with a file and failed.
        self.file_status = 0

    def is_last(self, request: Request) -> bool:
        return request.message.next is None

    def run(self) -> None:
        """Handle requests until one does not answer at once, or all are answered."""
        if self._running:
            return
        self._running = True
        while self._next is not None and not self._peer.closed:
            message, self._next = self._next, None
            self._peer.serve(Request(self._peer, message, self))
        self._running = False

    def inherit(self, request: Request) -> None:
        """Put the identifiers in force into ``request``. Raises StatusError."""
        if self._broken:
            raise StatusError(NtStatus.INVALID_PARAMETER, "compound whose related requests are out of place")
        message = request.message
        if not message.flags & _RELATED:
            self.file_id, self.file_status = None, 0
        elif message is self._first:
            self._broken = True
            raise StatusError(NtStatus.INVALID_PARAMETER, "the first request of a compound is marked as related")
        else:
            if self._session_id is None or self._tree_id is None:
                raise StatusError(NtStatus.INVALID_PARAMETER, "the request before has no session or tree")
            request.session_id, request.tree_id = self._session_id, self._tree_id

    def related_file(self) -> int:
        """The file of the request before. Raises StatusError as that one failed, if it did."""
        if self.file_status:
            raise StatusError(self.file_status, "the request before failed")
        if self.file_id is None:
            raise StatusError(NtStatus.INVALID_HANDLE, "the request before has no file")
        return self.file_id

    def answered(self, request: Request, reply: bytearray, status: int) -> None:
        message = request.message
        self._replies.append((request, reply))
        self._session_id, self._tree_id = request.session_id, request.tree_id
        if message.command not in _NO_FILE and status & _ERROR == _ERROR:
            self.file_status = status
        self._next = message.next
        if self._next is None:
            self._peer.send(chain(self._replies))
        else:
            self.run()


def _styles_mixed(head: Message) -> bool:
    """Whether some, but not all, of those behind the first are related."""
    styles = set()
    message = head.next
    while message is not None:
        styles.add(message.flags & _RELATED)
        message = message.next
    return len(styles) > 1
