"""Describes one request on its way through the exporter, and makes its reply.

There is one request per message. It is answered exactly once (`reply`, `fail`), at once or when its disk has answered.
LOCK and CHANGE_NOTIFY that wait for an event, and long zeroings, go asynchronous first (MS-SMB2 3.3.4.2, 3.3.4.3).

A reply is protected as its request was (3.3.4.1.1, 3.3.4.1.4), so the reply to an unsigned request is not signed. If an
attacker removed the signature of a request, the initiator drops the unsigned reply. A signed refusal would reach its
application as an error. Interim replies are not signed, because they share the message id with the final reply, and an
AES-GMAC nonce must not be used twice.
"""

import logging
from typing import Final, Protocol

from meshfs import bugs, limits
from meshfs.disk.base import DiskRequest
from meshfs.errors import ForgedMessage, LocalProtocolError, StatusError
from meshfs.exporter.state.open import Open
from meshfs.exporter.state.peer import Peer, Pending
from meshfs.exporter.state.session import Session
from meshfs.exporter.state.tree import Tree
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import Command, Flags, NtStatus
from meshfs.smb.credits import charge_covers
from meshfs.smb.messages import ErrorResponse
from meshfs.smb.security import ChannelSecurity
from meshfs.smb.wire import pack_header

logger = logging.getLogger(__name__)

ERROR_BODY: Final = ErrorResponse().pack()
_RESPONSE: Final = int(Flags.SERVER_TO_REDIR)
_SIGNED: Final = int(Flags.SIGNED)
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_RELATED: Final = int(Flags.RELATED_OPERATIONS)
_SIGNED_WELL: Final = Protection.SIGNED
_SEALED: Final = Protection.SEALED
_BELIEVED_UNSIGNED: Final = frozenset(
    (int(NtStatus.USER_SESSION_DELETED), int(NtStatus.REQUEST_OUT_OF_SEQUENCE), int(NtStatus.NOT_SUPPORTED))
)


class Chain(Protocol):
    """Stands for the compound of a request. A compound has one current request at a time.

    file_id   the file that the current request names, and which a related request after it uses
    session   the session of the requests before, if one was found
    """

    file_id: int | None
    session: Session | None

    def inherit(self) -> None:
        """Give a related request the session and tree of the request before. Raise StatusError if there are none."""

    def related_file(self) -> int:
        """Return the file of the request before. Raise StatusError, with its status if it failed, if it left none."""

    def answered(self, reply: bytearray, status: int) -> None:
        """Take the reply to the current request. Then go on with the next request, or send all replies."""


class Request:
    """Represents one request. ``session``, ``tree`` and ``open`` are set when found, ``answered`` by the reply."""

    __slots__ = (
        "answered",
        "async_id",
        "compound",
        "message",
        "open",
        "peer",
        "seal",
        "security",
        "session",
        "session_id",
        "sign",
        "tree",
        "tree_id",
    )
    session: Session
    tree: Tree
    open: Open
    answered: bool

    def __init__(self, peer: Peer, message: Message, compound: Chain | None = None) -> None:
        self.peer = peer
        self.message = message
        self.compound = compound
        self.session_id = message.session_id
        self.tree_id = 0 if message.flags & _ASYNC else message.tail >> 32
        self.security: ChannelSecurity | None = None
        self.sign = False
        self.seal = False
        self.async_id = 0

    def fault(self, done: DiskRequest, error: Exception) -> None:
        """End the connection of this request, and no other, because an internal error prevented the answer."""
        bugs.report(logger, f"{done.op.name}, after the answer of disk {self.open.name},", error)
        self.open.answered(done)
        self.peer.abort()

    def check_charge(self, payload_bytes: int) -> None:
        """Check that the CreditCharge of the request covers its payload (3.3.5.2.5). Raise StatusError if not."""
        if payload_bytes > limits.TRANSACT_SIZE_MAX_BYTES or not charge_covers(
            self.message.credit_charge, payload_bytes
        ):
            raise StatusError(NtStatus.INVALID_PARAMETER, f"the CreditCharge does not cover {payload_bytes} bytes")

    def protect_by(self, session: Session) -> None:
        """Check that the request is protected as the session demands, and have its reply protected in the same way.

        Raises StatusError ACCESS_DENIED if it is not (3.3.5.2.4, 3.3.5.2.9, 3.3.5.2.11), and ForgedMessage if the
        signature is wrong.
        """
        protection = self.message.protection
        self.security = session.channels.get(self.peer)
        if protection is _SIGNED_WELL and not session.encrypt:
            self.sign = True
        elif protection is _SEALED:
            self.seal = True
        else:
            self._protect_plain(session, protection)

    def _protect_plain(self, session: Session, protection: Protection) -> None:
        """Do `protect_by` for a message in the clear that lacks a right signature, or whose session encrypts."""
        message, security = self.message, self.security
        if protection == Protection.UNKNOWN and security is not None:
            # A related request need not repeat the session's id, by which the key of a signature is found.
            protection = self.peer.connection.check(message, security)
        if protection == Protection.BAD:
            raise ForgedMessage(f"{command_name(message.command)} with a wrong signature")
        self.sign = protection == Protection.SIGNED
        if session.encrypt:
            if message.command != Command.SESSION_SETUP:
                # The refusal is not sealed, because a peer that does not seal could not read it.
                raise StatusError(NtStatus.ACCESS_DENIED, "the session is encrypted, and the request is not")
            self.seal = self.sign
        if session.signing_required and not self.sign:
            raise StatusError(NtStatus.ACCESS_DENIED, "the session demands signatures, and the request is not signed")

    def reply(self, body: bytes, status: int = 0) -> bytearray | memoryview | None:
        """Answer the request. Return the frame that is sent, or None if the reply has no frame of its own.

        Raises LocalProtocolError, which ends the connection, if the request was answered before. A second answer would
        be another message under the same message id, which is the nonce of AES-GMAC.
        """
        if self.async_id:
            self.peer.waiting.pop(self.async_id, None)
            self.peer.cancellable.pop(self.message.message_id, None)
        if self.peer.closed:
            return None
        if hasattr(self, "answered"):
            raise LocalProtocolError(f"a second answer to {command_name(self.message.command)}")
        self.answered = True
        if self.compound is not None:
            self.compound.answered(self.packed(body, status), status)
            return None
        frame = self.frame(body, status)
        self.peer.send(frame)
        return frame

    def fail(self, status: int, data: bytes = b"") -> None:
        """Answer the request with an error, and with ``data`` if the status has some."""
        self.reply(ErrorResponse(data).pack() if data else ERROR_BODY, status)

    def frame(self, body: bytes, status: int) -> bytearray | memoryview:
        """Return the reply as a frame of its own, signed or sealed."""
        message, connection = self.packed(body, status), self.peer.connection
        if self.seal:
            return connection.protect([message], None, self.security)
        return connection.protect([message], self.security if self.signs(status) else None, None)

    def packed(self, body: bytes, status: int) -> bytearray:
        """Return header and body of the reply, without protection. This takes the credits that the reply grants."""
        message = self.message
        # The interim reply granted the credits of an asynchronous request.
        final = self.async_id and status != NtStatus.PENDING
        credits = 0 if final else self.peer.window.grant(message.credits, message.credit_charge)
        flags = _RESPONSE | (_ASYNC if self.async_id else 0) | (_SIGNED if self.signs(status) else 0)
        if self.security is None and (status in _BELIEVED_UNSIGNED or message.protection == Protection.BAD):
            # There is no key to sign with, or none for a login whose own signature is wrong. A client that demands
            # signatures accepts these statuses unsigned if the flag is set. Windows sets the flag, and Samba's client
            # checks it.
            flags |= message.flags & _SIGNED
        header = pack_header(
            message.command,
            status=status,
            flags=flags,
            credits=credits,
            credit_charge=message.credit_charge,
            message_id=message.message_id,
            tree_id=self.tree_id,
            async_id=self.async_id or None,
            session_id=self.session_id,
        )
        return bytearray(header + body)

    def signs(self, status: int) -> bool:
        """Return whether a reply of that status is signed."""
        return self.sign and not self.seal and status != NtStatus.PENDING

    @property
    def is_last(self) -> bool:
        """Return whether no other request of its compound follows."""
        return self.message.next is None

    @property
    def names_session(self) -> bool:
        """Return whether the request claims to be of a session, by the session's id or by a signature."""
        return bool(self.session_id or self.message.flags & _SIGNED)

    @property
    def may_wait(self) -> bool:
        """Return whether the connection has room for another asynchronous request."""
        return len(self.peer.waiting) < limits.ASYNC_PER_CONNECTION_MAX

    def go_asynchronous(self, waiting: Pending) -> None:
        """Send the interim reply. From then on, a CANCEL or the end of the connection calls ``waiting.end``."""
        peer = self.peer
        peer.last_async_id += 1
        self.async_id = peer.last_async_id
        peer.waiting[self.async_id] = peer.cancellable[self.message.message_id] = waiting
        compound, self.compound = self.compound, None
        if compound is not None:
            compound.answered(self.packed(ERROR_BODY, NtStatus.PENDING), NtStatus.PENDING)
        else:
            peer.send(self.frame(ERROR_BODY, NtStatus.PENDING))


def command_name(command: int) -> str:
    """Return the name of a command for logs, also of a command that does not exist."""
    try:
        return Command(command).name
    except ValueError:
        return f"command {command}"
