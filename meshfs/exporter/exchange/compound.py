"""Handles compounds, which are several requests in one message with their replies in one (MS-SMB2 3.3.5.2.7).

The requests are handled one after the other. Each begins when the request before it was answered. A related request
uses the session, the tree and the file of the request before (3.3.5.2.7.2).

Where the specification leaves a choice, the exporter does as Windows does. Related and unrelated requests may be mixed.
An unrelated request uses the session, tree and file that it names itself. If a request fails and leaves no file to go
on with, the related requests behind it fail with the same status.
"""

from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import ERROR_BODY, Request
from meshfs.exporter.state.peer import Peer
from meshfs.exporter.state.session import Session
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import HEADER_BYTES, Command, Flags, NtStatus

_RELATED: Final = int(Flags.RELATED_OPERATIONS)
_SIGNED: Final = int(Flags.SIGNED)
_ERROR: Final = 0xC0000000
#: Smaller requests and replies are not charged. With all credits of a connection they take at most 2 MiB.
_SMALL_BYTES: Final = 4 * limits.KIB
_NO_FILE: Final = frozenset(
    (
        Command.NEGOTIATE,
        Command.SESSION_SETUP,
        Command.LOGOFF,
        Command.TREE_CONNECT,
        Command.TREE_DISCONNECT,
        Command.ECHO,
        Command.CANCEL,
    )
)


class Compound:
    """Handles one compound. Its replies are sent together after the last. ``serve`` hands a request to its handler."""

    def __init__(self, peer: Peer, head: Message, serve: Callable[[Request], None]) -> None:
        self._peer = peer
        self._serve = serve
        #: The request that is being handled, or that waits for its disk.
        self._current: Request
        self._next: Message | None = head
        self._replies: list[tuple[Request, bytearray]] = []
        self._running = False
        #: The session that was found last. Its key signs the refusal of a request whose own session was not found.
        self.session: Session | None = None
        #: The identifiers that a related request takes over from the request before.
        self._session_id: int | None = None
        self._tree_id: int | None = None
        self.file_id: int | None = None
        #: The status of the request before, if it failed and left no file.
        self._file_status = 0
        self._reply_bytes = 0
        #: The bytes that are charged to the node: the copy of the requests, and the replies that wait for the last one.
        self._charged_bytes = 0
        self._account = peer.usage.memory
        self._charge(_length(head))

    def run(self) -> None:
        """Handle requests until one is not answered at once, or all are answered."""
        if self._running:
            return
        self._running = True
        while self._next is not None and not self._peer.closed and not self._peer.closing:
            message, self._next = self._next, None
            self._current = Request(self._peer, message, self)
            self._serve(self._current)
        self._running = False

    def inherit(self) -> None:
        """Give a related request the session and tree of the request before. Raise StatusError if there are none."""
        request = self._current
        if not request.message.flags & _RELATED:
            self.file_id, self._file_status = None, 0
            return
        if self._session_id is None or self._tree_id is None:
            raise StatusError(NtStatus.INVALID_PARAMETER, "the request before has no session or tree, or there is none")
        message = request.message
        if message.protection and message.session_id != self._session_id:
            # The signature was checked with the key of another session of the connection, or with none.
            message.protection = Protection.SEALED if message.protection == Protection.SEALED else Protection.UNKNOWN
        request.session_id, request.tree_id = self._session_id, self._tree_id

    def related_file(self) -> int:
        """Return the file of the request before. Raise StatusError, with its status if it failed, if it left none."""
        if self._file_status:
            raise StatusError(self._file_status, "the request before failed")
        if self.file_id is None:
            raise StatusError(NtStatus.INVALID_HANDLE, "the request before has no file")
        return self.file_id

    def _failed(self, command: int, status: int) -> None:
        if command == Command.CREATE:
            self.file_id = None
        if self.file_id is None and command not in _NO_FILE:
            self._file_status = status

    def answered(self, reply: bytearray, status: int) -> None:
        """Take the reply to the current request. Then go on with the next request, or send all replies."""
        request = self._current
        message = request.message
        if len(reply) > _SMALL_BYTES and self._reply_bytes + len(reply) > limits.FRAME_MAX_BYTES:
            # The replies together would not fit into a message, and 64 large ones would take half a gigabyte.
            status = NtStatus.INSUFFICIENT_RESOURCES
            reply[8:12] = status.to_bytes(4, "little")
            reply[HEADER_BYTES:] = ERROR_BODY
        self._reply_bytes += len(reply)
        self._charge(len(reply))
        self._replies.append((request, reply))
        if not message.flags & _RELATED or self._session_id is not None:
            known = request.session_id and status != NtStatus.USER_SESSION_DELETED
            self._session_id, self._tree_id = (request.session_id if known else None), request.tree_id
        if request.security is not None:
            self.session = self._peer.sessions.get(request.session_id, self.session)
        if status & _ERROR == _ERROR:
            self._failed(message.command, status)
        self._next = message.next
        if self._next is None:
            self.let_go()
            self._peer.send(_joined(self._replies))
        else:
            self.run()

    # --- memory ------------------------------------------------------------------------

    def _charge(self, more_bytes: int) -> None:
        if more_bytes > _SMALL_BYTES:
            self._charged_bytes += more_bytes
            self._peer.compounds.add(self)
            self._peer.exporter.memory.charge(self._account, more_bytes)

    def let_go(self) -> None:
        """Charge no more for its memory, because the compound was answered or its connection is lost."""
        if self._charged_bytes:
            self._peer.compounds.discard(self)
            self._peer.exporter.memory.charge(self._account, -self._charged_bytes)
            self._charged_bytes = 0


def _length(part: Message | None) -> int:
    total = 0
    while part is not None:
        total += len(part.view)
        part = part.next
    return total


def _joined(replies: list[tuple[Request, bytearray]]) -> bytearray | memoryview:
    """Return the frame with all replies of a compound. Each is signed by itself, or all are sealed together."""
    connection = replies[0][0].peer.connection
    related = len(replies) > 1 and bool(replies[1][0].message.flags & _RELATED)
    for index, (_, message) in enumerate(replies):
        if related and index:
            message[16] |= _RELATED
        if index < len(replies) - 1:
            message.extend(bytes(-len(message) % 8))
            message[20:24] = len(message).to_bytes(4, "little")
    sealer = next((request.security for request, _ in replies if request.seal), None)
    if sealer is None:
        for request, message in replies:
            if message[16] & _SIGNED and request.security is not None:
                connection.sign(message, request.security)
    joined = bytearray().join(message for _, message in replies)
    return connection.protect([joined], None, sealer)
