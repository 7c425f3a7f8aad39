"""One connection, seen from the exporter: messages in, frames out. No I/O.

    received(n)  the bytes a transport put into ``get_buffer()``: handled to the end, queued
                 at a disk, or held when it returns
    out          frames to send, oldest first, each with the pooled memory it lies in

RemoteProtocolError from ``received`` means that the connection is over.
"""

import logging
import math
from collections.abc import Callable

from meshfs import limits
from meshfs.buffers import Buffer
from meshfs.disk.base import DiskRequest
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.exporter.commands import gate
from meshfs.exporter.commands.binding import Bind
from meshfs.exporter.commands.negotiate import negotiate, negotiate_again
from meshfs.exporter.exchange.compound import Compound
from meshfs.exporter.exchange.request import Request, Waiting
from meshfs.exporter.rules.admission import Stage
from meshfs.exporter.rules.node_usage import NodeUsage
from meshfs.exporter.state.exporter import Exporter, LogLimit
from meshfs.exporter.state.session import Session
from meshfs.smb.auth import negotiate_hint
from meshfs.smb.connection import Connection, Message, Role, Smb1Opening
from meshfs.smb.constants import Command, Dialect, Flags, NtStatus
from meshfs.smb.credits import CreditWindow
from meshfs.smb.framing import Frame
from meshfs.smb.messages import NegotiateRequest, filetime
from meshfs.smb.states import CONNECTION, ConnectionState, Event, next_state

logger = logging.getLogger(__name__)

#: Replies that leave in one sendmsg: one end must not wait while the other handles a whole batch.
_OUT_MAX = 2
_OUT_MAX_BYTES = 64 * limits.KIB
# Plain numbers and names: a member of an enum costs a look-up per message.
_CANCEL = int(Command.CANCEL)
_NEGOTIATE = int(Command.NEGOTIATE)
_READY = ConnectionState.READY
_ASYNC = int(Flags.ASYNC_COMMAND)
_CREDITS_MAX = limits.CREDITS_MAX


class Peer:
    """The other end of one connection.

    held             requests wait here, until others are answered (``is_full``), or only for their turn: as long as
                     there are some, the transport receives nothing, and calls ``go_on`` when they may go on
    until_s          when the turn ends, by the processor's clock: what is behind the message under way is held then
    flush            sends ``out`` (the transport's, set by it)
    on_stage         told how far the connection has come towards a login, and that the last session is gone
    on_class_change  told whether the next request is of the class system, when the one before was not, or the other
                     way round; returns whether that request is to be held
    """

    #: The one way from a message to its handler.
    serve = gate.serve

    def __init__(self, exporter: Exporter, remote: str, wall_clock: Callable[[], float]) -> None:
        self.exporter = exporter
        self.remote = remote
        self.connection = Connection(Role.EXPORTER, exporter.pool, limits.FRAME_MAX_UNAUTHENTICATED_BYTES)
        #: What it uses counts as this node's, which has logged in last; as the strangers' before a login.
        self.usage = exporter.usage.strangers
        #: Whether nobody is logged in on it.
        self.is_strangers = True
        self.connection.account = self.usage.memory
        self.get_buffer = self.connection.get_buffer
        self.window = CreditWindow()
        self.state = ConnectionState.NEW
        self.sessions: dict[int, Session] = {}
        #: Binds under way, by the session's id.
        self.binds: dict[int, Bind] = {}
        #: Asynchronous requests, by AsyncId.
        self.waiting: dict[int, Waiting] = {}
        #: Requests that a CANCEL can still end, by message id.
        self.cancellable: dict[int, DiskRequest | Waiting] = {}
        self.cancels = 0
        self.last_async_id = 0
        #: Those that hold memory.
        self.compounds: set[Compound] = set()
        self.out: list[tuple[bytes | bytearray | memoryview, Buffer | None]] = []
        self.dirty = False
        self.held: list[Frame] = []
        #: The first of them as a message, where that was made already.
        self.head: Message | None = None
        self.until_s = math.inf
        #: Whether the last request was of the class system.
        self.system = False
        #: Nothing is received or sent any more.
        self.closed = False
        #: To be closed once ``out`` is sent.
        self.closing = False
        self.flush: Callable[[], None] = _nothing
        self.on_stage: Callable[[Stage], None] = _ignored
        self.on_class_change: Callable[[bool], bool] = _goes_on
        self._wall_clock = wall_clock
        exporter.peers.add(self)

    # --- receiving ---------------------------------------------------------------------

    def received(self, count: int) -> None:
        """Handle what ``count`` new bytes complete. Raises RemoteProtocolError."""
        self._handle(self.connection.split(count))

    @property
    def is_full(self) -> bool:
        """Whether more is worked on than may be at once."""
        return self.window.in_flight > _CREDITS_MAX

    @property
    def has_room(self) -> bool:
        """Whether enough was answered to go on with what is held."""
        return self.window.in_flight <= _CREDITS_MAX // 2

    def go_on(self) -> None:
        """Handle what was held, or the beginning of it. Raises RemoteProtocolError."""
        held, self.held = self.held, []
        self._handle(held)

    def _handle(self, frames: list[Frame]) -> None:
        """One by one: a message is parsed, and its signature looked at, when the one before it was handled."""
        window, exporter, parse = self.window, self.exporter, self.connection.parse
        clock, until_s, system_trees = exporter.processor.clock, self.until_s, exporter.system_trees
        head, self.head = self.head, None
        for index, frame in enumerate(frames):
            if self.closing:
                return
            if window.in_flight > _CREDITS_MAX or (index and clock() >= until_s):
                self.head, self.held = head, frames[index:]
                return
            if head is None:
                message = parse(frame)
                if system_trees and self._changes_class(message):
                    self.head, self.held = message, frames[index:]
                    return
            else:
                message, head = head, None
            if message.command == _CANCEL:
                self._cancel(message)
                continue
            self._take_ids(message)
            if message.command == _NEGOTIATE or self.state is not _READY:
                self._negotiate(message)
            elif message.next is None:
                self.serve(Request(self, message))
            else:
                Compound(self, message).run()

    def _changes_class(self, message: Message) -> bool:
        """Note the class of a request. Returns whether it is another one, and has to wait for a turn of that class.

        It is known from the tree before anything is verified. A request without a tree goes with the one before it.
        """
        tree_id = message.tail >> 32
        if not tree_id or message.flags & _ASYNC:
            return False
        system = (message.session_id << 32 | tree_id) in self.exporter.system_trees
        if system is self.system:
            return False
        self.system = system
        return self.on_class_change(system)

    def _take_ids(self, message: Message) -> None:
        part: Message | None = message
        while part is not None:
            if part.command == _CANCEL:
                raise RemoteProtocolError("CANCEL in a compound")
            if not self.window.take(part.message_id, part.credit_charge):
                raise RemoteProtocolError(
                    f"message id {part.message_id} with charge {part.credit_charge} was not granted"
                )
            part = part.next

    def _negotiate(self, message: Message) -> None:
        """The first message, and only the first, is NEGOTIATE (MS-SMB2 3.3.5.2, 3.3.5.4).

        One that came in SMB 1 does not count (3.3.5.3.1).
        """
        event = Event.NEGOTIATE if message.command == Command.NEGOTIATE else Event.REQUEST
        self.state = next_state(CONNECTION, self.state, event, Role.EXPORTER)
        if message.next is not None:
            raise RemoteProtocolError("NEGOTIATE in a compound")
        request, negotiated, exporter = Request(self, message), self.connection.negotiated, self.exporter
        hint, now = negotiate_hint(), filetime(int(self._wall_clock() * 1e9))
        if isinstance(message, Smb1Opening):
            self.state = next_state(CONNECTION, self.state, Event.AGAIN, Role.EXPORTER)
            reply = negotiate_again(security=exporter.security, guid=exporter.guid, hint=hint, filetime=now)
            request.reply(reply.pack())
            return
        try:
            reply = negotiate(
                NegotiateRequest.unpack(message.body), negotiated, security=exporter.security,
                guid=exporter.guid, hint=hint, filetime=now,
            )  # fmt: skip
        except (StatusError, RemoteProtocolError) as error:
            status = error.status if isinstance(error, StatusError) else NtStatus.INVALID_PARAMETER
            exporter.count("negotiations_refused")
            self.log_warning("NEGOTIATE refused: %s", error)
            self.state = next_state(CONNECTION, self.state, Event.REFUSED, Role.EXPORTER)
            request.fail(status)
            self.closing = True
            return
        self.state = next_state(CONNECTION, self.state, Event.NEGOTIATED, Role.EXPORTER)
        self.on_stage(Stage.NEGOTIATED)
        frame = request.reply(reply.pack())
        if negotiated.dialect is Dialect.SMB_3_1_1 and frame is not None:
            negotiated.preauth.update(message.view)
            negotiated.preauth.update(memoryview(frame)[4:])

    def _cancel(self, message: Message) -> None:
        """CANCEL comes alone, takes no message id, and is no more frequent than what it can mean."""
        self.cancels += 1
        if message.next is not None:
            raise RemoteProtocolError("CANCEL in a compound")
        if self.state is not _READY:
            raise RemoteProtocolError("CANCEL before NEGOTIATE")
        if self.cancels > self.window.used:
            raise RemoteProtocolError(f"{self.cancels} CANCELs, and {self.window.used} message ids were used")
        self.serve(Request(self, message))

    # --- sending -----------------------------------------------------------------------

    def send(self, frame: bytes | bytearray | memoryview, buffer: Buffer | None = None) -> None:
        """Queue a frame; ``buffer`` is released when it is sent, or cannot be."""
        if self.closed:
            if buffer is not None:
                buffer.release()
            return
        self.out.append((frame, buffer))
        if len(self.out) >= _OUT_MAX or len(frame) > _OUT_MAX_BYTES:
            self.flush()
        if not self.dirty:
            self.dirty = True
            self.exporter.mark_dirty(self)

    # --- life --------------------------------------------------------------------------

    def logged_in(self, usage: NodeUsage) -> None:
        """A session of that node is valid: larger frames and more credits from now on."""
        if self.is_strangers:
            self.is_strangers = False
            usage.connections += 1
            self.usage = usage
            self.connection.account = usage.memory
        self.connection.frame_max_bytes = limits.FRAME_MAX_BYTES
        self.window.limit = limits.CREDITS_MAX
        self.window.limit_max = limits.CREDITS_GRANTED_MAX
        self.on_stage(Stage.LOGGED_IN)

    @property
    def logins_under_way(self) -> int:
        return len(self.binds) + sum(not session.user for session in self.sessions.values())

    @property
    def has_all_sessions(self) -> bool:
        """No more are allowed here."""
        return len(self.binds) + len(self.sessions) >= limits.SESSIONS_PER_CONNECTION_MAX

    def end_bind(self, session_id: int) -> None:
        """A bind was granted or refused, if there is one."""
        if self.binds.pop(session_id, None) is not None and (session := self.exporter.sessions.get(session_id)):
            session.binding.discard(self)

    def forget(self, session: Session) -> None:
        """The session is not bound to this connection any more, nor about to be."""
        self.binds.pop(session.id, None)
        self.sessions.pop(session.id, None)
        self.connection.security.pop(session.id, None)
        session.channels.pop(self, None)
        self.login_over()

    def login_over(self) -> None:
        """A login or a bind failed, or a session is gone: without any other, nobody is logged in here.

        Its memory is charged to its last node still: large frames may come, and they must not take the strangers'.
        """
        if not any(other.user for other in self.sessions.values()):
            if not self.is_strangers:
                self.is_strangers = True
                self.usage.connections -= 1
            self.on_stage(Stage.NEGOTIATED)

    def abort(self) -> None:
        """Close without an answer; what was answered before still goes out."""
        if self.closed:
            # Another connection may have its descriptor.
            return
        self.closing = True
        if not self.dirty:
            self.dirty = True
            self.exporter.mark_dirty(self)

    def lost(self) -> None:
        """The transport is gone: end everything that has no other; what is at the disks ends by itself."""
        if self.closed:
            return
        self.closed = True
        self.state = next_state(CONNECTION, self.state, Event.CLOSE, Role.EXPORTER)
        self.exporter.peers.discard(self)
        for waiting in list(self.waiting.values()):
            waiting.end(NtStatus.CANCELLED)
        for session_id in list(self.binds):
            self.end_bind(session_id)
        for session in list(self.sessions.values()):
            self.exporter.unbind(session, self)
        for compound in list(self.compounds):
            compound.let_go()
        for _, buffer in self.out:
            if buffer is not None:
                buffer.release()
        self.out.clear()
        self.connection.close()

    def log_warning(self, text: str, *arguments: object) -> None:
        """A line for what the peer did wrong; a flood of them is held back and counted."""
        self._log(self.exporter.log_limit, logging.WARNING, text, arguments)

    def log_info(self, text: str, *arguments: object) -> None:
        """A line for what the peer did, within a limit of its own: a node may log in over and over."""
        self._log(self.exporter.info_limit, logging.INFO, text, arguments)

    def _log(self, limit: LogLimit, level: int, text: str, arguments: tuple[object, ...]) -> None:
        if not limit.allows(self.exporter.clock()):
            self.exporter.count("log_lines_held_back")
            return
        logger.log(level, "%s: " + text, self.remote, *arguments)

    def protection_text(self, session: Session) -> str:
        negotiated = self.connection.negotiated
        dialect = negotiated.dialect.text if negotiated.dialect is not None else "?"
        how = f"encrypted {negotiated.cipher.text}"
        if not session.encrypt:
            how = f"signing {negotiated.signing_algorithm.text}"
        return f"SMB {dialect}, {how}"


def _nothing() -> None:
    """Nothing is left to do."""


def _ignored(_: Stage) -> None:
    """Nobody wants to know."""


def _goes_on(_: bool) -> bool:
    """Nobody makes it wait."""
    return False
